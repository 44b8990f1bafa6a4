"""The report of a parallel run: what workers tell, as a result and observers are to hear it."""

import unittest
from collections.abc import Callable, Collection, Sequence
from typing import Any
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]
from unittest.util import strclass

from ..errors import WorkerError
from .events import Event, Finished, Observer, Outcome, Started
from .messages import Begun, Done, Outside, Part
from .raised import decode, exc_info

# What a Django suite does with an event of one of its subsuites.
HandleEvent = Callable[[Any, Any, tuple[Any, ...]], object]

_ATTEMPT = 1


class Report:
    """Tells each test to a result at once and whole, so that those of two workers never mix.

    `tests` lists the test cases of each subsuite.
    """

    def __init__(
        self,
        result: unittest.TestResult,
        tests: Sequence[Sequence[Any]],
        handle_event: HandleEvent,
        *,
        observers: Collection[Observer],
        log: Callable[[str], None],
    ) -> None:
        self._result = result
        self._tests = tests
        self._handle_event = handle_event
        self._observers = observers
        self.log = log

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
            self._observe(Started(test.id(), worker, _ATTEMPT, message.time))

    def done(self, worker: int, part: Part, message: Done) -> None:
        test = self._tests[part.subsuite][message.position]
        events = message.events
        if message.is_encoded:
            events = [decode(event, test) for event in events]
        only = _Only(test)
        for event in events:
            self._handle_event(self._result, only, event)
        if self._observers:
            outcome = Outcome(message.outcome)
            self._observe(Finished(test.id(), worker, _ATTEMPT, outcome, message.duration))

    def outside(self, message: Outside) -> None:
        """Tell what became of the fixtures of a class or a module."""
        method = getattr(self._result, message.method)
        method(_ErrorHolder(message.name), *decode(message.arguments))

    def died(self, worker: int, part: Part, position: int, cause: str, *, is_slow: bool) -> None:
        """Tell of a test with which its worker has died."""
        test = self._tests[part.subsuite][position]
        self._result.startTest(test)
        self._result.addError(test, _told(f"Worker {worker} {cause}"))
        self._result.stopTest(test)
        outcome = Outcome.TIMED_OUT if is_slow else Outcome.CRASHED
        self._observe(Finished(test.id(), worker, _ATTEMPT, outcome, 0.0))

    def fixture_died(self, worker: int, part: Part, fixture: str, cause: str) -> None:
        """Tell of a class with whose set-up, or tear-down, its worker has died."""
        test = self._tests[part.subsuite][part.positions[0]]
        holder: Any = _ErrorHolder(f"{fixture} ({strclass(type(test))})")
        self._result.addError(holder, _told(f"Worker {worker} {cause}"))

    def unsent(self, part: Part, error: Exception) -> None:
        """Tell of tests that cannot be given to another process."""
        test = self._tests[part.subsuite][part.positions[0]]
        holder: Any = _ErrorHolder(f"tests of {strclass(type(test))}")
        self._result.addError(holder, _raised(error))

    def worker_failed(self, worker: int, cause: str) -> None:
        """Tell of a worker that cannot be set up, and stop."""
        holder: Any = _ErrorHolder(f"worker {worker}")
        self._result.addError(holder, _told(f"Worker {worker} could not be set up: {cause}"))
        self._result.stop()

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


class _Only:
    """The tests of a subsuite where all that is told is about one of them."""

    def __init__(self, test: Any) -> None:
        self._test = test

    def __getitem__(self, _index: int) -> Any:
        return self._test


def _told(text: str) -> Any:
    return exc_info(WorkerError(text))


def _raised(error: Exception) -> Any:
    return exc_info(error)
