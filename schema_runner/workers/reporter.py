"""What a worker tells the run of its tests, and the time that it lets them take."""

import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from .. import decorators
from ..connections import changes_outside
from ..errors import TestTimeoutError
from ..events import GOOD_OUTCOMES, Outcome, outcome_of
from ..scheduling.queue import Part
from .exceptions import encode, exc_info
from .pipes import Sender
from .protocol import (
    Begun,
    Entered,
    Left,
    Limited,
    PartFinished,
    ProjectChanged,
    cost_so_far,
)
from .shared_state import SharedState
from .timeouts import Timeout

if TYPE_CHECKING:
    from .output import SqlLog

# How often a test that ends looks whether the run is told to stop, in seconds.
_LOOK = 0.01
# What a result is told of a test that has passed, and nothing else.
_PASSING = {"startTest", "addDuration", "addSuccess", "stopTest"}
# Waking the run up for every test would cost more than the test: it looks by itself, now and
# then, unless so many bytes wait for it.
_UNREAD = 1 << 15


class Debugger(Protocol):
    """What a reporter and its results ask of `WorkerDebugger`."""

    def close(self) -> None: ...

    def shown(self, err: Any) -> Any: ...


class Reporter:
    """Sends messages about one part after another.

    `bell` is a pipe that the run listens to. What comes through it has no meaning but for the last
    words of a worker that is stuck: see `Alarm`.
    """

    def __init__(
        self,
        reports: Sender,
        bell: Connection,
        *,
        time_limit: float | None,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._reports = reports
        self._bell = bell
        self._time_limit = time_limit
        self.is_stopped = is_stopped
        # What tests stop in has the terminal no longer than they last.
        self.debugger: Debugger | None = None
        # What tests send to the database, where that is shown with failures.
        self.sql: SqlLog | None = None
        # A debugger may stop in a thread of its own.
        self._lock = threading.RLock()
        self._timeout = Timeout(bell.fileno(), lambda seconds: self.send(Limited(seconds)))
        self._is_limited = False
        self._process = os.getpid()
        self._unread = 0
        self._key = 0
        self._position = 0
        self._test: Any = None
        self._begun: float | None = None
        self._looked = 0.0
        self._state = SharedState()
        self._state_before: list[object] | None = None
        self._keeps_state: bool | None = None
        self._watches = False
        self._cost_before = cost_so_far()
        # Told with the next message: between two tests nothing happens that could be lost.
        self._done: PartFinished | None = None

    def enter(self, part: Part) -> None:
        """A part follows."""
        self._key = part.key
        self._state_before, self._keeps_state = None, None
        self._watches = len(part.positions) > 1
        if self.sql is not None:
            self.sql.begin()
        self._cost_before = cost_so_far()
        self.send(Entered(part.key))

    @property
    def name(self) -> str:
        """The test that was taken up, if one was."""
        return "" if self._test is None else str(self._test.id())

    def suspend_limit(self, *messages: object) -> None:
        """Let this test take as long as it wants to; the next one has its limit again."""
        self._limit(None, *messages)

    def take_up(self, position: int, test: Any) -> None:
        """A test is next; before that its class may have to be set up."""
        if self._test is None:
            self._limit(decorators.timeout_of_class(test, self._time_limit))
        self._position, self._test = position, test

    def begin(self) -> None:
        """The class is set up, and the test that was taken up begins."""
        self._end_debugger()
        if self._watches and self._state_before is None:
            self._state_before = self._state.of(type(self._test))
        self._begun = time.perf_counter()
        begun = Begun(self._key, self._position, time.time())
        self._limit(decorators.timeout_of(self._test, self._time_limit), begun)

    def finish(self, events: list[Any], result: Any, *, is_last: bool) -> None:
        """Everything about the test is over; `events` is what the result was told, if it began.

        After the last one the class is torn down.
        """
        self._end_unless_ours()
        self._end_debugger()
        raised = self._timeout.raised
        limit = decorators.timeout_of_class(self._test, self._time_limit)
        self._timeout.set(limit)
        now = time.perf_counter()
        if self._begun is not None:
            if raised is not None:
                events = [_failed(event, raised) for event in events]
            self._done = self._finished(events, now - self._begun)
            if is_last:
                if self._watches:
                    self._keeps_state = self._state.of(type(self._test)) != self._state_before
                self._flush()
        self._begun = None
        if limit is not None or self._is_limited:
            self._limit(limit)
        if now - self._looked > _LOOK:
            self._looked = now
            if self.is_stopped():
                result.stop()

    def _end_debugger(self) -> None:
        if self.debugger is not None:
            self.debugger.close()

    def _limit(self, seconds: float | None, *messages: object) -> None:
        """Limit what follows, and tell the run, which sees to it where this process is stopped."""
        if seconds is not None or self._is_limited:
            messages = (*messages, Limited(seconds))
            self._is_limited = seconds is not None
        if messages:
            self._flush(*messages)
        self._timeout.set(seconds)

    def _finished(self, events: list[Any], duration: float) -> PartFinished:
        if all(event[0] in _PASSING for event in events):
            return PartFinished(
                self._key, self._position, events, False, str(Outcome.PASSED), duration
            )
        outcome = outcome_of((event[0], event[-1]) for event in events)
        encoded = [encode(event, self._test) for event in events]
        return PartFinished(self._key, self._position, encoded, True, str(outcome), duration)

    def tell(self, method: str, name: str, *arguments: Any) -> None:
        """Tell what became of the fixtures of a class or a module."""
        sql = "" if self.sql is None else self.sql.text
        self.send(ProjectChanged(method, name, encode(arguments), sql))

    def leave(self, *, is_last: bool) -> None:
        """A part is over; if it `is_last` the run is to have others ready soon."""
        self._end_debugger()
        self._limit(None)
        self._test = None
        changed = changes_outside()
        cost = cost_so_far().since(self._cost_before)
        self.send(Left(self._key, time.time() - cost.time, cost, self._keeps_state, changed))
        if is_last:
            self.ring()

    def send(self, message: object) -> None:
        self._flush(message)

    def _flush(self, *messages: object) -> None:
        self._end_unless_ours()
        with self._lock:
            if self._done is not None:
                messages, self._done = (self._done, *messages), None
            self._timeout.is_held = True
            try:
                self._unread += self._reports.send(messages)
            finally:
                self._timeout.is_held = False
        if self._unread > _UNREAD:
            self.ring()

    def _end_unless_ours(self) -> None:
        # A test has forked and let the child go on, which would run the rest of the tests too.
        if os.getpid() != self._process:
            os._exit(1)

    def ring(self) -> None:
        """Have the run look at what was sent."""
        os.write(self._bell.fileno(), b".")
        self._unread = 0


def _failed(event: Any, raised: TestTimeoutError) -> Any:
    """Return a failure in place of what a test came to that has caught its time limit."""
    method, index, *_ = event
    return ("addFailure", index, exc_info(raised)) if method in GOOD_OUTCOMES else event
