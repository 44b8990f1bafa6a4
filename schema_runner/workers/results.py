"""Results of a worker's tests: sent as each test ends, and replayed in the main process."""

import unittest
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from unittest.result import STDERR_LINE, STDOUT_LINE
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]

from django.test.runner import DummyList, RemoteTestResult

from .exceptions import EncodedExcInfo
from .output import SQL_EVENT, set_sql, wants_sql
from .reporter import Reporter


class ReportingMixin:
    """Mixin for subclasses of Django's RemoteTestResult that sends events test by test.

    `with_locals`: show local variables in tracebacks.
    `reports_subtests`: report passing subtests too.
    """

    reporter: Reporter
    with_locals: bool
    reports_subtests: bool
    events: list[Any]

    # unittest.TestSuite sets this before each test, after the set-up of its class. There is no
    # other hook between the two.
    @property
    def _previousTestClass(self) -> type | None:  # noqa: N802
        return self.__dict__.get("_previousTestClass")

    @_previousTestClass.setter
    def _previousTestClass(self, test_class: type | None) -> None:  # noqa: N802
        self.__dict__["_previousTestClass"] = test_class
        failed = getattr(test_class, "_classSetupFailed", False)
        if not failed and not getattr(self, "_moduleSetUpFailed", False):
            self.reporter.start_test()

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        exc_info = self._encode_exc_info(err, test)
        if isinstance(test, _ErrorHolder):
            self.reporter.report_fixture("addError", test.id(), exc_info)
            # RemoteTestResult would attribute it to the previous test.
            unittest.TestResult.addError(self, test, exc_info)  # type: ignore[arg-type]
        else:
            self._add_sql()
            super().addError(test, exc_info)  # type: ignore[misc]

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._add_sql()
        super().addFailure(test, self._encode_exc_info(err, test))  # type: ignore[misc]

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        exc_info = err and self._encode_exc_info(err, test)
        if exc_info:
            self._add_sql()
        super().addSubTest(test, subtest, exc_info)  # type: ignore[misc]
        if err is None and self.reports_subtests:
            self.events.append(("addSubTest", self.testsRun - 1, subtest, None))  # type: ignore[attr-defined]

    def startTest(self, test: Any) -> None:  # noqa: N802
        if self.reporter.sql is not None:
            self.reporter.sql.clear()
        super().startTest(test)  # type: ignore[misc]

    def stopTest(self, test: Any) -> None:  # noqa: N802
        if self.reporter.sql is not None and self.reporter.sql.shows_all:
            self._add_sql()
        super().stopTest(test)  # type: ignore[misc]

    def _encode_exc_info(self, err: Any, test: Any) -> EncodedExcInfo:
        if self.reporter.debugger is not None:
            err = self.reporter.debugger.replace_quit(err)
        return EncodedExcInfo(
            err, test, output=self._buffered_output(), with_locals=self.with_locals
        )

    def _buffered_output(self) -> str:
        """Return the output that --buffer captured, formatted as unittest does in an error."""
        if not self.buffer:  # type: ignore[attr-defined]
            return ""
        buffers = {STDOUT_LINE: self._stdout_buffer, STDERR_LINE: self._stderr_buffer}  # type: ignore[attr-defined]
        outputs = {line: buffer.getvalue() for line, buffer in buffers.items()}
        return "\n".join(
            line % output.removesuffix("\n") for line, output in outputs.items() if output
        )

    def _add_sql(self) -> None:
        if self.reporter.sql is not None:
            self.events.append((SQL_EVENT, 0, self.reporter.sql.text))

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        if isinstance(test, _ErrorHolder):
            self.reporter.report_fixture("addSkip", test.id(), reason)
        else:
            super().addSkip(test, reason)  # type: ignore[misc]

    def check_picklable(self, test: Any, err: Any) -> None:
        """Do nothing: `exceptions.encode` replaces what cannot be pickled."""

    def check_subtest_picklable(self, test: Any, subtest: Any) -> None:
        """Do nothing, as in `check_picklable`."""


class WorkerResult(ReportingMixin, RemoteTestResult):
    """RemoteTestResult without tblib's slow registration of all exception classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        unittest.TestResult.__init__(self, *args, **kwargs)
        nowhere: Any = DummyList()
        self.failures = self.errors = self.skipped = nowhere
        self.expectedFailures = self.unexpectedSuccesses = nowhere
        self.events = []


def result_class(
    wanted: type | None, reporter: Reporter, **options: bool
) -> Callable[..., unittest.TestResult]:
    """Create a subclass of a runner's result class that reports to `reporter`.

    `options` are attributes of ReportingMixin.
    """
    bases = (WorkerResult,) if wanted in {None, RemoteTestResult} else (ReportingMixin, wanted)
    return type("WorkerResult", bases, {"reporter": reporter, **options})


class PartSuiteMixin:
    """Mixin for suites that run tests of one class and report their progress.

    `tests`: pairs of position and test case.
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
            self._reporter.select_test(position, test)
            yield test
            events, self._result.events = self._result.events, []
            self._reporter.finish_test(events, self._result, is_last=position == last)


def part_suite_class(wanted: type[unittest.TestSuite]) -> Callable[..., unittest.TestSuite]:
    """Create a subclass of a runner's suite class that runs a part."""
    return type(wanted.__name__, (PartSuiteMixin, wanted), {"__module__": wanted.__module__})


# ParallelTestSuite.handle_event: replays an event of a subsuite on a result.
HandleEvent = Callable[[Any, Any, tuple[Any, ...]], object]


class Replay:
    """Replays the events of a test that took `seconds`."""

    def __init__(self, test: Any, events: Iterable[tuple[Any, ...]], seconds: float) -> None:
        self._tests, self._events = _SingleTest(test), list(events)
        durations = [event[2] for event in self._events if event[0] == "addDuration"]
        self._seconds = durations[0] if durations else seconds

    def add_to(self, result: Any, handle_event: HandleEvent) -> None:
        for event in self._events:
            attributes = _attributes(result) if event[0] == "startTest" else None
            if event[0] == SQL_EVENT:
                set_sql(result, event[-1])
            else:
                handle_event(result, self._tests, event)
            if attributes is not None:
                self._shift_start_time(result, attributes)
        if wants_sql(result):
            # The next event, maybe of another worker, must not show this SQL.
            set_sql(result, "")

    def _shift_start_time(self, result: Any, attributes: dict[str, Any]) -> None:
        """Move the start time of a test back, for results that measure time themselves."""
        for name, value in _attributes(result).items():
            if value is attributes.get(name):
                continue
            if isinstance(value, float):
                setattr(result, name, value - self._seconds)
            elif isinstance(value, datetime):
                setattr(result, name, value - timedelta(seconds=self._seconds))


def _attributes(result: Any) -> dict[str, Any]:
    return dict(getattr(result, "__dict__", {}))


class _SingleTest:
    """A subsuite that has the same test at each index, for `handle_event`."""

    def __init__(self, test: Any) -> None:
        self._test = test

    def __getitem__(self, _index: int) -> Any:
        return self._test
