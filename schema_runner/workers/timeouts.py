"""Time limits: a test that takes too long fails, and shows what all of its threads are at."""

import asyncio
import faulthandler
import io
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from asgiref.sync import AsyncToSync
from django.db import connections
from psycopg import pq

from .. import forks
from ..errors import TestTimeoutError
from .current import WATCHER

# How long what is told to stop may go on without a look at it, in seconds: then it is stuck
# in code that is not Python.
GRACE = 3.0
# More than that, in seconds, not all of the system's timers take.
_LONGEST = 1e9
# How long to wait with an interruption that would come in the middle of a message.
_HOLD = 0.01
_AT_WORK = {pq.TransactionStatus.ACTIVE}
_COPYING = {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH}


class Timeout(forks.ForkAware):
    """Interrupts the main thread of this process where it takes longer than it may.

    The signal is SIGALRM, which tests that use it themselves take away. What does not heed
    it ends with exit code 1, once the stacks of all threads are in the file `output`.
    """

    def __init__(self, output: int, tell_extended: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self._output = output
        # Called where what tidies up after an interruption is given as long again.
        self._tell_extended = tell_extended
        self._seconds: float | None = None
        # When what does not heed it is ended, by the monotonic clock.
        self._end = 0.0
        # Set while an interruption has to wait, as in the middle of a message.
        self.is_held = False
        # What was raised since the limit was set, whether or not the test has let it through.
        self.raised: TestTimeoutError | None = None

    def set(self, seconds: float | None) -> None:
        """Allow so many seconds from now on; None for no limit."""
        if seconds is None:
            self.clear()
            return
        if self._seconds is None:
            forks.handle(signal.SIGALRM, self._ring)
        self._seconds, self.raised = min(seconds, _LONGEST), None
        self._wind(self._seconds)

    def _wind(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self._end = time.monotonic() + seconds + GRACE
        self._watch()

    def _watch(self) -> None:
        left = max(self._end - time.monotonic(), _HOLD)
        faulthandler.dump_traceback_later(left, exit=True, file=self._output)

    def before_fork(self) -> None:
        # It is a thread: a child that cancels it would wait for it for ever.
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()

    def after_fork(self, *, is_child: bool) -> None:
        if is_child:
            self._seconds = self.raised = None
        elif self._seconds is not None:
            self._watch()

    def clear(self) -> None:
        if self._seconds is None:
            return
        self._seconds = self.raised = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        forks.stop_handling(signal.SIGALRM, self._ring)

    def _ring(self, _number: int, frame: FrameType | None) -> None:
        seconds = self._seconds
        if seconds is None:
            return
        if self.is_held:
            signal.setitimer(signal.ITIMER_REAL, _HOLD)
            return
        text = _stacks(frame)
        if self.raised is None:
            # What tidies up after the test has as long. What goes on after that as well is ended.
            self._wind(seconds)
            if self._tell_extended is not None:
                self._tell_extended(seconds)
        else:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        _cancel_statements()
        _cancel_tasks()
        self.raised = TestTimeoutError(
            f"It took longer than {seconds:g} s. What its threads were at:\n\n{text}"
        )
        raise self.raised


def _stacks(main: FrameType | None) -> str:
    """Return the stacks of all threads of tests; `main` is what the main thread has been at."""
    frames = sys._current_frames()
    if main is not None:
        frames[threading.main_thread().ident or 0] = main
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"Thread {names.get(ident, ident)}:\n{''.join(_stack(frame))}"
        for ident, frame in frames.items()
        if names.get(ident) != WATCHER
    ]
    for _, task in _tasks():
        output = io.StringIO()
        task.print_stack(file=output)
        stacks.append(output.getvalue())
    return "\n".join(stacks)


def _stack(frame: FrameType) -> list[str]:
    """Format a stack from the test on, or all of it where there is none."""
    frames = list(traceback.walk_stack(frame))
    of_unittest = [n for n, (one, _) in enumerate(frames) if "__unittest" in one.f_globals]
    within = frames[: of_unittest[0]] if of_unittest else frames
    return traceback.StackSummary.extract(reversed(within)).format()


def _tasks() -> list[tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any]"]]:
    """List what runs in the loops in which Django runs async tests, each in a thread."""
    loops = list(AsyncToSync.loop_thread_executors)
    return [(loop, task) for loop in loops for task in asyncio.all_tasks(loop)]


def _cancel_tasks() -> None:
    """End the coroutines of an async test: its thread would go on, and be waited for."""
    for loop, task in _tasks():
        loop.call_soon_threadsafe(task.cancel)


def _cancel_statements() -> None:
    """End what this thread's connections have the server do.

    Where psycopg was waiting for it, nobody else will read what it comes to, and every later
    statement would be told that there is one already.
    """
    for wrapper in connections.all(initialized_only=True):
        raw: Any = wrapper.connection
        if wrapper.vendor != "postgresql" or raw is None or raw.closed:
            continue
        if raw.info.transaction_status in _AT_WORK:
            with suppress(Exception):
                raw.cancel_safe(timeout=GRACE)
                while result := raw.pgconn.get_result():
                    if result.status in _COPYING:
                        break
