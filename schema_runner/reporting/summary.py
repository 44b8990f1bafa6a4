"""The summary of a run, printed after Django's last lines."""

import unittest
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from unittest.util import strclass

from ..database.usage import Usage
from ..errors import count, listing
from ..events import ClassFinished, Event, Finished, Outcome, Started, WorkerReady
from ..suite import SuiteOutcome

if TYPE_CHECKING:
    from ..database.usage import ProjectComparison
    from ..reruns.diagnosis import Verdict

# The most tests that a line names, so that the summary fits on a screen.
_MAX_NAMES = 5
# The least seconds of tests for which a speed-up is printed. In a shorter run, the start of the
# workers dominates.
_MIN_SPEEDUP_SECONDS = 10.0
# The least seconds of a set-up that is printed. Without databases there is nothing to set up.
_MIN_SET_UP = 0.001


class Tally:
    """An observer that counts for the summary. Times are in seconds."""

    def __init__(self) -> None:
        # The total duration of all classes in their first attempt.
        self.busy = 0.0
        self.resets = 0
        self.reset_time = 0.0
        self.crashed: list[str] = []
        self.timed_out: list[str] = []
        # How long each worker took to start, by number. Replacements are not included.
        self.ready: dict[int, float] = {}
        # Running tests, by worker and id (an ordered set), and the number of tests that ended.
        self.under_way: dict[tuple[int, str], None] = {}
        self.ended = 0

    def __call__(self, event: Event) -> None:
        match event:
            case ClassFinished():
                self.busy += event.duration if event.attempt == 1 else 0.0
                self.resets += event.resets
                self.reset_time += event.reset_time
            case WorkerReady(is_replacement=False):
                self.ready[event.worker] = event.duration
            case Started():
                self.under_way[event.worker, event.test_id] = None
            case Finished():
                self.under_way.pop((event.worker, event.test_id), None)
                self.ended += event.attempt == 1
                if event.outcome == Outcome.CRASHED:
                    self.crashed.append(event.test_id)
                elif event.outcome == Outcome.TIMED_OUT:
                    self.timed_out.append(event.test_id)


class Summary(NamedTuple):
    """The summary of a run. Times are in seconds."""

    set_up: float
    tear_down: float
    tally: Tally
    usage: Usage
    outcome: SuiteOutcome
    fails_on_flaky: bool
    # The number of tests in the suite, and of those that were not run because it was stopped.
    tests: int
    not_run: int
    # Whether a signal ended the run, and the ids of the tests that it stopped.
    is_interrupted: bool = False
    stopped: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """Yield the lines, which fit on a screen."""
        yield from self.interruption_lines()
        # The workers create their schemas when they start, all at the same time.
        set_up = self.set_up + max(self.tally.ready.values(), default=0.0)
        if set_up >= _MIN_SET_UP:
            yield f"{self._workers_text}Set-up {_time(set_up)}, tear-down {_time(self.tear_down)}."
        if schemas := self._schemas_line:
            yield schemas
        tally = self.tally
        if tally.resets:
            each = 1000 * tally.reset_time / tally.resets
            yield f"Resets: {tally.resets} in {_time(tally.reset_time)}, {each:.0f} ms each."
        failing = ", so the run fails" if self.fails_on_flaky else ""
        yield from _named(f"Flaky: passed on a retry{failing}", self.outcome.flaky)
        others = [name for name in self.outcome.retried if name not in self.outcome.flaky]
        yield from _named("Failed all retries", others)
        yield from _named("Crashed", tally.crashed)
        yield from _named("Timed out", tally.timed_out)

    def interruption_lines(self) -> Iterator[str]:
        """Yield the number of tests that were not run, and the names of stopped tests."""
        if self.not_run:
            were = "was" if self.not_run == 1 else "were"
            yield f"Interrupted: {self.not_run} of {count(self.tests, 'test')} {were} not run."
        elif self.is_interrupted and self.tests:
            yield "Interrupted after all tests had run."
        elif self.is_interrupted:
            yield "Interrupted: no tests were run."
        yield from _named("Stopped", self.stopped)

    @property
    def _workers_text(self) -> str:
        busy, workers, seconds = self.tally.busy, self.outcome.workers, self.outcome.seconds
        if workers < 2:
            return ""
        if seconds < _MIN_SPEEDUP_SECONDS:
            return f"{workers} workers. "
        share = min(busy / (workers * seconds), 1)
        return (
            f"{workers} workers, {share:.0%} busy, {busy / seconds:.1f}x faster than serial "
            f"({_time(seconds)}). "
        )

    @property
    def _schemas_line(self) -> str:
        usage = self.usage
        numbers = {
            f"{count(usage.made, 'schema')} created": usage.made,
            f"{count(usage.reused, 'schema')} reused": usage.reused,
            f"{count(usage.databases, 'database')} created": usage.databases,
            f"{count(usage.reused_databases, 'database')} reused": usage.reused_databases,
            f"{usage.kept} kept": usage.kept,
            f"{usage.dropped} dropped": usage.dropped,
        }
        listed = ", ".join(text for text, number in numbers.items() if number)
        return f"{listed}." if listed else ""


def tests_not_run(
    sizes: Mapping[type, int], result: unittest.TestResult, *, is_interrupted: bool
) -> int:
    """Return how many tests were not run because the run was stopped.

    `sizes` has the number of tests of each class. Tests that a class or module fixture skipped, or
    that could not run because it failed, do not count, nor do those that --failfast left out.
    """
    is_failfast = result.failfast and not result.wasSuccessful()
    if not result.shouldStop or (is_failfast and not is_interrupted):
        return 0
    # With --debug-sql, an error has a third item.
    reported = {test.id() for test, *_ in [*result.errors, *result.skipped]}
    left_out = sum(
        size
        for one, size in sizes.items()
        if not reported.isdisjoint(
            (f"setUpClass ({strclass(one)})", f"setUpModule ({one.__module__})")
        )
    )
    return max(sum(sizes.values()) - result.testsRun - left_out, 0)


def verdict_lines(
    verdicts: "Sequence[Verdict]", commands: Sequence[str], *, is_shared: bool
) -> Iterator[str]:
    """Yield each verdict with the command that reproduces the failure.

    If workers share a database (`is_shared`), parallel-unsafe tests get a hint as well.
    """
    for verdict, command in zip(verdicts, commands, strict=True):
        yield f"{verdict.name} is {verdict.fault.upper()}: {verdict.evidence}."
        yield f"    {command}"
        if verdict.fault == "parallel-unsafe" and is_shared:
            yield (
                "    If these tests conflict on something that belongs to the whole database, put "
                "@schema_runner.own_database on the class, otherwise @schema_runner.serial."
            )


def _named(label: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        unique = list(dict.fromkeys(names))
        yield f"{label} ({len(unique)}): {listing(unique, _MAX_NAMES)}"


def _time(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


# The most changes of a database that are listed.
_MAX_CHANGES = 20


class ProjectChangesReport:
    """The changes in the project's own databases, with the classes during which they occurred.

    An observer. Workers look for changes after each class, and also see those that other workers
    made.
    """

    def __init__(self, comparisons: "Sequence[ProjectComparison]") -> None:
        self._comparisons = comparisons
        self._finished: list[ClassFinished] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ClassFinished) and event.changed_outside:
            self._finished.append(event)

    @property
    def number(self) -> int:
        """The number of changes."""
        return sum(len(one.changes) for one in self._comparisons)

    def lines(self) -> Iterator[str]:
        for comparison in self._comparisons:
            database, changes = comparison.database, comparison.changes
            for note in comparison.notes:
                yield f"In the project's own database {database!r}, {note}."
            if not changes:
                continue
            yield (
                f"Changed in the project's own database {database!r}, outside the worker schemas:"
            )
            for name, change in list(changes.items())[:_MAX_CHANGES]:
                yield f"    {name}: {change}, {self._when(name)}"
            if len(changes) > _MAX_CHANGES:
                yield f"    and {len(changes) - _MAX_CHANGES} more"
            if comparison.sessions:
                yield (
                    f"    Other sessions were connected, and may have made the changes: "
                    f"{listing(comparison.sessions)}."
                )
            else:
                yield "    No other session was connected when the tests started or ended."
            yield '    To allow a change, list its name in SCHEMA_RUNNER["EXPECTED_CHANGES"].'

    def _when(self, name: str) -> str:
        """Return during which classes something changed, as far as that is known.

        "A or B" are classes that saw the same change. They ran in different workers, and had all
        started when the first of them ended.
        """
        groups: list[list[ClassFinished]] = []
        finished = [one for one in self._finished if name in one.changed_outside]
        for one in sorted(finished, key=_end):
            group = groups[-1] if groups else []
            if not group or any(one.worker == other.worker for other in group):
                groups.append([one])
            elif one.time < _end(group[0]):
                group.append(one)
        if not groups:
            # Definitions are compared only after the tests.
            return "detected after the tests"
        named = [" or ".join(dict.fromkeys(one.test_class for one in group)) for group in groups]
        return f"during {listing(list(dict.fromkeys(named)))}"


def _end(event: ClassFinished) -> float:
    return event.time + event.duration
