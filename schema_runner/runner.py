"""Test runners that give every worker a schema of its own."""

import multiprocessing
import unittest
from argparse import ArgumentParser
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import django
from django.core.management import CommandError
from django.test.runner import DiscoverRunner, ParallelTestSuite
from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from .arranging import ArrangingMixin
from .backend.mirrors import refuse_mirrors_of_nothing
from .backend.sessions import disconnect
from .closing import ClosingMixin
from .errors import SchemaRunnerError
from .execution import marks
from .execution.suite import SchemaParallelTestSuite
from .execution.termination import Termination
from .execution.watch import Unwatched
from .execution.worker import set_up_worker
from .options import Options, add_options
from .reporting.command import Command
from .settings import Settings

if TYPE_CHECKING:
    Base = DiscoverRunner
else:
    Base = object


class SchemaRunnerMixin(ClosingMixin, ArrangingMixin, Base):
    """Per-worker schemas for a DiscoverRunner: put it before the runner class you have."""

    parallel_test_suite = SchemaParallelTestSuite

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have a suite that another base brings along run as ours do."""
        super().__init_subclass__(**kwargs)
        wanted: Any = cls.parallel_test_suite
        if wanted is SchemaParallelTestSuite:
            wanted = getattr(super(), "parallel_test_suite", wanted)
        if wanted is ParallelTestSuite:
            wanted = SchemaParallelTestSuite
        elif not issubclass(wanted, SchemaParallelTestSuite):
            wanted = type(wanted.__name__, (SchemaParallelTestSuite, wanted), {})
        cls.parallel_test_suite = wanted

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._options = Options.take(kwargs)
        self._command = Command.of_run(kwargs, self._options)
        try:
            super().__init__(*args, **kwargs)
        except ValueError as error:
            if not kwargs.get("pdb"):
                raise
            # Stock Django's, for --pdb with --parallel; it says what to do.
            raise CommandError(str(error)) from error
        _avoid_forkserver()
        self.no_migrations = self._options.no_migrations
        self._has_workers = self._has_own_databases = False
        self._termination = Termination()
        try:
            self._settings = Settings.read(**self._options.for_settings)
        except SchemaRunnerError as error:
            raise _command_error(error) from error

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        add_options(parser)

    def run_tests(self, test_labels: Any, **kwargs: Any) -> int:
        with self._termination:
            return super().run_tests(test_labels, **kwargs)

    def build_suite(self, test_labels: Any = None, **kwargs: Any) -> Any:
        suite = super().build_suite(test_labels, **kwargs)
        self._has_workers = isinstance(suite, SchemaParallelTestSuite)
        names = self._settings.own_database
        self._sizes = Counter(map(type, iter_test_cases(suite)))
        self._has_own_databases = any(marks.needs_own_database(one, names) for one in self._sizes)
        if isinstance(suite, SchemaParallelTestSuite):
            suite.settings = self._settings
            suite.keepdb = self.keepdb
            suite.observers = self.observers
            suite.log = self.log
            suite.command = self._command.with_tests
            suite.diagnoses = self._options.diagnose
        return suite

    def setup_databases(self, **kwargs: Any) -> Any:
        self._installed, aliases = ExitStack(), kwargs.get("aliases")
        try:
            # Tests that use no database need nothing of what makes one.
            if aliases is None or aliases:
                refuse_mirrors_of_nothing(aliases)
                self._install()
            with self._timed("set_up"):
                old_config = super().setup_databases(**kwargs)
        except BaseException as error:
            with self._termination.after_cleaning_up(self.log):
                self._clean_up()
            if isinstance(error, SchemaRunnerError):
                raise _command_error(error) from error
            raise
        if self.parallel <= 1:
            try:
                if self._workspace is not None:
                    from .backend.programs import programs

                    programs.lead()
                set_up_worker(self._settings)
            except BaseException:
                self.teardown_databases(old_config)
                raise
        return old_config

    def _install(self) -> None:
        from .backend.installation import install, migrations_switched_off
        from .postgres import locks
        from .workspace import Workspace

        workspace = Workspace(workers=max(self.parallel, 1), keeps=self.keepdb, log=self.log)
        self._workspace = workspace
        watching = {}
        if self._settings.host_database == "current":
            watching["comparisons"] = self._watch_outside().comparisons
        self._installed = install(
            workspace=workspace,
            runner_settings=self._settings,
            has_own_databases=self._has_own_databases,
            **watching,
        )
        patience = locks.Patience(self._settings.lock_timeout, self.log)
        self._installed.callback(locks.wait_with, locks.wait_with(patience))
        self._installed.callback(workspace.close)
        if self.no_migrations:
            self._installed.enter_context(migrations_switched_off())

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        watch = self._workspace.watch() if self._workspace else Unwatched()
        if not self._has_workers and isinstance(suite, unittest.TestSuite):
            from .execution.limited import limited

            suite = limited(
                suite,
                self._settings.own_database,
                time_limit=self._settings.test_timeout,
                has_limits=not self.pdb,
                observers=self.observers,
                watch=watch,
            )
        elif isinstance(suite, SchemaParallelTestSuite):
            suite.watch = watch
        with self._termination.after_the_test_under_way():
            return super().run_suite(suite, **kwargs)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        with self._timed("tear_down"), self._termination.after_cleaning_up(self.log):
            try:
                super().teardown_databases(old_config, **kwargs)
            finally:
                self._clean_up()
                self._tell_outside()

    def _clean_up(self) -> None:
        with self._installed:
            disconnect()


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
