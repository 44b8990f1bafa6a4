"""Ctrl-C, SIGTERM and SIGHUP: one ends a run after the tests under way, a second one at once."""

import os
import signal
import sys
import threading
import time
import unittest.signals
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from .. import forks
from ..errors import count

if TYPE_CHECKING:
    from .pipes import Receiver

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# Handlers of Ctrl-C that are no project's own.
_USUAL = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN)
# What a shell shows of a process that a signal has ended.
_SHELL_S = 128
# How long, in seconds, a signal may come before the word of the run that it is for all.
_TERM = 1.0
_SOON = 0.01
_STDERR = 2


class RunSignals(AbstractContextManager["RunSignals"]):
    """Ends a run in order at a signal, with the exit code that a shell shows: 130, 143 or 129.

    The body of the `with` is the run; `count_under_way` returns the number of tests it is at. A
    handler of the project's own stays, and so does nohup's.
    """

    def __init__(
        self, count_under_way: Callable[[], int] = lambda: 0, *, is_silent: bool = False
    ) -> None:
        self._count_under_way = count_under_way
        self._is_silent = is_silent
        # The last signal that came.
        self._number: int | None = None
        # Whether a signal broke off what was under way.
        self.ends_now = False
        self._handled: list[int] = []
        self._is_entered = False
        self._before: Any = None
        self._waits_for_tests = self._announces_at_once = self._is_announced = False
        self._is_cleaning_up = self._is_told = False

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def __enter__(self) -> Self:
        self._is_entered = threading.current_thread() is threading.main_thread()
        for number in _SIGNALS:
            if self._is_entered and signal.getsignal(number) is signal.SIG_DFL:
                self._handle(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_entered = False
        for number in self._handled:
            forks.stop_handling(number, self._heed)
        if self._number is not None and (error is None or isinstance(error, KeyboardInterrupt)):
            raise SystemExit(_SHELL_S + self._number)

    @contextmanager
    def taking_interrupts(self) -> Iterator[None]:
        """Take the place of unittest's handler of Ctrl-C, which the body installs.

        Not where that handler is about to call a project's own.
        """
        self._before = signal.getsignal(signal.SIGINT)
        yield
        if self._is_entered and self._before in _USUAL:
            self._handle(signal.SIGINT)

    @contextmanager
    def keeping_interrupts(self) -> Iterator[None]:
        """Keep the place where the body removes unittest's handler."""
        is_ours = signal.getsignal(signal.SIGINT) == self._heed
        if is_ours:
            forks.stop_handling(signal.SIGINT, self._heed)
        yield
        if self._is_entered and self._before is not None:
            # In a run within a test unittest brings back what was there before the outer run.
            signal.signal(signal.SIGINT, self._before)
        if is_ours:
            forks.handle(signal.SIGINT, self._heed)

    def _handle(self, number: int) -> None:
        forks.handle(number, self._heed)
        self._handled.append(number)

    def take_back_interrupts(self) -> None:
        """Take Ctrl-C back from pdb, which keeps it when a test goes on."""
        handler = signal.getsignal(signal.SIGINT)
        if signal.SIGINT in self._handled and _is_debugger(getattr(handler, "__self__", None)):
            signal.signal(signal.SIGINT, self._heed)

    @contextmanager
    def after_the_tests_under_way(self, *, announces: bool) -> Iterator[None]:
        """Let tests under way finish at the first signal; elsewhere it ends all at once.

        Without `announces` whoever knows the tests under way calls `announce`.
        """
        self._waits_for_tests, self._announces_at_once = True, announces
        try:
            yield
        finally:
            self._waits_for_tests = False

    def announce(self) -> None:
        """Say that the run ends, if it does; once."""
        if self._number is None or self._is_announced or self.ends_now:
            return
        self._is_announced = True
        number = self._count_under_way()
        tests = f" {count(number, 'test')}" if number else ""
        if self._number == signal.SIGINT:
            self._say(f"\nFinishing{tests}; press Ctrl-C again to stop now.")
        else:
            name = signal.Signals(self._number).name
            self._say(f"\n{name}: finishing{tests}; a second signal stops now.")

    @contextmanager
    def ending_imports(self) -> Iterator[None]:
        """End what imports tests, though unittest takes what an import raises for its error."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            with suppress(ValueError):
                sys.meta_path.remove(self)
        self.check()

    def find_spec(self, *_: object) -> None:
        """Find no module; let none be imported once the run ends."""
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt again where something has caught it."""
        if self.ends_now:
            raise KeyboardInterrupt

    @contextmanager
    def cleaning_up(self) -> Iterator[None]:
        """Let the body drop what it drops; Ctrl-C breaks it off once the user knows what it is."""
        self._is_cleaning_up = True
        if self.ends_now:
            self._tell_of_cleaning()
        try:
            yield
        finally:
            self._is_cleaning_up = False

    def _tell_of_cleaning(self, before: str = "") -> None:
        self._is_told = True
        key = "Another Ctrl-C" if self._number == signal.SIGINT else "Ctrl-C"
        self._say(f"{before}Cleaning up. {key} leaves the rest to the next run.")

    def _heed(self, number: int, frame: FrameType | None) -> None:
        is_interrupt, in_debugger = number == signal.SIGINT, _is_in_debugger(frame)
        if is_interrupt and in_debugger:
            raise KeyboardInterrupt
        is_first, self._number = self._number is None, number
        if self._is_cleaning_up and not (is_interrupt and self._is_told):
            if is_interrupt:
                self._tell_of_cleaning("\n")
        elif self._waits_for_tests and is_first:
            for result in list(unittest.signals._results):  # type: ignore[attr-defined]
                result.stop()
            if self._announces_at_once:
                self.announce()
        else:
            self.ends_now = True
            if is_interrupt and not self._waits_for_tests and os.isatty(_STDERR):
                # After the terminal's ^C, where no report follows that begins a line.
                self._say("")
            # psycopg cancels the statement that it waits for. A debugger prompts again after
            # KeyboardInterrupt, and quits where what is typed ends.
            raise EOFError if in_debugger else KeyboardInterrupt

    def _say(self, text: str) -> None:
        # Python's own files may be in use where the signal came.
        if not self._is_silent:
            with suppress(OSError):
                os.write(_STDERR, f"{text}\n".encode())


class WorkerSignals:
    """Ends a worker at these signals, unless the run was told to end as well and says so."""

    def __init__(self, orders: "Receiver", is_stopped: Callable[[], bool]) -> None:
        self._orders = orders
        self._is_stopped = is_stopped
        # Set while the process would leave something that no later run could recognise.
        self.is_held = False

    def handle(self) -> None:
        for number in _SIGNALS:
            forks.handle(number, self._heed)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_SIGNALS, signal.SIGINT])

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


@contextmanager
def held_for_a_child() -> Iterator[None]:
    """Let a child that the body starts get no signal until it calls `WorkerTermination.handle`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_SIGNALS, signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_in_debugger(frame: FrameType | None) -> bool:
    """Whether one is waiting for what is typed: Ctrl-C is for it."""
    while frame:
        if frame.f_code.co_name == "interaction" and _is_debugger(frame.f_locals.get("self")):
            return True
        frame = frame.f_back
    return False


def _is_debugger(found: object) -> bool:
    bdb = sys.modules.get("bdb")
    return bdb is not None and isinstance(found, bdb.Bdb)
