"""The report of a parallel run: what workers tell, as a result and observers are to hear it."""

import unittest
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]
from unittest.util import strclass

from ..errors import WorkerError
from ..events import (
    BAD,
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
from .lease_check import end_for
from .output import show_sql, wants_sql
from .protocol import Begun, Left, PartFinished, ProjectChanged
from .results import HandleEvent, Replay


class Failure(NamedTuple):
    """A test that has failed, or a fixture before tests that have not been run because of it.

    Or one that `is_after` tests, which have been run by then. The tests are those at `positions`
    of a subsuite. `tell` tells a result of it.
    """

    name: str
    subsuite: int
    positions: tuple[int, ...]
    tell: Callable[[Any], object]
    is_after: bool = False

    def is_about(self, other: "Failure") -> bool:
        """Whether the one has failed as well as the other, or some test not passed for both."""
        if self.is_after or other.is_after:
            return self.name == other.name
        shared = set(self.positions) & set(other.positions)
        return self.subsuite == other.subsuite and bool(shared)


Keep = Callable[[Failure], bool]


class Audience(NamedTuple):
    """Who is told of tests: a result, by way of `handle_event`, observers, and a log.

    `announce` tells the user that no more tests begin, where a signal is the cause.
    """

    result: unittest.TestResult
    handle_event: HandleEvent
    observers: Collection[Observer]
    log: Callable[[str], None]
    announce: Callable[[], None] = lambda: None


def keep_nothing(_failure: Failure) -> bool:
    """Have the result told of every failure at once."""
    return False


class Report:
    """Tells each test to a result at once and whole, so that those of two workers never mix.

    `tests` lists the test cases of each subsuite. Where `keep` takes a failure, the result hears
    nothing of it unless that calls its `tell`.
    """

    def __init__(
        self,
        tests: Sequence[Sequence[Any]],
        audience: Audience,
        *,
        attempt: int = 1,
        keep: Keep = keep_nothing,
    ) -> None:
        self._tests = tests
        self._result = audience.result
        self._handle_event = audience.handle_event
        self._observers = audience.observers
        self._attempt = attempt
        self._keep = keep
        self.log = audience.log
        self.announce = audience.announce
        # The tests that have come to an end: subsuites and positions.
        self.ended: set[tuple[int, int]] = set()

    @property
    def is_stopped(self) -> bool:
        """Whether no more tests are to begin."""
        return self._result.shouldStop

    @property
    def is_failfast(self) -> bool:
        """Whether that is because one has failed."""
        return self._result.failfast and not self._result.wasSuccessful()

    def begun(self, worker: int, part: Part, message: Begun) -> None:
        if self._observers:
            test = self._tests[part.subsuite][message.position]
            self._observe(Started(test.id(), worker, self._attempt, message.time))

    def done(self, worker: int, part: Part, message: PartFinished) -> None:
        test = self._tests[part.subsuite][message.position]
        events = message.events
        if message.is_encoded:
            events = [decode(event, test) for event in events]
        replay = Replay(test, events, message.duration)

        def tell(result: Any) -> None:
            replay.tell(result, self._handle_event)

        if message.outcome in BAD:
            self._fail(Failure(test.id(), part.subsuite, (message.position,), tell))
        else:
            tell(self._result)
        self._finish(worker, part, message.position, Outcome(message.outcome), message.duration)

    def outside(self, worker: int, part: Part, message: ProjectChanged, *, is_first: bool) -> None:
        """Tell what became of the fixtures of a class or a module, before tests if `is_first`."""
        holder, arguments = _ErrorHolder(message.name), decode(message.arguments)

        def tell(result: Any) -> None:
            if wants_sql(result):
                show_sql(result, message.sql)
            getattr(result, message.method)(holder, *arguments)

        if message.method == "addError":
            self._fail_fixture(worker, part, message.name, tell, is_first=is_first)
        else:
            tell(self._result)

    def died(self, worker: int, part: Part, position: int, cause: str, *, is_slow: bool) -> None:
        """Tell of a test with which its worker has died."""
        test = self._tests[part.subsuite][position]

        def tell(result: Any) -> None:
            result.startTest(test)
            result.addError(test, _told(f"Worker {worker} {cause}"))
            result.stopTest(test)

        self._fail(Failure(test.id(), part.subsuite, (position,), tell))
        outcome = Outcome.TIMED_OUT if is_slow else Outcome.CRASHED
        self._finish(worker, part, position, outcome, 0.0)

    def fixture_died(
        self, worker: int, part: Part, fixture: str, cause: str, *, is_first: bool
    ) -> None:
        """Tell of a class with whose set-up, or tear-down, its worker has died."""
        test = self._tests[part.subsuite][part.positions[0]]
        holder: Any = _ErrorHolder(f"{fixture} ({strclass(type(test))})")

        def tell(result: Any) -> None:
            result.addError(holder, _told(f"Worker {worker} {cause}"))

        self._fail_fixture(worker, part, holder.id(), tell, is_first=is_first)

    def left(self, worker: int, part: Part, message: Left, tested: float) -> None:
        """Tell observers of a part that is over, of whose time so many seconds were its tests'."""
        if self._observers:
            test, cost = self._tests[part.subsuite][part.positions[0]], message.cost
            self._observe(
                ClassFinished(
                    test_class=strclass(type(test)),
                    worker=worker,
                    attempt=self._attempt,
                    time=message.time,
                    duration=cost.time,
                    processor_time=cost.processor_time,
                    overhead=max(cost.time - tested, 0.0),
                    keeps_state=message.keeps_state,
                    resets=cost.resets,
                    reset_time=cost.reset_time,
                    changed_outside=message.changed_outside,
                )
            )

    def ready(self, worker: int, duration: float, *, is_replacement: bool) -> None:
        self._observe(WorkerReady(worker, duration, is_replacement))

    def unsent(self, worker: int, part: Part, error: Exception) -> None:
        """Tell of tests that cannot be given to another process."""
        test = self._tests[part.subsuite][part.positions[0]]
        holder: Any = _ErrorHolder(f"tests of {strclass(type(test))}")

        def tell(result: Any) -> None:
            result.addError(holder, exc_info(error))

        self._fail_fixture(worker, part, holder.id(), tell, is_first=True)

    def worker_failed(self, worker: int, cause: str) -> None:
        """Tell of a worker that cannot be set up, and stop."""
        text = f"Worker {worker} could not be set up: {cause}"
        end_for(self._result, text, where=f"worker {worker}")

    def _fail_fixture(
        self, worker: int, part: Part, name: str, tell: Callable[[Any], object], *, is_first: bool
    ) -> None:
        self._fail(Failure(name, part.subsuite, part.positions, tell, is_after=not is_first))
        if not is_first:
            return
        tests = self._tests[part.subsuite]
        test_ids = tuple(tests[position].id() for position in part.positions)
        self._observe(FixtureFailed(name, test_ids, worker, self._attempt))

    def _fail(self, failure: Failure) -> None:
        if not self._keep(failure):
            failure.tell(self._result)

    def _finish(
        self, worker: int, part: Part, position: int, outcome: Outcome, duration: float
    ) -> None:
        self.ended.add((part.subsuite, position))
        if self._observers:
            test = self._tests[part.subsuite][position]
            self._observe(Finished(test.id(), worker, self._attempt, outcome, duration))

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def _told(text: str) -> Any:
    return exc_info(WorkerError(text))
