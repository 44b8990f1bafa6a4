"""Timeouts and events for a run without workers."""

import sys
import time
import unittest
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from unittest.util import strclass

from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from .. import decorators
from ..connections import changes_outside, prepare_for
from ..events import (
    ClassFinished,
    Event,
    Finished,
    FixtureFailed,
    Observer,
    Started,
    outcome_of,
)
from .debugger_hooks import DebuggerHooks, install_hooks
from .exceptions import exc_info, hide_frames
from .lease_check import LeaseCheck, stop_with_error
from .output import LineTracker
from .protocol import ResourceUsage, resource_usage
from .sigterm import RunSignals
from .timeouts import Timeout

# Without --parallel, this process is worker 1.
_WORKER = 1
_ATTEMPT = 1
_STDERR = 2


class SerialResult:
    """Wraps a result of any class to enforce timeouts and notify observers.

    `has_timeouts`: False with --pdb.

    All attributes that are not declared here are those of the result.
    """

    default_timeout: float | None
    has_timeouts: bool
    observers: Collection[Observer]
    lease_check: LeaseCheck
    signals: RunSignals

    _result: Any
    _timeout: Timeout
    _started_at: float | None = None
    _calls: list[tuple[str, object]]
    _class: str | None = None
    _class_start: tuple[float, ResourceUsage]
    _test_time: float = 0.0
    # By the reported name of a fixture: the ids of the tests that do not run if it fails.
    _dependents: Mapping[str, tuple[str, ...]]

    def __init__(self, result: Any, tests: Iterable[Any], **options: Any) -> None:
        vars(self).update(options, _result=result, _timeout=Timeout(_STDERR), _calls=[])
        self._dependents = _dependents(tests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") and name in SerialResult.__annotations__:
            vars(self)[name] = value
        else:
            setattr(self._result, name, value)

    def clear_timeout(self) -> None:
        self._timeout.clear()

    def start_class(self, test: Any) -> None:
        """Start a class, before its set-up."""
        self.finish_class()
        # Preparing the database for the class has no timeout.
        self._timeout.clear()
        self._class, self._test_time = strclass(type(test)), 0.0
        self._class_start = time.time(), resource_usage()

    def finish_class(self) -> None:
        """Finish the current class, if any, and notify observers."""
        if self._class is None:
            return
        self._timeout.clear()
        changed_outside = changes_outside()
        started, before = self._class_start
        usage = resource_usage().since(before)
        self._observe(
            ClassFinished(
                test_class=self._class,
                worker=_WORKER,
                attempt=_ATTEMPT,
                time=started,
                duration=usage.time,
                processor_time=usage.processor_time,
                overhead=max(usage.time - self._test_time, 0.0),
                keeps_state=None,
                resets=usage.resets,
                reset_time=usage.reset_time,
                changed_outside=changed_outside,
            )
        )
        self._class = None

    def set_class_timeout(self, test: Any) -> None:
        """Set the timeout of each step of a test's class outside its tests."""
        self._set_timeout(decorators.timeout_of_class(test, self.default_timeout))

    def _check_run(self) -> None:
        self.signals.reclaim_interrupts()
        why = self.lease_check.check()
        if why and not self._result.shouldStop:
            stop_with_error(self, why)

    def startTest(self, test: Any) -> None:  # noqa: N802
        self._check_run()
        self._result.startTest(test)
        self._start(test)
        self._set_timeout(decorators.timeout_of(test, self.default_timeout))

    def _start(self, test: Any) -> float:
        self._started_at, self._calls = time.perf_counter(), []
        self._observe(Started(test.id(), _WORKER, _ATTEMPT, time.time()))
        return self._started_at

    def stopTest(self, test: Any) -> None:  # noqa: N802
        # For the flush, and the tear-down of the class.
        self.set_class_timeout(test)
        started = self._started_at
        if started is None:
            # Python 3.12.1 does not call startTest for a skipped test.
            started = self._start(test)
            self._record("addSkip", "")
        duration, outcome = time.perf_counter() - started, outcome_of(self._calls)
        self._started_at = None
        self._test_time += duration
        if isinstance(sys.exception(), KeyboardInterrupt):
            # The test was interrupted and has no outcome.
            self._result.testsRun -= 1
        else:
            self._observe(Finished(test.id(), _WORKER, _ATTEMPT, outcome, duration))
        self._result.stopTest(test)
        self._check_run()

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        if not self._fail_if_timed_out(test):
            self._result.addSuccess(test)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        if (name := test.id()) in self._dependents:
            self._observe(FixtureFailed(name, self._dependents[name], _WORKER, _ATTEMPT))
        self._record("addError", err)
        self._result.addError(test, err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._record("addFailure", err)
        self._result.addFailure(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        self._record("addSubTest", err)
        self._result.addSubTest(test, subtest, err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        if not self._fail_if_timed_out(test):
            self._record("addSkip", reason)
            self._result.addSkip(test, reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        if not self._fail_if_timed_out(test):
            self._record("addExpectedFailure", None)
            self._result.addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self._record("addUnexpectedSuccess", None)
        self._result.addUnexpectedSuccess(test)

    def _fail_if_timed_out(self, test: Any) -> bool:
        """Add a failure if the test caught its TestTimeoutError; return whether it did."""
        raised = self._timeout.raised
        if raised is not None:
            self.addFailure(test, exc_info(raised))
        return raised is not None

    def _set_timeout(self, seconds: float | None) -> None:
        self._timeout.set(seconds if self.has_timeouts else None)

    def _record(self, method: str, error: Any) -> None:
        if method in {"addError", "addFailure", "addSubTest"} and error is not None:
            hide_frames(error[1])
        self._calls.append((method, error))

    def _observe(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)


class SerialSuiteMixin:
    """Mixin for suites that wraps results in SerialResult, and prepares the database for classes.

    `result_options`: arguments of SerialResult.
    `own_database`: labels and tags of the classes that get their own database.
    """

    result_options: Mapping[str, Any]
    lines: LineTracker
    own_database: Collection[str] = ()

    def run(self, result: Any, debug: bool = False) -> Any:
        # Not every runner registers its result, as Ctrl-C requires.
        unittest.registerResult(result)
        serial_result = SerialResult(result, iter_test_cases(self), **self.result_options)
        try:
            with (
                self.lines.track(result),
                install_hooks(_ClearTimeout(serial_result.clear_timeout)),
            ):
                super().run(serial_result, debug)  # type: ignore[misc]
                serial_result.finish_class()
        except KeyboardInterrupt:
            # Return, so that the runner shows the failures so far.
            if not self.result_options["signals"].is_aborting:
                raise
        finally:
            serial_result.clear_timeout()
        return result

    def _handleClassSetUp(self, test: Any, result: Any) -> None:  # noqa: N802
        if getattr(result, "_previousTestClass", None) is not type(test):
            result.start_class(test)
            if not self._prepare_class(test, result):
                return
        result.set_class_timeout(test)
        super()._handleClassSetUp(test, result)  # type: ignore[misc]

    def _prepare_class(self, test: Any, result: Any) -> bool:
        """Prepare the database for a class; report an exception as an error of its setUpClass."""
        own_database = decorators.needs_own_database(type(test), self.own_database)
        try:
            prepare_for(type(test), own_database=own_database)
        except Exception as error:
            type(test)._classSetupFailed = True
            self._createClassOrModuleLevelException(  # type: ignore[attr-defined]
                result, error, "setUpClass", strclass(type(test))
            )
            return False
        return True


class _ClearTimeout(DebuggerHooks):
    """Clears the timeout of a test that stops in a debugger."""

    def __init__(self, clear_timeout: Callable[[], None]) -> None:
        self._clear_timeout = clear_timeout

    def should_stop(self, _debugger: Any) -> bool:
        self._clear_timeout()
        return True


def serial_suite(
    suite: unittest.TestSuite, own_database: Collection[str], lines: LineTracker, **options: Any
) -> unittest.TestSuite:
    """Add SerialSuiteMixin to a suite, with `options` for SerialResult."""
    attributes = {"result_options": options, "own_database": own_database, "lines": lines}
    suite.__class__ = type(type(suite).__name__, (SerialSuiteMixin, type(suite)), attributes)
    return suite


def _dependents(tests: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        found[f"setUpClass ({strclass(type(test))})"].append(test.id())
        found[f"setUpModule ({type(test).__module__})"].append(test.id())
    return {name: tuple(test_ids) for name, test_ids in found.items()}
