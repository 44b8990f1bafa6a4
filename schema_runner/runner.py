"""Test runners that give every worker its own schema."""

import logging
import sys
import unittest
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from django.core.management import CommandError
from django.test.runner import DiscoverRunner, ParallelTestSuite

from .errors import NO_LIBPQ, SchemaRunnerError, lacks_libpq
from .events import Observer
from .options import Options, add_options
from .reporting.rerun_command import RerunCommand
from .run_history import RunHistory
from .run_summary import RunSummary
from .settings import Settings
from .suite import RunConfig, SchemaParallelTestSuite, SuiteOutcome
from .suite_selection import SuiteSelector
from .workers.current import avoid_forkserver
from .workers.lease_check import LeaseCheck, NoLeases
from .workers.output import LineTracker
from .workers.sigterm import RunSignals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .session import Session
    from .settings import Problem

    Base = DiscoverRunner
else:
    Base = object


class SchemaRunnerMixin(Base):
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
        command = RerunCommand(type(self), kwargs)
        self._options = Options.take(kwargs)
        self._lines = LineTracker()
        try:
            super().__init__(*args, **kwargs)
        except ValueError as error:
            if not kwargs.get("pdb"):
                raise
            # Django's error for --pdb with --parallel: show it without a traceback.
            raise CommandError(str(error)) from error
        avoid_forkserver()
        self.no_migrations = self._options.no_migrations
        try:
            # An explicit keepdb=False overrides the setting KEEP. Django's default does not.
            keeps = self.keepdb or kwargs.get("keepdb")
            keeps = None if keeps is None else bool(keeps)
            self._settings = Settings.read(keep=keeps, **self._options.for_settings)
            self.keepdb = self._settings.keep
        except SchemaRunnerError as error:
            raise CommandError(str(error), returncode=error.exit_code) from error
        self._signals = RunSignals(
            lambda: len(self._summary.tally.under_way), is_silent=self.verbosity < 1
        )
        self._history = RunHistory(self._settings)
        self._selector = SuiteSelector(self, self._settings, self._options, self._history)
        self._summary = RunSummary(self._options, command, self._signals)
        # Each observer is called with each event of the run.
        self.observers: list[Observer] = [self._summary.tally, self._history.recorder]
        # None if no databases are set up.
        self._session: Session | None = None
        self._labels: Sequence[str] = ()

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

    def log(self, msg: Any, level: int | None = None) -> None:
        if self.verbosity > 0:
            self._lines.end_line()
        # A test may have closed standard output.
        if self.logger or not getattr(sys.stdout, "closed", False):
            super().log(msg, level)

    def run_tests(self, test_labels: Any, **kwargs: Any) -> int:
        with self._signals:
            try:
                failures = super().run_tests(test_labels, **kwargs)
            except KeyboardInterrupt:
                for line in self._summary.interruption_lines():
                    self.log(line)
                raise
            # The output of --diagnose is printed with -v 0 too.
            show = self.log if self.logger else print
            self._summary.write(self.log, show, labels=test_labels or ())
            return failures

    def setup_test_environment(self, **kwargs: Any) -> None:
        with self._signals.replacing_interrupt_handler():
            super().setup_test_environment(**kwargs)

    def teardown_test_environment(self, **kwargs: Any) -> None:
        with self._signals.keeping_interrupt_handler():
            super().teardown_test_environment(**kwargs)

    def build_suite(self, test_labels: Any = None, **kwargs: Any) -> Any:
        self._labels, workers = test_labels or (), self.parallel
        with self._signals.interruptible_imports():
            suite = super().build_suite(test_labels, **kwargs)
            suite = self._selector.select(suite, self._labels, workers=workers)
        self._summary.sizes = self._selector.sizes
        if isinstance(suite, SchemaParallelTestSuite):
            suite.config = self._run_config(NoLeases())  # A subclass may replace `run_suite`.
        return suite

    def load_tests_for_label(self, *args: Any, **kwargs: Any) -> Any:
        tests = super().load_tests_for_label(*args, **kwargs)
        # End an aborted run before Django prints the number of tests.
        self._signals.check()
        return tests

    def setup_databases(self, **kwargs: Any) -> Any:
        aliases = kwargs.get("aliases")
        uses_databases = aliases is None or bool(aliases)
        try:
            if uses_databases:
                self._begin_session(aliases)
            if self._options.clear_pools:
                self._clear_pools(aliases)
            with self._summary.timed("set_up"):
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
                if self._session is not None:
                    self._session.ready()
            except BaseException:
                self.teardown_databases(old_config)
                raise
        return old_config

    def _begin_session(self, aliases: Collection[str] | None) -> None:
        from .database.context import RunContext
        from .postgres.host_request import Sharing
        from .session import Session

        context = RunContext(
            self._settings,
            self.log,
            workers=max(self.parallel, 1),
            sharing=Sharing(stays=True) if self.keepdb else None,
            has_own_databases=self._selector.has_own_databases,
            runs_migrations=not self.no_migrations,
        )
        self._session = self._summary.session = Session(context)
        if self._settings.is_current:
            from .reporting.summary import ProjectChangesReport

            changes = ProjectChangesReport(self._session.usage.comparisons)
            self._summary.project_changes = changes
            self.observers.append(changes)
        self._session.begin(aliases)

    def run_checks(self, databases: Any) -> None:
        from .checks import replace_checks

        with replace_checks(self._problems):
            super().run_checks(databases)

    def _problems(self) -> "Iterator[Problem]":
        from .checks import history_problems, settings_problems

        yield from self._selector.label_problems
        yield from settings_problems(self._settings)
        option = self._options.history_option
        yield from history_problems(self._settings, self._history.folder, option)

    def _clear_pools(self, aliases: Collection[str] | None) -> None:
        if self._session is None:
            self.log("No pools removed: these tests use no database.")
        else:
            self.log(self._session.clear_pools(aliases))

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        lease_check = self._session.watch() if self._session else NoLeases()
        has_workers = isinstance(suite, SchemaParallelTestSuite)
        if has_workers:
            suite.config = self._run_config(lease_check)
        running = suite
        if not has_workers and isinstance(suite, unittest.TestSuite):
            from .workers.serial_results import serial_suite

            running = serial_suite(
                suite,
                self._settings.own_database,
                self._lines,
                default_timeout=self._settings.test_timeout,
                has_timeouts=not self.pdb,
                observers=self.observers,
                lease_check=lease_check,
                signals=self._signals,
            )
        with self._signals.finishing_tests(announces=not has_workers):
            try:
                with self._summary.running(running, self.time_keeper):
                    return super().run_suite(running, **kwargs)
            finally:
                outcome = self._summary.outcome or SuiteOutcome()
                self._history.save(outcome.verdicts, self._summary.busy_seconds)

    def _run_config(self, lease_check: "LeaseCheck") -> RunConfig:
        return RunConfig(
            settings=self._settings,
            keepdb=self.keepdb,
            observers=self.observers,
            log=self.log,
            command=partial(self._summary.command.with_tests, labels=self._labels),
            order=self._selector.order,
            quarantined=self._selector.quarantined,
            diagnoses=self._options.diagnose,
            lease_check=lease_check,
            signals=self._signals,
            lines=self._lines,
            shows_flaky=self.verbosity > 0 or self._options.fail_on_flaky,
        )

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> int:
        failures = super().suite_result(suite, result, **kwargs)
        return self._summary.count_failures(failures, result, self._settings)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        with self._summary.timed("tear_down"), self._signals.cleaning_up():
            try:
                super().teardown_databases(old_config, **kwargs)
            finally:
                self._clean_up()
                # Also after an interrupted run and with -v 0.
                for line in self._summary.project_change_lines():
                    if self.logger is None:
                        sys.stderr.write(f"{line}\n")
                    else:
                        self.log(line, logging.ERROR)

    def _clean_up(self) -> None:
        if self._session is not None:
            self._session.end()


class SchemaDiscoverRunner(SchemaRunnerMixin, DiscoverRunner):
    """Django's DiscoverRunner with a schema for each worker."""


def _as_command_error(error: BaseException) -> CommandError | None:
    """Return the CommandError to raise instead, without a traceback; None to raise the error."""
    if isinstance(error, SchemaRunnerError):
        return CommandError(str(error), returncode=error.exit_code)
    return CommandError(NO_LIBPQ) if lacks_libpq(error) else None
