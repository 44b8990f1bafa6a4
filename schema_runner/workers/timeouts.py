"""Timeouts: a test that takes too long fails, and shows the stacks of all threads."""

import asyncio
import faulthandler
import io
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from asgiref.sync import AsyncToSync
from django.db import connections
from psycopg import pq

from .. import forks
from ..clock import Clock
from ..errors import TestTimeoutError
from .current import PARENT_WATCHER

# Seconds from the timeout until the process exits, in case code does not return to Python.
GRACE = 3.0
# In seconds. Some system timers accept no more.
_MAX_SECONDS = 1e9
# Seconds until a deferred interruption is tried again.
_RETRY_DELAY = 0.01
_EXECUTING = {pq.TransactionStatus.ACTIVE}
_COPYING = {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH}


class Timeout(forks.ForkAware):
    """Raises TestTimeoutError in the main thread of this process, by SIGALRM.

    If the test goes on, the process writes the stacks of all threads to the file descriptor
    `output` and exits with code 1. A test that uses SIGALRM itself replaces the handler.
    """

    def __init__(self, output: int, on_extended: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self._output = output
        # Called with the seconds that the cleanups after an interruption get.
        self._on_extended = on_extended
        self._seconds: float | None = None
        # Monotonic time at which the process exits.
        self._exit_at = 0.0
        # Set while no interruption may happen, for instance while sending a message.
        self.is_deferred = False
        # The exception raised since the timeout was set, even if the test has caught it.
        self.raised: TestTimeoutError | None = None

    def set(self, seconds: float | None) -> None:
        """Set the timeout from now on, in seconds; None for no timeout."""
        if seconds is None:
            self.clear()
            return
        if self._seconds is None:
            forks.handle_signal(signal.SIGALRM, self._on_alarm)
        self._seconds, self.raised = min(seconds, _MAX_SECONDS), None
        self._arm(self._seconds)

    def _arm(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self._exit_at = Clock.monotonic() + seconds + GRACE
        self._arm_watchdog()

    def _arm_watchdog(self) -> None:
        left = max(self._exit_at - Clock.monotonic(), _RETRY_DELAY)
        faulthandler.dump_traceback_later(left, exit=True, file=self._output)

    def before_fork(self) -> None:
        # The watchdog is a thread: a child that cancels it would wait for it forever.
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()

    def after_fork(self, *, is_child: bool) -> None:
        if is_child:
            self._seconds = self.raised = None
        elif self._seconds is not None:
            self._arm_watchdog()

    def clear(self) -> None:
        if self._seconds is None:
            return
        self._seconds = self.raised = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        forks.restore_signal(signal.SIGALRM, self._on_alarm)

    def _on_alarm(self, _signum: int, frame: FrameType | None) -> None:
        seconds = self._seconds
        if seconds is None:
            return
        if self.is_deferred:
            signal.setitimer(signal.ITIMER_REAL, _RETRY_DELAY)
            return
        text = _format_stacks(frame)
        if self.raised is None:
            # The cleanups of the test get the same timeout once more. If they exceed it, exit.
            self._arm(seconds)
            if self._on_extended is not None:
                self._on_extended(seconds)
        else:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        _cancel_statements()
        _cancel_tasks()
        self.raised = TestTimeoutError(
            f"Timed out after {seconds:g} s. Stacks of all threads:\n\n{text}"
        )
        raise self.raised


def _format_stacks(main: FrameType | None) -> str:
    """Format the stacks of all threads; `main` is the frame of the main thread."""
    frames = sys._current_frames()
    if main is not None:
        frames[threading.main_thread().ident or 0] = main
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"Thread {names.get(ident, ident)}:\n{''.join(_format_stack(frame))}"
        for ident, frame in frames.items()
        if names.get(ident) != PARENT_WATCHER
    ]
    for _, task in _tasks():
        output = io.StringIO()
        task.print_stack(file=output)
        stacks.append(output.getvalue())
    return "\n".join(stacks)


def _format_stack(frame: FrameType) -> list[str]:
    """Format a stack from the test on, or all of it outside of tests."""
    frames = list(traceback.walk_stack(frame))
    unittest_frames = [n for n, (f, _) in enumerate(frames) if "__unittest" in f.f_globals]
    within = frames[: unittest_frames[0]] if unittest_frames else frames
    return traceback.StackSummary.extract(reversed(within)).format()


def _tasks() -> list[tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any]"]]:
    """List the tasks of Django's async tests; each event loop runs in its own thread."""
    loops = list(AsyncToSync.loop_thread_executors)
    return [(loop, task) for loop in loops for task in asyncio.all_tasks(loop)]


def _cancel_tasks() -> None:
    """Cancel the coroutines of an async test, whose thread would otherwise go on."""
    for loop, task in _tasks():
        loop.call_soon_threadsafe(task.cancel)


def _cancel_statements() -> None:
    """Cancel the statements that this thread's connections are executing.

    Also read their results: psycopg was interrupted while it waited for them, and libpq refuses
    another statement until they are read.
    """
    for wrapper in connections.all(initialized_only=True):
        raw: Any = wrapper.connection
        if wrapper.vendor != "postgresql" or raw is None or raw.closed:
            continue
        if raw.info.transaction_status in _EXECUTING:
            with suppress(Exception):
                raw.cancel_safe(timeout=GRACE)
                while result := raw.pgconn.get_result():
                    if result.status in _COPYING:
                        break
