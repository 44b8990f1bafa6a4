"""SIGTERM and SIGHUP end a run as Ctrl-C does: once after the test under way, twice at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from .. import forks

if TYPE_CHECKING:
    from .channel import Receiver

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# What a shell shows of a process that a signal has ended.
_SHELL_S = 128
# How long, in seconds, a signal may come before the word of the run that it is for all.
_TERM = 1.0
_SOON = 0.01


class Termination(AbstractContextManager["Termination"]):
    """Cleans up where stock Django is ended, as long as the body of the `with` runs.

    It ends with exit code 143 if there was a SIGTERM, 129 after SIGHUP. A handler of the project's
    own stays, and so does nohup's.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._waits_for_a_test = False
        self._is_cleaning_up = False
        self._handled: list[int] = []

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if _is_main() and signal.getsignal(number) is signal.SIG_DFL:
                forks.handle(number, self._heed)
                self._handled.append(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number in self._handled:
            forks.stop_handling(number, self._heed)
        if self._number is not None and (error is None or isinstance(error, KeyboardInterrupt)):
            raise SystemExit(_SHELL_S + self._number)

    @contextmanager
    def after_the_test_under_way(self) -> Iterator[None]:
        """Have a signal do what Ctrl-C does, which unittest sees to; elsewhere it ends all."""
        self._waits_for_a_test = True
        try:
            yield
        finally:
            self._waits_for_a_test = False

    @contextmanager
    def after_cleaning_up(self, log: Callable[[str], None]) -> Iterator[None]:
        """Let the body of the `with` drop what it drops; Ctrl-C breaks it off the second time."""
        is_told = False

        def heed(_number: int, _frame: FrameType | None) -> None:
            nonlocal is_told
            if is_told:
                raise KeyboardInterrupt
            is_told = True
            log("Cleaning up. Another Ctrl-C leaves the rest to the next run.")

        # Not for a run within a test, whose process is another run's.
        handles = bool(self._handled) and callable(_handler_of_interrupt())
        self._is_cleaning_up = True
        if handles:
            forks.handle(signal.SIGINT, heed)
        try:
            yield
        finally:
            self._is_cleaning_up = False
            if handles:
                forks.stop_handling(signal.SIGINT, heed)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        if self._is_cleaning_up:
            return
        interrupt = _handler_of_interrupt()
        if not self._waits_for_a_test or not callable(interrupt):
            # As for Ctrl-C, psycopg cancels the statement that it waits for.
            raise KeyboardInterrupt
        interrupt(number, frame)


class WorkerTermination:
    """Ends a worker at these signals, unless the run was told to end as well and says so."""

    def __init__(self, orders: "Receiver", is_stopped: Callable[[], bool]) -> None:
        self._orders = orders
        self._is_stopped = is_stopped
        # Set while the process would leave something that no later run could recognise.
        self.is_held = False

    def handle(self) -> None:
        for number in _SIGNALS:
            forks.handle(number, self._heed)

    def _heed(self, number: int, _frame: object) -> None:
        """Finish the test under way where the run was told to end as well, and end otherwise."""
        deadline = time.monotonic() + _TERM
        if self._orders.is_reading or self.is_held:
            # This has come in the middle of it.
            threading.Timer(_SOON, os.kill, (os.getpid(), number)).start()
            return
        while not self._is_stopped():
            if time.monotonic() > deadline:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            time.sleep(_SOON)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _handler_of_interrupt() -> object:
    return signal.getsignal(signal.SIGINT)
