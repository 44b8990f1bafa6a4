"""The result that observes tests: it wraps any other result, and tells a sink what happens."""

import unittest
from collections.abc import Collection, Iterator
from typing import Any
from unittest.suite import _ErrorHolder, _isnotsuite  # type: ignore[attr-defined]

from .. import decorators
from ..clock import Clock
from ..connections import changes_outside, prepare_for, reset_totals
from ..events import ClassFinished, Outcome, outcome_of
from .exceptions import ExcInfo, exc_info
from .timeouts import Timeout


class TestSink:
    """Times the tests of this process and sets their timeouts; subclasses report the tests.

    Without workers, they are reported to the observers of the run; in a worker, to the main
    process. A test starts when its class is set up, and ends after its flush.

    `worker`: the number of this process's worker.
    `default_timeout`: seconds; None for no timeout.
    `has_timeouts`: False with --pdb.
    """

    def __init__(
        self,
        timeout: Timeout,
        *,
        worker: int,
        default_timeout: float | None,
        has_timeouts: bool = True,
    ) -> None:
        self.timeout = timeout
        self.worker = worker
        self._has_timeouts = has_timeouts
        self._default_timeout = default_timeout
        # The current test, even before its class is set up.
        self.test: Any = None
        self._started_at: float | None = None
        # The calls of the current test's result, for its outcome.
        self.calls: list[tuple[str, object]] = []
        # The current class, with its start and the seconds spent in its tests.
        self._class: str | None = None
        self._class_start, self._usage_before = 0.0, _usage()
        self._test_time = 0.0

    # For subclasses to implement.

    def test_started(self) -> None:
        """Report that the current test starts."""

    def test_finished(self, result: Any, outcome: Outcome, duration: float) -> None:
        """Report that the current test has ended; `duration` is in seconds."""

    def class_finished(self, event: ClassFinished) -> None:
        """Report that a class has ended."""

    def add_fixture_result(self, result: Any, method: str, holder: Any, value: Any) -> None:
        """Add the result of a fixture of a class or module, by a method of `result`."""
        getattr(result, method)(holder, value)

    def prepare_error(self, err: ExcInfo, test: Any, result: Any) -> tuple[Any, ...]:
        """Return an exception as it is added to the result."""
        return err

    def starting_test(self, result: Any) -> None:
        """Run before the result's `startTest`."""

    def stopping_test(self, result: Any) -> None:
        """Run before the result's `stopTest`."""

    def check_run(self, result: Any) -> None:
        """Stop the result between two tests if the run is to end."""

    # Timeouts.

    def set_timeout(self, seconds: float | None) -> None:
        """Set the timeout of what follows, in seconds; None for no timeout."""
        self._arm(seconds)

    def _arm(self, seconds: float | None) -> None:
        self.timeout.set(seconds if self._has_timeouts else None)

    def set_class_timeout(self, test: Any) -> None:
        """Set the timeout of each step of a test's class outside its tests."""
        self.set_timeout(decorators.timeout_of_class(test, self._default_timeout))

    # Classes.

    def start_class(self, name: str) -> None:
        """Start a class, before its database is prepared, which has no timeout."""
        self.set_timeout(None)
        self._class, self._test_time = name, 0.0
        self._class_start, self._usage_before = Clock.time(), _usage()

    def finish_class(self, *, keeps_state: bool | None = None) -> None:
        """Finish the current class, if any."""
        self.set_timeout(None)
        if self._class is None:
            return
        changed_outside = changes_outside()
        duration, processor_time, resets, reset_time = (
            now - before for now, before in zip(_usage(), self._usage_before, strict=True)
        )
        event = ClassFinished(
            test_class=self._class,
            worker=self.worker,
            attempt=1,
            time=self._class_start,
            duration=duration,
            processor_time=processor_time,
            overhead=max(duration - self._test_time, 0.0),
            keeps_state=keeps_state,
            resets=int(resets),
            reset_time=reset_time,
            changed_outside=changed_outside,
        )
        self._class = None
        self.class_finished(event)

    # Tests.

    def select_test(self, test: Any) -> None:
        """Make a test the current one, before its class is set up."""
        self.test = test

    def start_test(self) -> None:
        """Start the current test, whose class is set up."""
        self._started_at, self.calls = Clock.perf_counter(), []
        self.test_started()
        self.set_timeout(decorators.timeout_of(self.test, self._default_timeout))

    def finish_test(self, result: Any) -> None:
        """Finish the current test, if it has started."""
        started, self._started_at = self._started_at, None
        # At once, so that the timeout of the test does not end what follows.
        self._arm(decorators.timeout_of_class(self.test, self._default_timeout))
        if started is not None:
            duration = Clock.perf_counter() - started
            self._test_time += duration
            self.test_finished(result, outcome_of(self.calls), duration)
        self.set_class_timeout(self.test)
        self.check_run(result)


class ObservingResult:
    """Wraps a result of any class, and tells a sink what happens.

    All attributes that are not declared here are those of the result.
    """

    _result: Any
    _sink: TestSink

    def __init__(self, result: Any, sink: TestSink) -> None:
        vars(self).update(_result=result, _sink=sink)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._result, name, value)
        # unittest.TestSuite sets this before each test, after the set-up of its class. There is
        # no other hook between the two.
        if name == "_previousTestClass" and not (
            getattr(value, "_classSetupFailed", False)
            or getattr(self._result, "_moduleSetUpFailed", False)
        ):
            self._sink.start_test()

    def startTest(self, test: Any) -> None:  # noqa: N802
        self._sink.starting_test(self._result)
        self._result.startTest(test)

    def stopTest(self, test: Any) -> None:  # noqa: N802
        self._sink.stopping_test(self._result)
        self._result.stopTest(test)

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        if not self._fail_if_timed_out(test):
            self._result.addSuccess(test)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        self._add_failure("addError", test, err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._add_failure("addFailure", test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._sink.calls.append(("addSubTest", err))
            err = self._sink.prepare_error(err, test, self._result)
        self._result.addSubTest(test, subtest, err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        if isinstance(test, _ErrorHolder):
            self._sink.add_fixture_result(self._result, "addSkip", test, reason)
        elif not self._fail_if_timed_out(test):
            self._sink.calls.append(("addSkip", reason))
            self._result.addSkip(test, reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        if not self._fail_if_timed_out(test):
            self._sink.calls.append(("addExpectedFailure", None))
            self._result.addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self._sink.calls.append(("addUnexpectedSuccess", None))
        self._result.addUnexpectedSuccess(test)

    def _add_failure(self, method: str, test: Any, err: Any) -> None:
        shown = self._sink.prepare_error(err, test, self._result)
        if isinstance(test, _ErrorHolder):
            self._sink.add_fixture_result(self._result, method, test, shown)
        else:
            self._sink.calls.append((method, err))
            getattr(self._result, method)(test, shown)

    def _fail_if_timed_out(self, test: Any) -> bool:
        """Add a failure if the test caught its TestTimeoutError; return whether it did."""
        raised = self._sink.timeout.raised
        if raised is not None:
            self.addFailure(test, exc_info(raised))
        return raised is not None


class ObservedSuiteMixin:
    """Mixin for suites, also nested ones, that run their tests with an ObservingResult."""

    sink: TestSink
    _observed: ObservingResult | None = None

    def run(self, result: Any, debug: bool = False) -> Any:
        is_nested = isinstance(result, ObservingResult)
        self._observed = result if is_nested else ObservingResult(result, self.sink)
        try:
            super().run(self._observed, debug)  # type: ignore[misc]
        finally:
            self._observed = None
        return result

    def __iter__(self) -> Iterator[Any]:
        for test in super().__iter__():  # type: ignore[misc]
            if self._observed is None or not _isnotsuite(test):
                yield test
            else:
                self.sink.select_test(test)
                yield test
                self.sink.finish_test(self._observed)


def observe(
    suite: unittest.TestSuite, mixin: type[ObservedSuiteMixin], **attributes: object
) -> unittest.TestSuite:
    """Add a mixin to the class of a suite, and of the suites in it; return the suite."""
    kind = type(suite)
    suite.__class__ = type(
        kind.__name__, (mixin, kind), {"__module__": kind.__module__, **attributes}
    )
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            observe(test, mixin, **attributes)
    return suite


def prepare_class(test_class: type, own_database: Collection[str]) -> Exception | None:
    """Prepare the database for a class; return the exception, if any, to report.

    `own_database`: labels and tags of the classes that get their own database.
    """
    needs_own = decorators.needs_own_database(test_class, own_database)
    try:
        prepare_for(test_class, own_database=needs_own)
    except Exception as error:
        return error
    return None


def _usage() -> tuple[float, float, float, float]:
    """Return wall-clock and processor time, and the number and time of this process's resets."""
    return Clock.perf_counter(), Clock.process_time(), *reset_totals()
