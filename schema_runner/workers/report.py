"""The report of a parallel run, which passes workers' messages to the result and observers."""

import unittest
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
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
from .output import SQL_EVENT, set_sql, wants_sql
from .protocol import FixtureResult, TestFinished, TestStarted

AddTo = Callable[[Any], object]


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
    add_to: AddTo
    is_teardown: bool = False

    def overlaps(self, other: "Failure") -> bool:
        """Whether this and another failure are about the same fixture, or share a test."""
        if self.is_teardown or other.is_teardown:
            return self.name == other.name
        shared = set(self.positions) & set(other.positions)
        return self.subsuite == other.subsuite and bool(shared)


Keep = Callable[[Failure], bool]
# ParallelTestSuite.handle_event: replays an event of a subsuite on a result.
HandleEvent = Callable[[Any, Any, tuple[Any, ...]], object]


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
        keep: Keep = lambda _: False,
    ) -> None:
        self._tests = tests
        self._result = targets.result
        self._targets = targets
        self._attempt = attempt
        self._keep = keep
        self.log, self.announce = targets.log, targets.announce
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
        test = self._tests[part.subsuite][message.position]
        self._observe(Started(test.id(), worker, self._attempt, message.time))

    def test_finished(self, worker: int, part: Part, message: TestFinished) -> None:
        test = self._tests[part.subsuite][message.position]
        events = [decode(event, test) for event in message.events]

        def add_to(result: Any) -> None:
            _replay(result, test, events, message.duration, self._targets.handle_event)

        self._end_test(worker, part, message, Outcome(message.outcome), add_to)

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
            result.addError(test, exc_info(WorkerError(f"Worker {worker} {cause}")))
            result.stopTest(test)

        outcome = Outcome.TIMED_OUT if timed_out else Outcome.CRASHED
        ended = TestFinished(position, [], outcome, 0.0)
        self._end_test(worker, part, ended, outcome, add_to)

    def fixture_died(
        self, worker: int, part: Part, fixture: str, cause: str, *, is_first: bool
    ) -> None:
        """Report the set-up or tear-down of a class during which the worker died."""
        error = WorkerError(f"Worker {worker} {cause}")
        self._fail_class(worker, part, f"{fixture} ({{}})", error, is_first=is_first)

    def part_finished(self, part: Part, event: ClassFinished) -> None:
        self._observe(event._replace(test_class=self._class_name(part), attempt=self._attempt))

    def worker_ready(self, worker: int, duration: float, *, is_replacement: bool) -> None:
        self._observe(WorkerReady(worker, duration, is_replacement))

    def part_not_sent(self, worker: int, part: Part, error: Exception) -> None:
        """Report tests that cannot be pickled for a worker."""
        self._fail_class(worker, part, "tests of {}", error, is_first=True)

    def worker_failed(self, worker: int, cause: str) -> None:
        """Report a worker whose set-up failed, and stop the run."""
        text = f"Worker {worker} could not be set up: {cause}"
        stop_with_error(self._result, text, name=f"worker {worker}")

    def _class_name(self, part: Part) -> str:
        return strclass(type(self._tests[part.subsuite][part.positions[0]]))

    def _fail_class(
        self, worker: int, part: Part, name: str, error: Exception, *, is_first: bool
    ) -> None:
        """Report an error of the class of a part; `name` has a placeholder for the class."""
        holder: Any = _ErrorHolder(name.format(self._class_name(part)))

        def add_to(result: Any) -> None:
            result.addError(holder, exc_info(error))

        self._fail_fixture(worker, part, holder.id(), add_to, is_first=is_first)

    def _fail_fixture(
        self, worker: int, part: Part, name: str, add_to: AddTo, *, is_first: bool
    ) -> None:
        self._fail(Failure(name, part.subsuite, part.positions, add_to, is_teardown=not is_first))
        if is_first:
            tests = self._tests[part.subsuite]
            test_ids = tuple(tests[position].id() for position in part.positions)
            self._observe(FixtureFailed(name, test_ids, worker, self._attempt))

    def _fail(self, failure: Failure) -> None:
        if not self._keep(failure):
            failure.add_to(self._result)

    def _end_test(
        self, worker: int, part: Part, message: TestFinished, outcome: Outcome, add_to: AddTo
    ) -> None:
        position, test_id = message.position, self._tests[part.subsuite][message.position].id()
        if outcome in BAD_OUTCOMES:
            self._fail(Failure(test_id, part.subsuite, (position,), add_to))
        else:
            add_to(self._result)
        self.finished_tests.add((part.subsuite, position))
        self._observe(Finished(test_id, worker, self._attempt, outcome, message.duration))

    def _observe(self, event: Event) -> None:
        for observer in self._targets.observers:
            observer(event)


def _replay(
    result: Any,
    test: Any,
    events: Sequence[tuple[Any, ...]],
    seconds: float,
    handle_event: HandleEvent,
) -> None:
    """Replay the events of a test that took `seconds` on a result."""
    seconds = next((event[2] for event in events if event[0] == "addDuration"), seconds)
    for event in events:
        attributes = _attributes(result) if event[0] == "startTest" else None
        if event[0] == SQL_EVENT:
            set_sql(result, event[-1])
        else:
            handle_event(result, [test], (event[0], 0, *event[2:]))
        if attributes is not None:
            _shift_start_time(result, attributes, seconds)
    if wants_sql(result):
        # The next event, maybe of another worker, must not show this SQL.
        set_sql(result, "")


def _shift_start_time(result: Any, before: dict[str, Any], seconds: float) -> None:
    """Move the start time of a test back, for results that measure time themselves."""
    for name, value in _attributes(result).items():
        if value is before.get(name):
            continue
        if isinstance(value, float):
            setattr(result, name, value - seconds)
        elif isinstance(value, datetime):
            setattr(result, name, value - timedelta(seconds=seconds))


def _attributes(result: Any) -> dict[str, Any]:
    return dict(getattr(result, "__dict__", {}))
