"""The summary of a run, after stock Django's last lines."""

import unittest
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from unittest.util import strclass

from ..database.usage import Usage
from ..errors import count, listing
from ..events import ClassFinished, Event, Finished, Outcome, Started, WorkerReady
from ..suite import Findings

if TYPE_CHECKING:
    from ..database.project_watch import ProjectComparison
    from ..reruns.diagnosis import Verdict


# How many tests are named in a line: all of it is to fit on a screen.
_NAMED = 5
# Seconds of tests below which a speed-up is mostly that of starting the workers.
_TELLING = 10.0
# Seconds of a set-up that has made something: without a database there is none.
_LEAST = 0.001


class Tally:
    """An observer that counts for the summary. Times are in seconds."""

    def __init__(self) -> None:
        # How long all classes took, the first time.
        self.busy = 0.0
        self.resets = 0
        self.reset_time = 0.0
        self.crashed: list[str] = []
        self.timed_out: list[str] = []
        # How long workers took to be ready, each the first time, by their numbers.
        self.ready: dict[int, float] = {}
        # Tests that have begun, by worker and name, and the number of those that have ended.
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
    """What a run has come to.

    Times are in seconds.
    """

    set_up: float
    tear_down: float
    tally: Tally
    usage: Usage
    findings: Findings
    fails_on_flaky: bool
    # The number of tests of the suite, and of those that were not run because it was stopped.
    tests: int
    not_run: int
    # Whether a signal ended the run, and the tests that it broke off.
    is_interrupted: bool = False
    stopped: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """Yield the lines, one screen of them at most."""
        yield from self.interruption()
        # Workers make the rest once they have started, at the same time.
        set_up = self.set_up + max(self.tally.ready.values(), default=0.0)
        if set_up >= _LEAST:
            yield f"{self._workers}Set-up {_time(set_up)}, tear-down {_time(self.tear_down)}."
        if schemas := self._schemas:
            yield schemas
        tally = self.tally
        if tally.resets:
            each = 1000 * tally.reset_time / tally.resets
            yield f"Resets: {tally.resets} in {_time(tally.reset_time)}, {each:.0f} ms each."
        failing = ", which fails the run" if self.fails_on_flaky else ""
        yield from _named(f"Flaky: passed when run again{failing}", self.findings.flaky)
        others = [name for name in self.findings.retried if name not in self.findings.flaky]
        yield from _named("Failed again when run again", others)
        yield from _named("Crashed", tally.crashed)
        yield from _named("Timed out", tally.timed_out)

    def interruption(self) -> Iterator[str]:
        """Yield what a run that was interrupted did not do."""
        if self.not_run:
            were = "was" if self.not_run == 1 else "were"
            yield f"Interrupted: {self.not_run:,} of {count(self.tests, 'test')} {were} not run."
        elif self.is_interrupted and self.tests:
            yield "Interrupted when all tests had been run."
        elif self.is_interrupted:
            yield "Interrupted: no tests were run."
        yield from _named("Stopped", self.stopped)

    @property
    def _workers(self) -> str:
        busy, workers, seconds = self.tally.busy, self.findings.workers, self.findings.seconds
        if workers < 2:
            return ""
        if seconds < _TELLING:
            return f"{workers} workers. "
        share = min(busy / (workers * seconds), 1)
        return (
            f"{workers} workers, busy for {share:.0%} of {_time(seconds)}: "
            f"{busy / seconds:.1f} times as fast as one after another. "
        )

    @property
    def _schemas(self) -> str:
        usage = self.usage
        numbers = {
            f"{count(usage.made, 'schema')} made": usage.made,
            f"{count(usage.reused, 'schema')} reused": usage.reused,
            f"{count(usage.databases, 'database')} made": usage.databases,
            f"{count(usage.reused_databases, 'database')} reused": usage.reused_databases,
            f"{usage.kept} kept": usage.kept,
            f"{usage.dropped} dropped": usage.dropped,
        }
        listed = ", ".join(text for text, number in numbers.items() if number)
        return f"{listed}." if listed else ""


def tests_not_run(
    sizes: Mapping[type, int], result: unittest.TestResult, *, is_interrupted: bool
) -> int:
    """Return how many tests a run that was stopped has not come to.

    `sizes` has the number of tests by class. Those of a fixture that has failed, or has skipped
    them, do not count, nor those that --failfast is to leave out.
    """
    is_failfast = result.failfast and not result.wasSuccessful()
    if not result.shouldStop or (is_failfast and not is_interrupted):
        return 0
    # With --debug-sql, there is more to an error than its test and text.
    told = {test.id() for test, *_ in [*result.errors, *result.skipped]}
    left_out = sum(
        size
        for one, size in sizes.items()
        if not told.isdisjoint(
            (f"setUpClass ({strclass(one)})", f"setUpModule ({one.__module__})")
        )
    )
    return max(sum(sizes.values()) - result.testsRun - left_out, 0)


def verdict_lines(
    verdicts: "Sequence[Verdict]", commands: Sequence[str], *, is_shared: bool
) -> Iterator[str]:
    """Yield lines about failures that were diagnosed, each with the command to see it again.

    Where workers share a database it may be that, and a line names the way out.
    """
    for verdict, command in zip(verdicts, commands, strict=True):
        yield f"{verdict.name} is {verdict.fault.upper()}: {verdict.evidence}."
        yield f"    {command}"
        if verdict.fault == "parallel-unsafe" and is_shared:
            yield (
                "    If they meet in what belongs to the whole database, put "
                "@schema_runner.own_database on the class, otherwise @schema_runner.serial."
            )


def _named(what: str, names: Sequence[str]) -> Iterator[str]:
    if names:
        unique = list(dict.fromkeys(names))
        yield f"{what} ({len(unique)}): {listing(unique, _NAMED)}"


def _time(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


# How many changes are listed.
_LISTED = 20


class ProjectChangesReport:
    """An observer of classes during which something has changed, and what it has come to.

    Each worker looks after each class, and so sees what those of other workers have done as well.
    """

    def __init__(self) -> None:
        self.comparisons: list[ProjectComparison] = []
        self._finished: list[ClassFinished] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ClassFinished) and event.changed_outside:
            self._finished.append(event)

    @property
    def number(self) -> int:
        """How many things have changed."""
        return sum(len(one.changes) for one in self.comparisons)

    def lines(self) -> Iterator[str]:
        for comparison in self.comparisons:
            yield from self._lines_of(comparison)

    def _lines_of(self, comparison: "ProjectComparison") -> Iterator[str]:
        database, changes = comparison.database, comparison.changes
        for note in comparison.notes:
            yield f"In the project's own database {database!r}, {note}."
        if not changes:
            return
        yield f"Changed in the project's own database {database!r}, outside of the tests' schemas:"
        for name, what in list(changes.items())[:_LISTED]:
            yield f"    {name}: {what}, {self._when(name)}"
        if len(changes) > _LISTED:
            yield f"    and {len(changes) - _LISTED} more"
        if comparison.sessions:
            listed = listing(comparison.sessions)
            yield f"    Others were connected, and may have done it: {listed}."
        else:
            yield "    Nobody else was connected when the tests began, nor when they ended."
        yield '    What may change goes into SCHEMA_RUNNER["EXPECTED_CHANGES"], by names as above.'

    def _when(self, name: str) -> str:
        """Say during which classes something has changed, as near as that is known."""
        groups = self._groups(name)
        if not groups:
            # What definitions consist of is looked at just then.
            return "seen when the tests had ended"
        named = [" or ".join(dict.fromkeys(one.test_class for one in group)) for group in groups]
        return f"during {listing(list(dict.fromkeys(named)))}"

    def _groups(self, name: str) -> list[list[ClassFinished]]:
        """Return classes that have seen something change: in a list those that saw one change.

        They are of different workers, and had all begun when the first of them saw it.
        """
        groups: list[list[ClassFinished]] = []
        finished = [one for one in self._finished if name in one.changed_outside]
        for one in sorted(finished, key=_end):
            group = groups[-1] if groups else []
            workers = {other.worker for other in group}
            if not group or one.worker in workers:
                groups.append([one])
            elif one.time < _end(group[0]):
                group.append(one)
        return groups


def _end(event: ClassFinished) -> float:
    return event.time + event.duration
