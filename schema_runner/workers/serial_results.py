"""What workers do about time limits and events, for a run without workers."""

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
from .debugger_hooks import DebuggerHooks, debuggers_call
from .exceptions import exc_info, hide_frames
from .lease_check import LeaseCheck, end_for
from .output import Lines
from .protocol import Cost, cost_so_far
from .sigterm import RunSignals
from .timeouts import Timeout

# Without --parallel, this process is worker 1.
_WORKER = 1
_ATTEMPT = 1
_STDERR = 2


class SerialResult:
    """Stands before a result, of whatever class: keeps time limits and tells observers.

    It keeps none where `has_limits` is false, as with a debugger. Attributes that are not declared
    here are the result's.
    """

    time_limit: float | None
    has_limits: bool
    observers: Collection[Observer]
    watch: LeaseCheck
    signals: RunSignals

    _result: Any
    _timeout: Timeout
    _begun: float | None = None
    _calls: list[tuple[str, object]]
    _class: str | None = None
    _class_begun: tuple[float, Cost]
    _tested: float = 0.0
    # The tests that are not run where a fixture of this name fails.
    _dependents: Mapping[str, tuple[str, ...]]

    def __init__(self, result: Any, tests: Iterable[Any], **of_run: Any) -> None:
        vars(self).update(of_run, _result=result, _timeout=Timeout(_STDERR), _calls=[])
        self._dependents = _dependents(tests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") and name in SerialResult.__annotations__:
            vars(self)[name] = value
        else:
            setattr(self._result, name, value)

    def clear_alarm(self) -> None:
        self._timeout.clear()

    def begin_class(self, test: Any) -> None:
        """Note that another class is about to be set up."""
        self.end_class()
        # That of the class before: what is prepared for this one may take longer.
        self._timeout.clear()
        self._class, self._tested = strclass(type(test)), 0.0
        self._class_begun = time.time(), cost_so_far()

    def end_class(self) -> None:
        """Tell observers of the class that is over, if there is one."""
        if self._class is None:
            return
        self._timeout.clear()
        changed = changes_outside()
        begun, before = self._class_begun
        cost = cost_so_far().since(before)
        self._observe(
            ClassFinished(
                test_class=self._class,
                worker=_WORKER,
                attempt=_ATTEMPT,
                time=begun,
                duration=cost.time,
                processor_time=cost.processor_time,
                overhead=max(cost.time - self._tested, 0.0),
                keeps_state=None,
                resets=cost.resets,
                reset_time=cost.reset_time,
                changed_outside=changed,
            )
        )
        self._class = None

    def limit_class(self, test: Any) -> None:
        """Keep the limit of a test's class, for what that does around its tests."""
        self._set(decorators.timeout_of_class(test, self.time_limit))

    def _look_after_the_run(self) -> None:
        self.signals.take_back_interrupts()
        why = self.watch.heed()
        if why and not self._result.shouldStop:
            end_for(self, why)

    def startTest(self, test: Any) -> None:  # noqa: N802
        self._look_after_the_run()
        self._result.startTest(test)
        self._begin(test)
        self._set(decorators.timeout_of(test, self.time_limit))

    def _begin(self, test: Any) -> float:
        self._begun, self._calls = time.perf_counter(), []
        self._observe(Started(test.id(), _WORKER, _ATTEMPT, time.time()))
        return self._begun

    def stopTest(self, test: Any) -> None:  # noqa: N802
        # What comes next is the flush, and what the class does after its last test.
        self.limit_class(test)
        begun = self._begun
        if begun is None:
            # Python 3.12.1 does not start a test that is skipped.
            begun = self._begin(test)
            self._note("addSkip", "")
        duration, outcome = time.perf_counter() - begun, outcome_of(self._calls)
        self._begun = None
        self._tested += duration
        if isinstance(sys.exception(), KeyboardInterrupt):
            # It was broken off: nothing is known of it.
            self._result.testsRun -= 1
        else:
            self._observe(Finished(test.id(), _WORKER, _ATTEMPT, outcome, duration))
        self._result.stopTest(test)
        self._look_after_the_run()

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        if not self._fails_by_time(test):
            self._result.addSuccess(test)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        if (name := test.id()) in self._dependents:
            self._observe(FixtureFailed(name, self._dependents[name], _WORKER, _ATTEMPT))
        self._note("addError", err)
        self._result.addError(test, err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._note("addFailure", err)
        self._result.addFailure(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        self._note("addSubTest", err)
        self._result.addSubTest(test, subtest, err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        if not self._fails_by_time(test):
            self._note("addSkip", reason)
            self._result.addSkip(test, reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        if not self._fails_by_time(test):
            self._note("addExpectedFailure", None)
            self._result.addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self._note("addUnexpectedSuccess", None)
        self._result.addUnexpectedSuccess(test)

    def _fails_by_time(self, test: Any) -> bool:
        """Fail a test that has caught its time limit; return whether it is one."""
        raised = self._timeout.raised
        if raised is not None:
            self.addFailure(test, exc_info(raised))
        return raised is not None

    def _set(self, seconds: float | None) -> None:
        self._timeout.set(seconds if self.has_limits else None)

    def _note(self, method: str, error: Any) -> None:
        if method in {"addError", "addFailure", "addSubTest"} and error is not None:
            hide_frames(error[1])
        self._calls.append((method, error))

    def _observe(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)


class SerialSuiteMixin:
    """Put before a class of suites, whose results are limited while they run.

    Results are of whatever class a runner of tests has chosen. Before a class is set up, it is
    made sure that it finds the structure of the database that it should, or a database of its
    own: `own_database` has the labels and tags of those that want one.
    """

    limits: Mapping[str, Any]
    lines: Lines
    own_database: Collection[str] = ()

    def run(self, result: Any, debug: bool = False) -> Any:
        # Not all runners of tests do so.
        unittest.registerResult(result)
        limited_result = SerialResult(result, iter_test_cases(self), **self.limits)
        try:
            with (
                self.lines.follow(result),
                debuggers_call(_NoTimeout(limited_result.clear_alarm)),
            ):
                super().run(limited_result, debug)  # type: ignore[misc]
                limited_result.end_class()
        except KeyboardInterrupt:
            # What failed before is shown as ever.
            if not self.limits["signals"].ends_now:
                raise
        finally:
            limited_result.clear_alarm()
        return result

    def _handleClassSetUp(self, test: Any, result: Any) -> None:  # noqa: N802
        if getattr(result, "_previousTestClass", None) is not type(test):
            result.begin_class(test)
            if not self._is_prepared(test, result):
                return
        result.limit_class(test)
        super()._handleClassSetUp(test, result)  # type: ignore[misc]

    def _is_prepared(self, test: Any, result: Any) -> bool:
        """Prepare for the class of a test; where that fails, its set-up has failed."""
        wants_own = decorators.needs_own_database(type(test), self.own_database)
        try:
            prepare_for(type(test), own_database=wants_own)
        except Exception as error:
            type(test)._classSetupFailed = True
            self._createClassOrModuleLevelException(  # type: ignore[attr-defined]
                result, error, "setUpClass", strclass(type(test))
            )
            return False
        return True


class _NoTimeout(DebuggerHooks):
    """Keeps no limit of a test that has stopped in a debugger."""

    def __init__(self, clear_alarm: Callable[[], None]) -> None:
        self._clear_alarm = clear_alarm

    def opens(self, _debugger: Any) -> bool:
        self._clear_alarm()
        return True


def serial_suite(
    suite: unittest.TestSuite, own_database: Collection[str], lines: Lines, **limits: Any
) -> unittest.TestSuite:
    """Return a suite as one that limits its results; `limits` are attributes of those.

    It takes classes to a database of their own that `own_database` names by labels or tags.
    """
    attributes = {"limits": limits, "own_database": own_database, "lines": lines}
    suite.__class__ = type(type(suite).__name__, (SerialSuiteMixin, type(suite)), attributes)
    return suite


def _dependents(tests: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        found[f"setUpClass ({strclass(type(test))})"].append(test.id())
        found[f"setUpModule ({type(test).__module__})"].append(test.id())
    return {name: tuple(test_ids) for name, test_ids in found.items()}
