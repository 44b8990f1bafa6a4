"""The report of a parallel run, which passes workers' messages to the result and observers."""

import unittest
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]
from unittest.util import strclass

from ..errors import WorkerError
from ..events import (
    BAD_OUTCOMES,
    ClassFinished,
    Event,
    Finished,
    FixtureFailed,
    Observer,
    Outcome,
    Started,
    WorkerReady,
)
from ..scheduling.queue import Part
from .exceptions import decode, exc_info
from .lease_check import stop_with_error
from .output import set_sql, wants_sql
from .protocol import FixtureResult, PartFinished, TestFinished, TestStarted
from .results import HandleEvent, Replay


class Failure(NamedTuple):
    """A failure of a test, or of a fixture of a class or module.

    `name`: as reported.
    `positions`: the positions in `subsuite` of the test, or of the tests that the fixture is for.
    `add_to`: adds the failure to a result.
    `is_teardown`: whether a fixture failed after its tests, so that they have outcomes.
    """

    name: str
    subsuite: int
    positions: tuple[int, ...]
    add_to: Callable[[Any], object]
    is_teardown: bool = False

    def overlaps(self, other: "Failure") -> bool:
        """Whether this and another failure are about the same fixture, or share a test."""
        if self.is_teardown or other.is_teardown:
            return self.name == other.name
        shared = set(self.positions) & set(other.positions)
        return self.subsuite == other.subsuite and bool(shared)


Keep = Callable[[Failure], bool]


class ReportTargets(NamedTuple):
    """Where a report goes.

    `handle_event`: replays an event of a test on `result`, as Django's ParallelTestSuite does.
    `announce`: tells the user that a signal ends the run after the running tests.
    """

    result: unittest.TestResult
    handle_event: HandleEvent
    observers: Collection[Observer]
    log: Callable[[str], None]
    announce: Callable[[], None] = lambda: None


def keep_nothing(_failure: Failure) -> bool:
    """Add every failure to the result at once."""
    return False


class Report:
    """Adds each test to the result as a whole when it ends, so that tests never interleave.

    `tests`: the test cases of each subsuite.
    `keep`: called with each failure; returns True to keep it back from the result, for instance to
    retry the test.
    """

    def __init__(
        self,
        tests: Sequence[Sequence[Any]],
        targets: ReportTargets,
        *,
        attempt: int = 1,
        keep: Keep = keep_nothing,
    ) -> None:
        self._tests = tests
        self._result = targets.result
        self._handle_event = targets.handle_event
        self._observers = targets.observers
        self._attempt = attempt
        self._keep = keep
        self.log = targets.log
        self.announce = targets.announce
        # Pairs of subsuite and position.
        self.finished_tests: set[tuple[int, int]] = set()

    @property
    def should_stop(self) -> bool:
        """Whether to start no more tests."""
        return self._result.shouldStop

    @property
    def stopped_by_failfast(self) -> bool:
        """Whether a failure under --failfast is the reason to stop."""
        return self._result.failfast and not self._result.wasSuccessful()

    def test_started(self, worker: int, part: Part, message: TestStarted) -> None:
        if self._observers:
            test = self._tests[part.subsuite][message.position]
            self._observe(Started(test.id(), worker, self._attempt, message.time))

    def test_finished(self, worker: int, part: Part, message: TestFinished) -> None:
        test = self._tests[part.subsuite][message.position]
        events = message.events
        if message.is_encoded:
            events = [decode(event, test) for event in events]
        replay = Replay(test, events, message.duration)

        def add_to(result: Any) -> None:
            replay.add_to(result, self._handle_event)

        if message.outcome in BAD_OUTCOMES:
            self._fail(Failure(test.id(), part.subsuite, (message.position,), add_to))
        else:
            add_to(self._result)
        self._test_ended(
            worker, part, message.position, Outcome(message.outcome), message.duration
        )

    def fixture_reported(
        self, worker: int, part: Part, message: FixtureResult, *, is_first: bool
    ) -> None:
        """Report a fixture of a class or module, before its tests if `is_first`."""
        holder, arguments = _ErrorHolder(message.name), decode(message.arguments)

        def add_to(result: Any) -> None:
            if wants_sql(result):
                set_sql(result, message.sql)
            getattr(result, message.method)(holder, *arguments)

        if message.method == "addError":
            self._fail_fixture(worker, part, message.name, add_to, is_first=is_first)
        else:
            add_to(self._result)

    def test_died(
        self, worker: int, part: Part, position: int, cause: str, *, timed_out: bool
    ) -> None:
        """Report a test during which the worker died, because it `timed_out` or crashed."""
        test = self._tests[part.subsuite][position]

        def add_to(result: Any) -> None:
            result.startTest(test)
            result.addError(test, _worker_error(f"Worker {worker} {cause}"))
            result.stopTest(test)

        self._fail(Failure(test.id(), part.subsuite, (position,), add_to))
        outcome = Outcome.TIMED_OUT if timed_out else Outcome.CRASHED
        self._test_ended(worker, part, position, outcome, 0.0)

    def fixture_died(
        self, worker: int, part: Part, fixture: str, cause: str, *, is_first: bool
    ) -> None:
        """Report the set-up or tear-down of a class during which the worker died."""
        test = self._tests[part.subsuite][part.positions[0]]
        holder: Any = _ErrorHolder(f"{fixture} ({strclass(type(test))})")

        def add_to(result: Any) -> None:
            result.addError(holder, _worker_error(f"Worker {worker} {cause}"))

        self._fail_fixture(worker, part, holder.id(), add_to, is_first=is_first)

    def part_finished(
        self, worker: int, part: Part, message: PartFinished, test_time: float
    ) -> None:
        """Notify observers of a finished part; `test_time` is the seconds spent in its tests."""
        if self._observers:
            test, usage = self._tests[part.subsuite][part.positions[0]], message.usage
            self._observe(
                ClassFinished(
                    test_class=strclass(type(test)),
                    worker=worker,
                    attempt=self._attempt,
                    time=message.time,
                    duration=usage.time,
                    processor_time=usage.processor_time,
                    overhead=max(usage.time - test_time, 0.0),
                    keeps_state=message.keeps_state,
                    resets=usage.resets,
                    reset_time=usage.reset_time,
                    changed_outside=message.changed_outside,
                )
            )

    def worker_ready(self, worker: int, duration: float, *, is_replacement: bool) -> None:
        self._observe(WorkerReady(worker, duration, is_replacement))

    def part_not_sent(self, worker: int, part: Part, error: Exception) -> None:
        """Report tests that cannot be pickled for a worker."""
        test = self._tests[part.subsuite][part.positions[0]]
        holder: Any = _ErrorHolder(f"tests of {strclass(type(test))}")

        def add_to(result: Any) -> None:
            result.addError(holder, exc_info(error))

        self._fail_fixture(worker, part, holder.id(), add_to, is_first=True)

    def worker_failed(self, worker: int, cause: str) -> None:
        """Report a worker whose set-up failed, and stop the run."""
        text = f"Worker {worker} could not be set up: {cause}"
        stop_with_error(self._result, text, name=f"worker {worker}")

    def _fail_fixture(
        self,
        worker: int,
        part: Part,
        name: str,
        add_to: Callable[[Any], object],
        *,
        is_first: bool,
    ) -> None:
        self._fail(Failure(name, part.subsuite, part.positions, add_to, is_teardown=not is_first))
        if not is_first:
            return
        tests = self._tests[part.subsuite]
        test_ids = tuple(tests[position].id() for position in part.positions)
        self._observe(FixtureFailed(name, test_ids, worker, self._attempt))

    def _fail(self, failure: Failure) -> None:
        if not self._keep(failure):
            failure.add_to(self._result)

    def _test_ended(
        self, worker: int, part: Part, position: int, outcome: Outcome, duration: float
    ) -> None:
        self.finished_tests.add((part.subsuite, position))
        if self._observers:
            test = self._tests[part.subsuite][position]
            self._observe(Finished(test.id(), worker, self._attempt, outcome, duration))

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def _worker_error(text: str) -> Any:
    return exc_info(WorkerError(text))
