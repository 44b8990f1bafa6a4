"""The part of the runner that records the history and prints the summary."""

import logging
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from django.test.runner import DiscoverRunner
from django.test.utils import TimeKeeper  # type: ignore[attr-defined]

from .connections import has_local_server
from .database.usage import Usage
from .events import Observer
from .options import Options
from .reporting.rerun_command import RerunCommand
from .reporting.summary import Summary, Tally, tests_not_run, verdict_lines
from .scheduling.history import HistoryRecorder
from .settings import Settings
from .suite import SuiteOutcome
from .workers.output import LineTracker

if TYPE_CHECKING:
    from .database.test_database import TestDatabases
    from .reporting.summary import ProjectChangesReport
    from .scheduling.history import HistoryFolder
    from .workers.sigterm import RunSignals

    Base = DiscoverRunner
else:
    Base = object


class RunSummaryMixin(Base):
    """Observes the events of a run, for its history and summary."""

    _options: Options
    _command: RerunCommand
    # None if no databases are set up.
    _databases: "TestDatabases | None" = None
    _history_folder: "HistoryFolder | None"
    _signals: "RunSignals"
    _settings: Settings
    _suite: Any = None
    # Changes in the project's own database, with --host-database current.
    _project_changes: "ProjectChangesReport | None" = None
    # The number of tests of each class, and how many tests were not run (None: not known yet).
    _sizes: Mapping[type, int] = MappingProxyType({})
    _not_run: int | None = None
    # Hints for tests that failed on something that workers share.
    _hint_lines: Collection[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lines = LineTracker()
        super().__init__(*args, **kwargs)
        self._tally, self._recorder = Tally(), HistoryRecorder()
        # Each observer is called with each event of the run.
        self.observers: list[Observer] = [self._tally, self._recorder]
        # Seconds of "set_up" and "tear_down".
        self._times: dict[str, float] = defaultdict(float)
        # CPU time of the whole machine during the tests.
        self._machine_seconds: float | None = None

    def log(self, msg: Any, level: int | None = None) -> None:
        if self.verbosity > 0:
            self._lines.end_line()
        super().log(msg, level)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._times[phase] += time.perf_counter() - started

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        self._suite = suite
        # A server on this machine uses the same processors as the tests.
        is_local = has_local_server(getattr(suite, "used_aliases", ()))
        before = self._busy_seconds() if is_local else None
        try:
            return super().run_suite(suite, **kwargs)
        finally:
            if before is not None and (after := self._busy_seconds()) is not None:
                self._machine_seconds = after - before
            self._record_worker_starts()
            self._save_history()

    def _record_worker_starts(self) -> None:
        """Add each worker's start to the output of --timing, where Django shows its cloning."""
        ready = self._tally.ready
        if not ready or not isinstance(self.time_keeper, TimeKeeper):
            return
        records = self.time_keeper.records
        cloning: list[float] = next(
            (times for name, times in records.items() if "Cloning" in name), []
        )
        for worker, seconds in ready.items():
            if worker <= len(cloning):
                cloning[worker - 1] += seconds
        records["Total database setup"][-1] += max(ready.values())

    @staticmethod
    def _busy_seconds() -> float | None:
        from .scheduling.cpus import busy_cpu_seconds

        return busy_cpu_seconds()

    def run_tests(self, test_labels: Any, **kwargs: Any) -> int:
        try:
            failures = super().run_tests(test_labels, **kwargs)
        except KeyboardInterrupt:
            for line in self._summary.interruption_lines():
                self.log(line)
            raise
        if self._suite is None:
            # The subclass only lists the tests, for example for an IDE.
            return failures
        for line in self._summary.lines():
            self.log(line)
        # The output of --diagnose is printed with -v 0 too.
        show = self.log if self.logger else print
        for line in self._verdict_lines(test_labels or ()):
            show(line)
        for line in self._hint_lines:
            self.log(line)
        return failures

    def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> int:
        failures = super().suite_result(suite, result, **kwargs)
        self._not_run = tests_not_run(
            self._sizes, result, is_interrupted=self._signals.is_interrupted
        )
        if self._databases and not result.wasSuccessful():
            from .reporting.hints import hint_lines

            self._hint_lines = list(hint_lines(result, self._databases.usage, self._settings))
        if self._options.fail_on_flaky:
            failures += len(self._outcome.flaky)
        return failures + self._project_changes.number if self._project_changes else failures

    def _observe_project_changes(self) -> "ProjectChangesReport":
        """Add an observer of changes in the project's own database."""
        from .reporting.summary import ProjectChangesReport

        self._project_changes = ProjectChangesReport()
        self.observers.append(self._project_changes)
        return self._project_changes

    def _report_project_changes(self) -> None:
        """Print the changes, also after an interrupted run and with -v 0."""
        for line in self._project_changes.lines() if self._project_changes else ():
            if self.logger is None:
                sys.stderr.write(f"{line}\n")
            else:
                self.log(line, logging.ERROR)

    @property
    def _outcome(self) -> SuiteOutcome:
        return getattr(self._suite, "outcome", SuiteOutcome())

    def _save_history(self) -> None:
        # Not in a worker: the suites that tests run there are not the project's.
        if self._history_folder is not None and multiprocessing.parent_process() is None:
            verdicts = self._outcome.verdicts
            flaky = [one.name for one in verdicts if one.fault in {"flaky", "parallel-unsafe"}]
            observed = self._recorder.observed(flaky, self._machine_seconds)
            if verdicts:
                # The CPU time includes that of the diagnosis.
                observed = observed._replace(runs=())
            self._history_folder.add(observed)

    @property
    def _summary(self) -> Summary:
        tests, signals = sum(self._sizes.values()), self._signals
        return Summary(
            set_up=self._times["set_up"],
            tear_down=self._times["tear_down"],
            tally=self._tally,
            usage=self._databases.usage if self._databases else Usage(),
            outcome=self._outcome,
            fails_on_flaky=self._options.fail_on_flaky,
            tests=tests,
            not_run=tests - self._tally.ended if self._not_run is None else self._not_run,
            is_interrupted=signals.is_interrupted,
            stopped=[name for _, name in self._tally.under_way] if signals.is_aborting else (),
        )

    def _verdict_lines(self, labels: Collection[str]) -> Iterator[str]:
        verdicts = self._outcome.verdicts
        commands = [
            self._command.with_tests(one.tests, labels=labels, options=one.options)
            for one in verdicts
        ]
        is_shared = self._databases is not None and self._databases.usage.is_shared
        return verdict_lines(verdicts, commands, is_shared=is_shared)
