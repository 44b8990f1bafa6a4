"""Test runners that give every worker its own schema."""

import gc
import multiprocessing
import unittest
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

import django
from django.core.management import CommandError
from django.test.runner import DiscoverRunner, ParallelTestSuite
from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from . import decorators
from .connections import disconnect, refuse_unsafe_mirrors
from .errors import NO_LIBPQ, SchemaRunnerError, lacks_libpq
from .options import Options, add_options
from .reporting.rerun_command import RerunCommand
from .run_summary import RunSummaryMixin
from .settings import Settings
from .suite import SchemaParallelTestSuite
from .suite_selection import SuiteSelectionMixin
from .workers.current import set_up_worker
from .workers.lease_check import NoLeases
from .workers.sigterm import RunSignals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .settings import Problem

    Base = DiscoverRunner
else:
    Base = object


class SchemaRunnerMixin(RunSummaryMixin, SuiteSelectionMixin, Base):
    """Adds a schema for each worker to a DiscoverRunner class; list it first among the bases."""

    parallel_test_suite = SchemaParallelTestSuite

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Combine another `parallel_test_suite`, if any, with SchemaParallelTestSuite.

        Raises TypeError if another runner comes before SchemaRunnerMixin.
        """
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[: cls.__mro__.index(SchemaRunnerMixin)]:
            if issubclass(base, DiscoverRunner) and not issubclass(base, SchemaRunnerMixin):
                raise TypeError(
                    f"SchemaRunnerMixin must come before other runners. Write "
                    f"class {cls.__name__}(SchemaRunnerMixin, {base.__name__})."
                )
        suite_class: Any = cls.parallel_test_suite
        if suite_class is SchemaParallelTestSuite:
            suite_class = getattr(super(), "parallel_test_suite", suite_class)
        if suite_class is ParallelTestSuite:
            suite_class = SchemaParallelTestSuite
        elif not issubclass(suite_class, SchemaParallelTestSuite):
            suite_class = type(suite_class.__name__, (SchemaParallelTestSuite, suite_class), {})
        cls.parallel_test_suite = suite_class

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._command = RerunCommand(type(self), kwargs)
        self._options = Options.take(kwargs)
        try:
            super().__init__(*args, **kwargs)
        except ValueError as error:
            if not kwargs.get("pdb"):
                raise
            # Django's error for --pdb with --parallel: show it without a traceback.
            raise CommandError(str(error)) from error
        _avoid_forkserver()
        self.no_migrations = self._options.no_migrations
        self._has_workers = self._has_own_databases = False
        self._signals = RunSignals(
            lambda: len(self._tally.under_way), is_silent=self.verbosity < 1
        )
        try:
            # An explicit keepdb=False overrides the setting KEEP. Django's default does not.
            keeps = self.keepdb or kwargs.get("keepdb")
            self._settings = Settings.read(keep=keeps, **self._options.for_settings)
            self.keepdb = self._settings.keep
        except SchemaRunnerError as error:
            raise _command_error(error) from error

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        if not issubclass(cls, DiscoverRunner):
            parser.error(
                f"{cls.__name__} is not a test runner by itself. Use TEST_RUNNER = "
                f'"schema_runner.SchemaDiscoverRunner", or a subclass of both '
                f"{cls.__name__} and DiscoverRunner, in this order."
            )
        super().add_arguments(parser)
        add_options(parser)

    def run_tests(self, test_labels: Any, **kwargs: Any) -> int:
        with self._signals:
            return super().run_tests(test_labels, **kwargs)

    def setup_test_environment(self, **kwargs: Any) -> None:
        with self._signals.replacing_interrupt_handler():
            super().setup_test_environment(**kwargs)

    def teardown_test_environment(self, **kwargs: Any) -> None:
        with self._signals.keeping_interrupt_handler():
            super().teardown_test_environment(**kwargs)

    def build_suite(self, test_labels: Any = None, **kwargs: Any) -> Any:
        with self._signals.interruptible_imports():
            suite = super().build_suite(test_labels, **kwargs)
        self._has_workers = isinstance(suite, SchemaParallelTestSuite)
        names = self._settings.own_database
        self._sizes = Counter(map(type, iter_test_cases(suite)))
        self._has_own_databases = any(
            decorators.needs_own_database(one, names) for one in self._sizes
        )
        if isinstance(suite, SchemaParallelTestSuite):
            suite.settings = self._settings
            suite.keepdb = self.keepdb
            suite.observers = self.observers
            suite.log = self.log
            suite.command = partial(self._command.with_tests, labels=test_labels or ())
            suite.diagnoses = self._options.diagnose
            suite.signals = self._signals
            suite.lines = self._lines
            suite.shows_flaky = self.verbosity > 0 or self._options.fail_on_flaky
        return suite

    def load_tests_for_label(self, *args: Any, **kwargs: Any) -> Any:
        tests = super().load_tests_for_label(*args, **kwargs)
        # End an aborted run before Django prints the number of tests.
        self._signals.check()
        return tests

    def setup_databases(self, **kwargs: Any) -> Any:
        self._installed, aliases = ExitStack(), kwargs.get("aliases")
        uses_databases = aliases is None or bool(aliases)
        try:
            if uses_databases:
                refuse_unsafe_mirrors(aliases)
                self._install()
            if self._options.clear_pools:
                self._clear_pools(aliases)
            with self._timed("set_up"):
                set_up: Any = super().setup_databases
                # Without aliases, Django's method would only read HOST, which starts an embedded
                # server.
                is_stock = set_up == MethodType(DiscoverRunner.setup_databases, self)
                old_config = set_up(**kwargs) if uses_databases or not is_stock else []
        except BaseException as error:
            with self._signals.cleaning_up():
                self._clean_up()
            if (command_error := _as_command_error(error)) is not None:
                raise command_error from error
            raise
        if self.parallel <= 1:
            try:
                if self._databases is not None:
                    from .search_path import programs

                    programs.export()
                set_up_worker(self._settings)
            except BaseException:
                self.teardown_databases(old_config)
                raise
        return old_config

    def _install(self) -> None:
        from .database.patching import migrations_disabled, patch_backends
        from .database.test_database import TestDatabases
        from .postgres import locks

        if self.parallel > 1:
            # What has been imported by now stays. A collection would visit all of it, and forked
            # workers would copy the visited pages.
            gc.freeze()
        test_databases = TestDatabases(
            workers=max(self.parallel, 1), keeps=self.keepdb, log=self.log
        )
        self._databases = test_databases
        project_changes = {}
        if self._settings.host_database == "current":
            project_changes["comparisons"] = self._observe_project_changes().comparisons
        self._installed = patch_backends(
            test_databases=test_databases,
            runner_settings=self._settings,
            has_own_databases=self._has_own_databases,
            **project_changes,
        )
        lock_wait = locks.LockWait(self._settings.lock_timeout, self.log)
        self._installed.callback(locks.set_lock_wait, locks.set_lock_wait(lock_wait))
        self._installed.callback(test_databases.close)
        if self.no_migrations:
            self._installed.enter_context(migrations_disabled())

    def run_checks(self, databases: Any) -> None:
        from .checks import replace_checks

        with replace_checks(self._problems):
            super().run_checks(databases)

    def _problems(self) -> "Iterator[Problem]":
        from .checks import history_problems, settings_problems

        yield from self._label_problems
        yield from settings_problems(self._settings)
        option = self._options.history_option
        yield from history_problems(self._settings, self._history_folder, option)

    def _clear_pools(self, aliases: Collection[str] | None) -> None:
        from .database.teardown import clear_pools

        self.log(clear_pools(aliases))

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        lease_check = self._databases.watch() if self._databases else NoLeases()
        if not self._has_workers and isinstance(suite, unittest.TestSuite):
            from .workers.serial_results import serial_suite

            suite = serial_suite(
                suite,
                self._settings.own_database,
                self._lines,
                default_timeout=self._settings.test_timeout,
                has_timeouts=not self.pdb,
                observers=self.observers,
                lease_check=lease_check,
                signals=self._signals,
            )
        elif isinstance(suite, SchemaParallelTestSuite):
            suite.lease_check = lease_check
        with self._signals.finishing_tests(announces=not self._has_workers):
            return super().run_suite(suite, **kwargs)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        with self._timed("tear_down"), self._signals.cleaning_up():
            try:
                super().teardown_databases(old_config, **kwargs)
            finally:
                self._clean_up()
                self._report_project_changes()

    def _clean_up(self) -> None:
        gc.unfreeze()
        with self._installed:
            disconnect()


class SchemaDiscoverRunner(SchemaRunnerMixin, DiscoverRunner):
    """Django's DiscoverRunner with a schema for each worker."""


def _command_error(error: SchemaRunnerError) -> CommandError:
    return CommandError(str(error), returncode=error.exit_code)


def _as_command_error(error: BaseException) -> CommandError | None:
    """Return the CommandError to raise instead, without a traceback; None to raise the error."""
    if isinstance(error, SchemaRunnerError):
        return _command_error(error)
    return CommandError(NO_LIBPQ) if lacks_libpq(error) else None


def _avoid_forkserver() -> None:
    # Django 5.2 hangs with forkserver, the default on Linux since Python 3.14. Use fork, the
    # earlier default, until this package drops Django 5.2.
    if django.VERSION < (6, 0):
        # Without allow_none, the call would fix the start method, and tests could not set it.
        method = multiprocessing.get_start_method(allow_none=True)
        if (method or multiprocessing.get_all_start_methods()[0]) == "forkserver":
            multiprocessing.set_start_method("fork", force=True)
