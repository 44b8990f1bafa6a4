"""A worker's reports to the main process, and the timeouts of its tests."""

import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from .. import decorators
from ..connections import changes_outside
from ..errors import TestTimeoutError
from ..events import GOOD_METHODS, Outcome, outcome_of
from ..scheduling.queue import Part
from .exceptions import encode, exc_info
from .pipes import Sender
from .protocol import (
    FixtureResult,
    PartFinished,
    PartStarted,
    TestFinished,
    TestStarted,
    TimeoutSet,
    resource_usage,
)
from .shared_state import SharedState
from .timeouts import Timeout

if TYPE_CHECKING:
    from .output import SqlLog

# The least seconds between two checks for a Stop message, which tests make when they end.
_STOP_CHECK_INTERVAL = 0.01
# The calls of a result for a test that passed without any output.
_PASSING_CALLS = {"startTest", "addDuration", "addSuccess", "stopTest"}
# Waking up the main process for each test could cost more than the test. It reads reports
# periodically, and the worker wakes it up when more than this many bytes are waiting.
_MAX_UNREAD_BYTES = 1 << 15


class Debugger(Protocol):
    """The part of `WorkerDebugger` that a reporter and its results use."""

    def close(self) -> None: ...

    def replace_quit(self, err: Any) -> Any: ...


class Reporter:
    """Sends the messages of a worker, and sets the timeouts of its tests.

    `wakeup`: see `Pipes`; `Timeout` writes the stacks of a stuck worker to it.
    `default_timeout`: seconds; None for no timeout.
    """

    def __init__(
        self,
        reports: Sender,
        wakeup: Connection,
        *,
        default_timeout: float | None,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._reports = reports
        self._wakeup = wakeup
        self._default_timeout = default_timeout
        self.is_stopped = is_stopped
        self.debugger: Debugger | None = None
        # Set if the result shows the SQL of tests.
        self.sql: SqlLog | None = None
        # A debugger may stop in another thread.
        self._lock = threading.RLock()
        self._timeout = Timeout(wakeup.fileno(), lambda seconds: self.send(TimeoutSet(seconds)))
        self._has_timeout = False
        self._pid = os.getpid()
        self._unread_bytes = 0
        self._key = 0
        self._position = 0
        self._test: Any = None
        self._started_at: float | None = None
        self._last_stop_check = 0.0
        self._state = SharedState()
        self._state_before: list[object] | None = None
        self._keeps_state: bool | None = None
        self._tracks_state = False
        self._usage_before = resource_usage()
        # The last finished test, sent with the next message: nothing can fail in between.
        self._pending: TestFinished | None = None

    def start_part(self, part: Part) -> None:
        """Start a part."""
        self._key = part.key
        self._state_before, self._keeps_state = None, None
        self._tracks_state = len(part.positions) > 1
        if self.sql is not None:
            self.sql.clear()
        self._usage_before = resource_usage()
        self.send(PartStarted(part.key))

    @property
    def test_id(self) -> str:
        """The id of the current test, or "" outside of tests."""
        return "" if self._test is None else str(self._test.id())

    def suspend_timeout(self, *messages: object) -> None:
        """Suspend the timeout until the end of the current test."""
        self._set_timeout(None, *messages)

    def select_test(self, position: int, test: Any) -> None:
        """Make a test the current one, before its class is set up."""
        if self._test is None:
            self._set_timeout(decorators.timeout_of_class(test, self._default_timeout))
        self._position, self._test = position, test

    def start_test(self) -> None:
        """Start the current test, whose class is set up."""
        self._end_debugger()
        if self._tracks_state and self._state_before is None:
            self._state_before = self._state.snapshot(type(self._test))
        self._started_at = time.perf_counter()
        started = TestStarted(self._key, self._position, time.time())
        self._set_timeout(decorators.timeout_of(self._test, self._default_timeout), started)

    def finish_test(self, events: list[Any], result: Any, *, is_last: bool) -> None:
        """Finish the current test, whose result has recorded `events`.

        If it `is_last`, the class is torn down next.
        """
        self._exit_if_forked()
        self._end_debugger()
        raised = self._timeout.raised
        timeout = decorators.timeout_of_class(self._test, self._default_timeout)
        self._timeout.set(timeout)
        now = time.perf_counter()
        if self._started_at is not None:
            if raised is not None:
                events = [_as_timeout(event, raised) for event in events]
            self._pending = self._test_finished(events, now - self._started_at)
            if is_last:
                if self._tracks_state:
                    self._keeps_state = (
                        self._state.snapshot(type(self._test)) != self._state_before
                    )
                self._flush()
        self._started_at = None
        if timeout is not None or self._has_timeout:
            self._set_timeout(timeout)
        if now - self._last_stop_check > _STOP_CHECK_INTERVAL:
            self._last_stop_check = now
            if self.is_stopped():
                result.stop()

    def _end_debugger(self) -> None:
        if self.debugger is not None:
            self.debugger.close()

    def _set_timeout(self, seconds: float | None, *messages: object) -> None:
        """Set the timeout of what follows, and send it: the main process enforces it too."""
        if seconds is not None or self._has_timeout:
            messages = (*messages, TimeoutSet(seconds))
            self._has_timeout = seconds is not None
        if messages:
            self._flush(*messages)
        self._timeout.set(seconds)

    def _test_finished(self, events: list[Any], duration: float) -> TestFinished:
        if all(event[0] in _PASSING_CALLS for event in events):
            return TestFinished(
                self._key, self._position, events, False, str(Outcome.PASSED), duration
            )
        outcome = outcome_of((event[0], event[-1]) for event in events)
        encoded = [encode(event, self._test) for event in events]
        return TestFinished(self._key, self._position, encoded, True, str(outcome), duration)

    def report_fixture(self, method: str, name: str, *arguments: Any) -> None:
        """Send a result for the fixtures of a class or module."""
        sql = "" if self.sql is None else self.sql.text
        self.send(FixtureResult(method, name, encode(arguments), sql))

    def finish_part(self, *, is_last: bool) -> None:
        """Finish a part; if it `is_last`, wake up the main process, which may send more."""
        self._end_debugger()
        self._set_timeout(None)
        self._test = None
        changed = changes_outside()
        usage = resource_usage().since(self._usage_before)
        self.send(
            PartFinished(self._key, time.time() - usage.time, usage, self._keeps_state, changed)
        )
        if is_last:
            self.wake_run()

    def send(self, message: object) -> None:
        self._flush(message)

    def _flush(self, *messages: object) -> None:
        self._exit_if_forked()
        with self._lock:
            if self._pending is not None:
                messages, self._pending = (self._pending, *messages), None
            self._timeout.is_deferred = True
            try:
                self._unread_bytes += self._reports.send(messages)
            finally:
                self._timeout.is_deferred = False
        if self._unread_bytes > _MAX_UNREAD_BYTES:
            self.wake_run()

    def _exit_if_forked(self) -> None:
        # A process that a test forked has returned from the test. It must not run the others too.
        if os.getpid() != self._pid:
            os._exit(1)

    def wake_run(self) -> None:
        """Wake up the main process to read what was sent."""
        os.write(self._wakeup.fileno(), b".")
        self._unread_bytes = 0


def _as_timeout(event: Any, raised: TestTimeoutError) -> Any:
    """Replace the success of a test that caught its TestTimeoutError by a failure."""
    method, index, *_ = event
    return ("addFailure", index, exc_info(raised)) if method in GOOD_METHODS else event
