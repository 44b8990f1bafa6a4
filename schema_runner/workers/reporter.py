"""A worker's reports to the main process."""

import os
import threading
import unittest
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from os import getpid
from typing import TYPE_CHECKING, Any
from unittest.result import STDERR_LINE, STDOUT_LINE
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]

from django.test.runner import DummyList, RemoteTestResult

from .. import decorators
from ..clock import Clock
from ..events import ClassFinished, Outcome
from ..scheduling.queue import Part
from .exceptions import EncodedExcInfo, ExcInfo, encode
from .output import SQL_EVENT
from .pipes import Sender
from .protocol import (
    FixtureResult,
    PartFinished,
    PartStarted,
    TestFinished,
    TestStarted,
    TimeoutSet,
    WorkerConfig,
)
from .results import ObservedSuiteMixin, TestSink, observe
from .shared_state import SharedState
from .timeouts import Timeout

if TYPE_CHECKING:
    from .output import SqlLog

# Waking up the main process for each test could cost more than the test. It reads reports
# periodically, and the worker wakes it up when more than this many bytes are waiting.
_MAX_UNREAD_BYTES = 1 << 15


class Reporter(TestSink):
    """Sends what a worker's tests do, and other messages of the worker, to the main process.

    `wakeup`: see `Pipes`; `Timeout` writes the stacks of a stuck worker to it.
    """

    def __init__(
        self,
        reports: Sender,
        wakeup: Connection,
        config: WorkerConfig,
        *,
        is_stopped: Callable[[], bool],
    ) -> None:
        super().__init__(
            Timeout(wakeup.fileno(), lambda seconds: self.send(TimeoutSet(seconds))),
            worker=config.number,
            default_timeout=config.settings.test_timeout,
        )
        self._reports = reports
        self._wakeup = wakeup
        self._config = config
        self.is_stopped = is_stopped
        # The WorkerDebugger, which sets this.
        self.debugger: Any = None
        # Set if the result shows the SQL of tests.
        self.sql: SqlLog | None = None
        # A debugger may stop in another thread.
        self._lock = threading.RLock()
        self._has_timeout = False
        self._pid = getpid()
        # Messages that are sent with the next one: nothing can fail in between.
        self._pending: list[object] = []
        self._unread_bytes = 0
        # The positions of the tests in the part, and of the current one.
        self._positions: Sequence[int] = ()
        self._index = -1
        self._result_class = _recording_class(config)
        self._state = SharedState()
        self._state_before: list[object] | None = None
        self._keeps_state: bool | None = None

    @property
    def test_id(self) -> str:
        """The id of the current test, or "" outside of tests."""
        return "" if self.test is None else str(self.test.id())

    # Parts.

    def start_part(self, part: Part) -> None:
        """Start a part. The main process knows the name of its class."""
        self._positions, self._index = part.positions, -1
        self._state_before = self._keeps_state = None
        if self.sql is not None:
            self.sql.clear()
        self.start_class("")
        self.send(PartStarted())

    def run_tests(self, tests: Sequence[Any]) -> None:
        """Run the test cases of a part."""
        config = self._config
        runner = config.runner_class(
            failfast=config.failfast, buffer=config.buffer, resultclass=self._result_class
        )
        self.set_class_timeout(tests[0])
        self.test = tests[0]
        runner.run(observe(config.suite_class(tests), ObservedSuiteMixin, sink=self))

    def finish_part(self, *, is_last: bool) -> None:
        """Finish a part; if it `is_last`, wake up the main process, which may send more."""
        self._end_debugger()
        self.test = None
        self.finish_class(keeps_state=self._keeps_state)
        if is_last:
            self.wake_run()

    def class_finished(self, event: ClassFinished) -> None:
        self.send(PartFinished(event))

    # Tests.

    def select_test(self, test: Any) -> None:
        super().select_test(test)
        self._index += 1

    def start_test(self) -> None:
        self._end_debugger()
        if len(self._positions) > 1 and self._state_before is None:
            self._state_before = self._state.snapshot(type(self.test))
        super().start_test()
        self.send()

    def test_started(self) -> None:
        self._pending.append(TestStarted(self._position, Clock.time()))

    def finish_test(self, result: Any) -> None:
        self._exit_if_forked()
        self._end_debugger()
        super().finish_test(result)

    def test_finished(self, result: Any, outcome: Outcome, duration: float) -> None:
        events, result.events = result.events, []
        events = [encode(event, self.test) for event in events]
        self._pending.append(TestFinished(self._position, events, str(outcome), duration))
        if self._index == len(self._positions) - 1:
            # The class is torn down next.
            if self._state_before is not None:
                self._keeps_state = self._state.snapshot(type(self.test)) != self._state_before
            self.send()

    @property
    def _position(self) -> int:
        return self._positions[self._index]

    def prepare_error(self, err: ExcInfo, test: Any, result: Any) -> EncodedExcInfo:
        """Encode the exception; also report the SQL of the test."""
        if self.debugger is not None:
            err = self.debugger.replace_quit(err)
        if not isinstance(test, _ErrorHolder):
            self._add_sql(result)
        output, with_locals = _buffered_output(result), self._config.tb_locals
        return EncodedExcInfo(err, test, output=output, with_locals=with_locals)

    def starting_test(self, result: Any) -> None:
        # A failure that is retried may not be one: the tests after it run.
        retries = decorators.retries_of(self.test, self._config.settings.retries)
        result.failfast = self._config.failfast and retries == 0
        if self.sql is not None:
            self.sql.clear()

    def stopping_test(self, result: Any) -> None:
        if self.sql is not None and self.sql.shows_all:
            self._add_sql(result)

    def _add_sql(self, result: Any) -> None:
        if self.sql is not None:
            result.events.append((SQL_EVENT, 0, self.sql.text))

    def add_fixture_result(self, result: Any, method: str, holder: Any, value: Any) -> None:
        self.report_fixture(method, holder.id(), value)
        # RemoteTestResult would attribute it to the previous test.
        getattr(unittest.TestResult, method)(result, holder, value)

    def report_fixture(self, method: str, name: str, *arguments: Any) -> None:
        """Send a result for the fixtures of a class or module."""
        sql = "" if self.sql is None else self.sql.text
        self.send(FixtureResult(method, name, encode(arguments), sql))

    def check_run(self, result: Any) -> None:
        if self.is_stopped():
            result.stop()

    # Timeouts and debuggers.

    def set_timeout(self, seconds: float | None) -> None:
        """Set the timeout of what follows, and send it: the main process enforces it too."""
        if seconds is not None or self._has_timeout:
            self._has_timeout = seconds is not None
            self.send(TimeoutSet(seconds))
        super().set_timeout(seconds)

    def suspend_timeout(self, *messages: object) -> None:
        """Suspend the timeout until the end of the current test; send messages."""
        self.set_timeout(None)
        self.send(*messages)

    def _end_debugger(self) -> None:
        if self.debugger is not None:
            self.debugger.close()

    # Messages.

    def send(self, *messages: object) -> None:
        """Send messages, after those that are pending."""
        self._exit_if_forked()
        with self._lock:
            messages, self._pending = (*self._pending, *messages), []
            if messages:
                self.timeout.is_deferred = True
                try:
                    self._unread_bytes += self._reports.send(messages)
                finally:
                    self.timeout.is_deferred = False
        if self._unread_bytes > _MAX_UNREAD_BYTES:
            self.wake_run()

    def _exit_if_forked(self) -> None:
        # A process that a test forked has returned from the test. It must not run the others too.
        # Tests may mock os.getpid, but not this one.
        if getpid() != self._pid:
            os._exit(1)

    def wake_run(self) -> None:
        """Wake up the main process to read what was sent."""
        os.write(self._wakeup.fileno(), b".")
        self._unread_bytes = 0


class _RecordingMixin:
    """Mixin for subclasses of RemoteTestResult whose events `encode` makes picklable.

    `reports_subtests`: record passing subtests too.
    """

    reports_subtests: bool
    events: list[Any]

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)  # type: ignore[misc]
        if err is None and self.reports_subtests:
            self.events.append(("addSubTest", 0, subtest, None))

    def check_picklable(self, test: Any, err: Any) -> None:
        """Do nothing: `encode` replaces what cannot be pickled."""

    def check_subtest_picklable(self, test: Any, subtest: Any) -> None:
        """Do nothing, as in `check_picklable`."""


class _WorkerResult(RemoteTestResult):
    """RemoteTestResult without tblib's slow registration of all exception classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        unittest.TestResult.__init__(self, *args, **kwargs)
        nowhere: Any = DummyList()
        self.failures = self.errors = self.skipped = nowhere
        self.expectedFailures = self.unexpectedSuccesses = nowhere
        self.events = []


def _recording_class(config: WorkerConfig) -> Callable[..., unittest.TestResult]:
    """Create a subclass of a runner's result class."""
    wanted = getattr(config.runner_class, "resultclass", None)
    base = _WorkerResult if wanted in {None, RemoteTestResult} else wanted
    attributes = {"reports_subtests": config.reports_subtests}
    return type("WorkerResult", (_RecordingMixin, base), attributes)


def _buffered_output(result: Any) -> str:
    """Return the output that --buffer captured, formatted as unittest does in an error."""
    if not result.buffer:
        return ""
    buffers = {STDOUT_LINE: result._stdout_buffer, STDERR_LINE: result._stderr_buffer}
    outputs = {line: buffer.getvalue() for line, buffer in buffers.items()}
    return "\n".join(
        line % output.removesuffix("\n") for line, output in outputs.items() if output
    )
