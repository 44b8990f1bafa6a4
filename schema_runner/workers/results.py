"""Results of a worker's tests: told to the run as they end, and replayed there."""

import unittest
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from unittest.result import STDERR_LINE, STDOUT_LINE
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]

from django.test.runner import DummyList, RemoteTestResult

from .exceptions import Caught
from .output import EVENT, show_sql, wants_sql
from .reporter import Reporter


class ReportingMixin:
    """Put before a subclass of Django's RemoteTestResult, whose `events` are told test by test."""

    reporter: Reporter
    with_locals: bool
    tells_subtests: bool
    events: list[Any]

    # TestSuite sets this right before each test, when its class is set up, in all versions of
    # Python. Nothing else tells a class that is set up from a test that is.
    @property
    def _previousTestClass(self) -> type | None:  # noqa: N802
        return self.__dict__.get("_previousTestClass")

    @_previousTestClass.setter
    def _previousTestClass(self, test_class: type | None) -> None:  # noqa: N802
        self.__dict__["_previousTestClass"] = test_class
        failed = getattr(test_class, "_classSetupFailed", False)
        if not failed and not getattr(self, "_moduleSetUpFailed", False):
            self.reporter.begin()

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        caught = self._caught(err, test)
        if isinstance(test, _ErrorHolder):
            self.reporter.tell("addError", test.id(), caught)
            # RemoteTestResult would have it about the test before.
            unittest.TestResult.addError(self, test, caught)  # type: ignore[arg-type]
        else:
            self._tell_sql()
            super().addError(test, caught)  # type: ignore[misc]

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._tell_sql()
        super().addFailure(test, self._caught(err, test))  # type: ignore[misc]

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        caught = err and self._caught(err, test)
        if caught:
            self._tell_sql()
        super().addSubTest(test, subtest, caught)  # type: ignore[misc]
        if err is None and self.tells_subtests:
            self.events.append(("addSubTest", self.testsRun - 1, subtest, None))  # type: ignore[attr-defined]

    def startTest(self, test: Any) -> None:  # noqa: N802
        if self.reporter.sql is not None:
            self.reporter.sql.begin()
        super().startTest(test)  # type: ignore[misc]

    def stopTest(self, test: Any) -> None:  # noqa: N802
        if self.reporter.sql is not None and self.reporter.sql.shows_all:
            self._tell_sql()
        super().stopTest(test)  # type: ignore[misc]

    def _caught(self, err: Any, test: Any) -> Caught:
        if self.reporter.debugger is not None:
            err = self.reporter.debugger.shown(err)
        return Caught(err, test, output=self._held_back(), with_locals=self.with_locals)

    def _held_back(self) -> str:
        """Return what --buffer has kept of a test's output, as unittest shows it with an error."""
        if not self.buffer:  # type: ignore[attr-defined]
            return ""
        buffers = {STDOUT_LINE: self._stdout_buffer, STDERR_LINE: self._stderr_buffer}  # type: ignore[attr-defined]
        outputs = {line: buffer.getvalue() for line, buffer in buffers.items()}
        return "\n".join(
            line % output.removesuffix("\n") for line, output in outputs.items() if output
        )

    def _tell_sql(self) -> None:
        if self.reporter.sql is not None:
            self.events.append((EVENT, 0, self.reporter.sql.text))

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        if isinstance(test, _ErrorHolder):
            self.reporter.tell("addSkip", test.id(), reason)
        else:
            super().addSkip(test, reason)  # type: ignore[misc]

    def check_picklable(self, test: Any, err: Any) -> None:
        """Nothing to check: what cannot be pickled is told as text."""

    def check_subtest_picklable(self, test: Any, subtest: Any) -> None:
        """The same for subtests."""


class WorkerResult(ReportingMixin, RemoteTestResult):
    """Django's, without the search for all classes of exceptions that it begins with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        unittest.TestResult.__init__(self, *args, **kwargs)
        nowhere: Any = DummyList()
        self.failures = self.errors = self.skipped = nowhere
        self.expectedFailures = self.unexpectedSuccesses = nowhere
        self.events = []


def result_class(
    wanted: type | None, reporter: Reporter, **of_run: bool
) -> Callable[..., unittest.TestResult]:
    """Return the class of results that a runner wants, as one that tells the reporter.

    What the run's own result wants are attributes: `with_locals`, those of tracebacks, and
    `tells_subtests`, those that pass, too.
    """
    bases = (WorkerResult,) if wanted in {None, RemoteTestResult} else (ReportingMixin, wanted)
    return type("WorkerResult", bases, {"reporter": reporter, **of_run})


class PartSuiteMixin:
    """Put before a class of suites, for some tests of one class.

    It has their positions, and who is told how far they have come.
    """

    _tests: list[Any]

    def __init__(self, tests: Sequence[tuple[int, Any]], reporter: Reporter) -> None:
        super().__init__([test for _, test in tests])  # type: ignore[call-arg]
        self._positions = [position for position, _ in tests]
        self._reporter = reporter
        self._result: Any = None

    def run(self, result: Any, debug: bool = False) -> Any:
        self._result = result
        return super().run(result, debug)  # type: ignore[misc]

    def __iter__(self) -> Iterator[Any]:
        last = self._positions[-1] if self._positions else None
        for position, test in zip(self._positions, list(self._tests), strict=True):
            if self._result is None:
                yield test
                continue
            self._reporter.take_up(position, test)
            yield test
            events, self._result.events = self._result.events, []
            self._reporter.finish(events, self._result, is_last=position == last)


def part_suite(wanted: type[unittest.TestSuite]) -> Callable[..., unittest.TestSuite]:
    """Return the class of suites that a runner wants, for what a worker is given at a time."""
    return type(wanted.__name__, (PartSuiteMixin, wanted), {"__module__": wanted.__module__})


# What a Django suite does with an event of one of its subsuites.
HandleEvent = Callable[[Any, Any, tuple[Any, ...]], object]


class Replay:
    """The events of a test that took `seconds`."""

    def __init__(self, test: Any, events: Iterable[tuple[Any, ...]], seconds: float) -> None:
        self._tests, self._events = _Only(test), list(events)
        measured = [event[2] for event in self._events if event[0] == "addDuration"]
        self._seconds = measured[0] if measured else seconds

    def tell(self, result: Any, handle_event: HandleEvent) -> None:
        for event in self._events:
            before = _attributes(result) if event[0] == "startTest" else None
            if event[0] == EVENT:
                show_sql(result, event[-1])
            else:
                handle_event(result, self._tests, event)
            if before is not None:
                self._set_back(result, before)
        if wants_sql(result):
            # Else what comes next might be shown with it, though it is of another worker.
            show_sql(result, "")

    def _set_back(self, result: Any, before: dict[str, Any]) -> None:
        """Set back the time at which a test began, for a result that measures time itself."""
        for name, value in _attributes(result).items():
            if value is before.get(name):
                continue
            if isinstance(value, float):
                setattr(result, name, value - self._seconds)
            elif isinstance(value, datetime):
                setattr(result, name, value - timedelta(seconds=self._seconds))


def _attributes(result: Any) -> dict[str, Any]:
    return dict(getattr(result, "__dict__", {}))


class _Only:
    """The tests of a subsuite where all that is told is about one of them."""

    def __init__(self, test: Any) -> None:
        self._test = test

    def __getitem__(self, _index: int) -> Any:
        return self._test
