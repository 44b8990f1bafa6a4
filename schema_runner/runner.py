"""Test runners that give every worker a schema of its own."""

import multiprocessing
from argparse import ArgumentError, ArgumentParser
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import django
from django.core.management import CommandError
from django.test.runner import DiscoverRunner

from .backend.creation import disconnect
from .backend.installation import install, migrations_switched_off
from .errors import SchemaRunnerError
from .execution.suite import SchemaParallelTestSuite
from .execution.worker import set_up_worker
from .settings import CHOICES, Settings
from .workspace import Workspace

if TYPE_CHECKING:
    Base = DiscoverRunner
else:
    Base = object


class SchemaRunnerMixin(Base):
    """Per-worker schemas for a DiscoverRunner: put it before the runner class you have."""

    parallel_test_suite = SchemaParallelTestSuite

    def __init__(
        self,
        *args: Any,
        no_migrations: bool = False,
        isolation: str | None = None,
        host_database: str | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(*args, **kwargs)
        except ValueError as error:
            if not kwargs.get("pdb"):
                raise
            # Stock Django's, for --pdb with --parallel; it says what to do.
            raise CommandError(str(error)) from error
        _avoid_forkserver()
        self.no_migrations = no_migrations
        try:
            self._settings = Settings.read(isolation=isolation, host_database=host_database)
        except SchemaRunnerError as error:
            raise _command_error(error) from error

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        # A runner that has this flag already keeps its own.
        with suppress(ArgumentError):
            parser.add_argument(
                "--no-migrations",
                action="store_true",
                help='Makes the tables from the models, as TEST["MIGRATE"] = False does.',
            )
        parser.add_argument(
            "--isolation",
            choices=CHOICES["ISOLATION"],
            help="Gives each worker a schema (default), or a clone database as stock Django does.",
        )
        parser.add_argument(
            "--host-database",
            choices=CHOICES["HOST_DATABASE"],
            help="Makes the schemas in a database of their own (test, the default), or in the "
            "project's database, beside what is there (current).",
        )

    def setup_databases(self, **kwargs: Any) -> Any:
        self._workspace = Workspace(workers=max(self.parallel, 1), log=self.log)
        self._installed = install(workspace=self._workspace, runner_settings=self._settings)
        if self.no_migrations:
            self._installed.enter_context(migrations_switched_off())
        try:
            old_config = super().setup_databases(**kwargs)
        except BaseException as error:
            self._clean_up()
            if isinstance(error, SchemaRunnerError):
                raise _command_error(error) from error
            raise
        if self.parallel <= 1:
            try:
                set_up_worker(self._settings)
            except BaseException:
                self.teardown_databases(old_config)
                raise
        return old_config

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        try:
            super().teardown_databases(old_config, **kwargs)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        with self._installed:
            disconnect()
            self._workspace.close()


class SchemaDiscoverRunner(SchemaRunnerMixin, DiscoverRunner):
    """Stock Django's runner with a schema for every worker."""


def _command_error(error: SchemaRunnerError) -> CommandError:
    return CommandError(str(error), returncode=error.exit_code)


def _avoid_forkserver() -> None:
    # Django 5.2 hangs under forkserver, which Python 3.14 made the default on Linux. Fork is what
    # it was before. Can go with Django 5.2.
    if django.VERSION < (6, 0):
        # Asked for without this argument, the default would be settled, and tests that choose
        # another method would fail.
        chosen = multiprocessing.get_start_method(allow_none=True)
        if (chosen or multiprocessing.get_all_start_methods()[0]) == "forkserver":
            multiprocessing.set_start_method("fork", force=True)
