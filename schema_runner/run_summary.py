"""What a run prints about itself: its summary, and the project's own tables that changed."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.test.utils import TimeKeeper  # type: ignore[attr-defined]

from .clock import Clock
from .connections import has_local_server
from .database.usage import Usage
from .options import Options
from .reporting.rerun_command import RerunCommand
from .reporting.summary import Summary, Tally, tests_not_run, verdict_lines
from .settings import Settings
from .suite import SuiteOutcome
from .workers.sigterm import RunSignals

if TYPE_CHECKING:
    from .reporting.summary import ProjectChangesReport
    from .reruns.diagnosis import Verdict
    from .session import Session


class RunSummary:
    """Measures a run, and describes it afterwards.

    `tally`: an observer that counts the tests.
    `command`: the command that runs tests again.
    `session`: the test databases; None if the run uses none.
    `sizes`: the number of tests of each class.
    `outcome`: the outcome of the suite; None until it has run.
    `busy_seconds`: CPU time of the whole machine during the tests, if known.
    `project_changes`: changes in the project's own database, if it is the host database.
    """

    def __init__(self, options: Options, command: RerunCommand, signals: RunSignals) -> None:
        self.tally = Tally()
        self.command = command
        self.session: Session | None = None
        self.sizes: Mapping[type, int] = MappingProxyType({})
        self.outcome: SuiteOutcome | None = None
        self.busy_seconds: float | None = None
        self.project_changes: ProjectChangesReport | None = None
        self._options = options
        self._signals = signals
        # Seconds of "set_up" and "tear_down".
        self._times: dict[str, float] = defaultdict(float)
        # How many tests were not run; None: not known yet.
        self._not_run: int | None = None
        # Hints for tests that failed on something that workers share.
        self._hint_lines: Collection[str] = ()

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of the `with` block to a phase: "set_up" or "tear_down"."""
        started = Clock.perf_counter()
        try:
            yield
        finally:
            self._times[phase] += Clock.perf_counter() - started

    @contextmanager
    def running(self, suite: Any, time_keeper: Any) -> Iterator[None]:
        """Measure the suite while it runs."""
        # A server on this machine uses the same processors as the tests.
        # None stands for all aliases, if the caller of `run_suite` has not set it.
        aliases = getattr(suite, "used_aliases", ())
        is_local = has_local_server(connections if aliases is None else aliases)
        before = self._measure_busy_seconds() if is_local else None
        try:
            yield
        finally:
            self.outcome = getattr(suite, "outcome", SuiteOutcome())
            if before is not None and (after := self._measure_busy_seconds()) is not None:
                self.busy_seconds = after - before
            if self.tally.ready and isinstance(time_keeper, TimeKeeper):
                self._record_worker_starts(time_keeper.records)

    def _record_worker_starts(self, records: dict[str, list[float]]) -> None:
        """Add each worker's start to the output of --timing, where Django shows its cloning."""
        ready = self.tally.ready
        cloning = next((times for name, times in records.items() if "Cloning" in name), [])
        for worker, seconds in ready.items():
            if worker <= len(cloning):
                cloning[worker - 1] += seconds
        if total := records.get("Total database setup"):
            total[-1] += max(ready.values())

    @staticmethod
    def _measure_busy_seconds() -> float | None:
        from .scheduling.cpus import busy_cpu_seconds

        return busy_cpu_seconds()

    def count_failures(self, failures: int, result: Any, settings: Settings) -> int:
        """Return the number of failures, given Django's, and remember what the result says."""
        self._not_run = tests_not_run(
            self.sizes, result, is_interrupted=self._signals.is_interrupted
        )
        if self.session and not result.wasSuccessful():
            from .reporting.hints import hint_lines

            self._hint_lines = list(hint_lines(result, self.session.usage, settings))
        if self._options.fail_on_flaky and self.outcome is not None:
            failures += len(self.outcome.flaky)
        return failures + (self.project_changes.number if self.project_changes else 0)

    def interruption_lines(self) -> Iterator[str]:
        return self._summary.interruption_lines()

    def write(
        self, log: Callable[[str], None], show: Callable[[str], None], *, labels: Collection[str]
    ) -> None:
        """Log the summary, and show the diagnoses. Without a suite, there is nothing to say."""
        # None if a subclass of the runner only lists the tests, for example for an IDE.
        if self.outcome is None:
            return
        for line in self._summary.lines():
            log(line)
        for line in self._verdict_lines(self.outcome.verdicts, labels):
            show(line)
        for line in self._hint_lines:
            log(line)

    def project_change_lines(self) -> Iterator[str]:
        return self.project_changes.lines() if self.project_changes else iter(())

    def _verdict_lines(
        self, verdicts: "Sequence[Verdict]", labels: Collection[str]
    ) -> Iterator[str]:
        commands = [
            self.command.with_tests(one.tests, labels=labels, options=one.options)
            for one in verdicts
        ]
        is_shared = self.session is not None and self.session.usage.is_shared
        return verdict_lines(verdicts, commands, is_shared=is_shared)

    @property
    def _summary(self) -> Summary:
        tests, signals = sum(self.sizes.values()), self._signals
        return Summary(
            set_up=self._times["set_up"],
            tear_down=self._times["tear_down"],
            tally=self.tally,
            usage=self.session.usage if self.session else Usage(),
            outcome=self.outcome or SuiteOutcome(),
            fails_on_flaky=self._options.fail_on_flaky,
            tests=tests,
            not_run=tests - self.tally.ended if self._not_run is None else self._not_run,
            is_interrupted=signals.is_interrupted,
            stopped=[name for _, name in self.tally.under_way] if signals.is_aborting else (),
        )
