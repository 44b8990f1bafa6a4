"""Observing the tests of a run without workers."""

import sys
import unittest
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any
from unittest.util import strclass

from django.test.utils import iter_test_cases  # type: ignore[attr-defined]

from ..clock import Clock
from ..events import ClassFinished, Event, Finished, FixtureFailed, Observer, Outcome, Started
from .debugger_hooks import DebuggerHooks, install_hooks
from .exceptions import ExcInfo, exc_info, hide_frames
from .lease_check import LeaseCheck, stop_with_error
from .output import LineTracker
from .results import ObservedSuiteMixin, ObservingResult, TestSink, observe, prepare_class
from .sigterm import RunSignals
from .timeouts import Timeout

_STDERR = 2


class LocalSink(TestSink, DebuggerHooks):
    """Notifies observers of the tests of this process, which is worker 1."""

    def __init__(
        self,
        tests: Iterable[Any],
        *,
        observers: Collection[Observer],
        lease_check: LeaseCheck,
        signals: RunSignals,
        **options: Any,
    ) -> None:
        super().__init__(Timeout(_STDERR), worker=1, **options)
        self._observers = observers
        self._lease_check = lease_check
        self.signals = signals
        # By the reported name of a fixture: the ids of the tests that do not run if it fails.
        self._dependents: dict[str, list[str]] = defaultdict(list)
        for test in tests:
            self._dependents[f"setUpClass ({strclass(type(test))})"].append(test.id())
            self._dependents[f"setUpModule ({type(test).__module__})"].append(test.id())

    def should_stop(self, _debugger: Any) -> bool:
        self.set_timeout(None)
        return True

    def test_started(self) -> None:
        self._observe(Started(self.test.id(), self.worker, 1, Clock.time()))

    def test_finished(self, result: Any, outcome: Outcome, duration: float) -> None:
        self._observe(Finished(self.test.id(), self.worker, 1, outcome, duration))

    def class_finished(self, event: ClassFinished) -> None:
        self._observe(event)

    def add_fixture_result(self, result: Any, method: str, holder: Any, value: Any) -> None:
        name = holder.id()
        if method == "addError" and name in self._dependents:
            self._observe(FixtureFailed(name, tuple(self._dependents[name]), self.worker, 1))
        super().add_fixture_result(result, method, holder, value)

    def prepare_error(self, err: ExcInfo, test: Any, result: Any) -> ExcInfo:
        hide_frames(err[1])
        return err

    def stopping_test(self, result: Any) -> None:
        if isinstance(sys.exception(), KeyboardInterrupt):
            # The test was interrupted and has no outcome.
            result.testsRun -= 1

    def check_run(self, result: Any) -> None:
        self.signals.reclaim_interrupts()
        why = self._lease_check.check()
        if why and not result.shouldStop:
            stop_with_error(result, why)

    def _observe(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


class SerialSuiteMixin(ObservedSuiteMixin):
    """Mixin for the suites of a run without workers.

    `own_database`: labels and tags of the classes that get their own database.
    """

    sink: LocalSink
    own_database: Collection[str]
    lines: LineTracker

    def run(self, result: Any, debug: bool = False) -> Any:
        if isinstance(result, ObservingResult):
            return super().run(result, debug)
        # Not every runner registers its result, as Ctrl-C requires.
        unittest.registerResult(result)
        try:
            with self.lines.track(result), install_hooks(self.sink):
                self.sink.check_run(result)
                super().run(result, debug)
                self.sink.finish_class()
        except KeyboardInterrupt:
            # Return, so that the runner shows the failures so far.
            if not self.sink.signals.is_aborting:
                raise
        finally:
            self.sink.set_timeout(None)
        return result

    def _handleClassSetUp(self, test: Any, result: Any) -> None:  # noqa: N802
        if getattr(result, "_previousTestClass", None) is not type(test):
            self.sink.finish_class()
            self.sink.start_class(strclass(type(test)))
            if error := prepare_class(type(test), self.own_database):
                type(test)._classSetupFailed = True
                self._createClassOrModuleLevelException(  # type: ignore[attr-defined]
                    result, error, "setUpClass", strclass(type(test)), exc_info(error)
                )
                return
            self.sink.set_class_timeout(test)
        super()._handleClassSetUp(test, result)  # type: ignore[misc]


def serial_suite(
    suite: unittest.TestSuite, own_database: Collection[str], lines: LineTracker, **options: Any
) -> unittest.TestSuite:
    """Add SerialSuiteMixin to a suite, with `options` for LocalSink."""
    sink = LocalSink(iter_test_cases(suite), **options)
    return observe(suite, SerialSuiteMixin, sink=sink, own_database=own_database, lines=lines)
