"""The part of the runner that keeps the history of a run and prints its summary."""

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

from .connections import are_here
from .database.usage import Usage
from .events import Observer
from .options import Options
from .reporting.rerun_command import RerunCommand
from .reporting.summary import Summary, Tally, tests_not_run, verdict_lines
from .scheduling.history_recorder import HistoryRecorder
from .settings import Settings
from .suite import Findings
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
    """Follows a run by its events."""

    _options: Options
    _command: RerunCommand
    # None in a runner of the project's that makes no databases.
    _databases: "TestDatabases | None" = None
    _history_folder: "HistoryFolder | None"
    _signals: "RunSignals"
    _settings: Settings
    _suite: Any = None
    # What tests have changed in the project's own database, where they are run in that one.
    _outside: "ProjectChangesReport | None" = None
    # The number of tests by class, and how many of them the run has not come to.
    _sizes: Mapping[type, int] = MappingProxyType({})
    _not_run: int | None = None
    # What helps tests that have failed on what workers share.
    _hint_lines: Collection[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lines = LineTracker()
        super().__init__(*args, **kwargs)
        self._tally, self._recorder = Tally(), HistoryRecorder()
        # Each is called with the events of a run, as they happen.
        self.observers: list[Observer] = [self._tally, self._recorder]
        # Seconds that parts of the run have taken, by what they are.
        self._times: dict[str, float] = defaultdict(float)
        self._busy: float | None = None

    def log(self, msg: Any, level: int | None = None) -> None:
        if self.verbosity > 0:
            self._lines.end_line()
        super().log(msg, level)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._times[what] += time.perf_counter() - begun

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        self._suite = suite
        # A server on this machine needs the same processors as the tests do.
        is_shared = are_here(getattr(suite, "used_aliases", ()))
        before = self._busy_seconds() if is_shared else None
        try:
            return super().run_suite(suite, **kwargs)
        finally:
            if before is not None and (after := self._busy_seconds()) is not None:
                self._busy = after - before
            self._keep_times_of_workers()
            self._remember()

    def _keep_times_of_workers(self) -> None:
        """Add the set-up of each worker to --timing, where stock Django shows its cloning."""
        ready = self._tally.ready
        if not ready or not isinstance(self.time_keeper, TimeKeeper):
            return
        records = self.time_keeper.records
        cloning: list[float] = next(
            (times for what, times in records.items() if "Cloning" in what), []
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
            for line in self._summary.interruption():
                self.log(line)
            raise
        if self._suite is None:
            # One that only lists tests, as an IDE's.
            return failures
        for line in self._summary.lines():
            self.log(line)
        # Whoever asks for verdicts wants to see them, also at -v 0.
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
            failures += len(self._findings.flaky)
        return failures + self._outside.number if self._outside else failures

    def _watch_outside(self) -> "ProjectChangesReport":
        """Follow what classes see of the project's own database."""
        from .reporting.summary import ProjectChangesReport

        self._outside = ProjectChangesReport()
        self.observers.append(self._outside)
        return self._outside

    def _tell_outside(self) -> None:
        """Say what has changed there, also where the run was broken off, or is to be silent."""
        for line in self._outside.lines() if self._outside else ():
            if self.logger is None:
                sys.stderr.write(f"{line}\n")
            else:
                self.log(line, logging.ERROR)

    @property
    def _findings(self) -> Findings:
        return getattr(self._suite, "findings", Findings())

    def _remember(self) -> None:
        # What tests run within a test is nothing that a later run would run.
        if self._history_folder is not None and multiprocessing.parent_process() is None:
            verdicts = self._findings.verdicts
            # Unreliable, whatever else runs.
            flaky = [one.name for one in verdicts if one.fault in {"flaky", "parallel-unsafe"}]
            observed = self._recorder.observed(flaky, self._busy)
            if verdicts:
                # What was run to find them out has kept processors busy, too.
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
            findings=self._findings,
            fails_on_flaky=self._options.fail_on_flaky,
            tests=tests,
            not_run=tests - self._tally.ended if self._not_run is None else self._not_run,
            is_interrupted=signals.is_interrupted,
            stopped=[name for _, name in self._tally.under_way] if signals.is_aborting else (),
        )

    def _verdict_lines(self, labels: Collection[str]) -> Iterator[str]:
        verdicts = self._findings.verdicts
        commands = [
            self._command.with_tests(one.tests, labels=labels, options=one.options)
            for one in verdicts
        ]
        is_shared = self._databases is not None and self._databases.usage.is_shared
        return verdict_lines(verdicts, commands, is_shared=is_shared)
