"""Ctrl-C, SIGTERM and SIGHUP: the first ends a run after the running tests, a second at once."""

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
from ..clock import Clock
from ..errors import count

if TYPE_CHECKING:
    from .pipes import Receiver

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# Handlers of Ctrl-C that the runner replaces; others are the project's.
_DEFAULT_HANDLERS = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN)
# As in a shell, the exit code after a signal is this plus its number.
_EXIT_CODE_BASE = 128
# Seconds that a worker waits, after a signal, for the main process to send Stop.
_STOP_TIMEOUT = 1.0
_POLL_INTERVAL = 0.01
_STDERR = 2


class RunSignals(AbstractContextManager["RunSignals"]):
    """Handles signals during a run, and exits with 130, 143 or 129 after one.

    `count_running`: returns the number of running tests.

    Leaves handlers that the project has installed, and SIGHUP if nohup ignores it.
    """

    def __init__(
        self, count_running: Callable[[], int] = lambda: 0, *, is_silent: bool = False
    ) -> None:
        self._count_running = count_running
        self._is_silent = is_silent
        # The last signal received.
        self._signum: int | None = None
        # Whether a signal ends the run at once, instead of after the running tests.
        self.is_aborting = False
        self._handled: list[int] = []
        self._is_entered = False
        self._before: Any = None
        self._finishes_tests = self._announces_at_once = self._is_announced = False
        self._is_cleaning_up = self._is_clean_up_announced = False

    @property
    def is_interrupted(self) -> bool:
        """Whether the run has received a signal."""
        return self._signum is not None

    def __enter__(self) -> Self:
        self._is_entered = threading.current_thread() is threading.main_thread()
        for signum in _SIGNALS:
            if self._is_entered and signal.getsignal(signum) is signal.SIG_DFL:
                self._handle(signum)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_entered = False
        for signum in self._handled:
            forks.restore_signal(signum, self._on_signal)
        if self._signum is not None and (error is None or isinstance(error, KeyboardInterrupt)):
            raise SystemExit(_EXIT_CODE_BASE + self._signum)

    @contextmanager
    def replacing_interrupt_handler(self) -> Iterator[None]:
        """Replace unittest's handler of Ctrl-C, which the `with` block installs.

        Leave it if the project has installed its own handler, because unittest's calls that.
        """
        self._before = signal.getsignal(signal.SIGINT)
        yield
        if self._is_entered and self._before in _DEFAULT_HANDLERS:
            self._handle(signal.SIGINT)

    @contextmanager
    def keeping_interrupt_handler(self) -> Iterator[None]:
        """Keep this handler while the `with` block removes unittest's."""
        is_ours = signal.getsignal(signal.SIGINT) == self._on_signal
        if is_ours:
            forks.restore_signal(signal.SIGINT, self._on_signal)
        yield
        if self._is_entered and self._before is not None:
            # In a run inside a test, unittest restores the handler from before the outer run.
            signal.signal(signal.SIGINT, self._before)
        if is_ours:
            forks.handle_signal(signal.SIGINT, self._on_signal)

    def _handle(self, signum: int) -> None:
        forks.handle_signal(signum, self._on_signal)
        self._handled.append(signum)

    def reclaim_interrupts(self) -> None:
        """Take Ctrl-C back from pdb, which keeps its handler after "continue"."""
        handler = signal.getsignal(signal.SIGINT)
        if signal.SIGINT in self._handled and _is_debugger(getattr(handler, "__self__", None)):
            signal.signal(signal.SIGINT, self._on_signal)

    @contextmanager
    def finishing_tests(self, *, announces: bool) -> Iterator[None]:
        """Let running tests finish at the first signal, instead of aborting the run.

        Without `announces`, the caller calls `announce` once it knows the running tests.
        """
        self._finishes_tests, self._announces_at_once = True, announces
        try:
            yield
        finally:
            self._finishes_tests = False

    def announce(self) -> None:
        """Tell the user, once, that a signal ends the run after the running tests."""
        if self._signum is None or self._is_announced or self.is_aborting:
            return
        self._is_announced = True
        running = self._count_running()
        tests = f" {count(running, 'test')}" if running else ""
        if self._signum == signal.SIGINT:
            self._write(f"\nFinishing{tests}; press Ctrl-C again to stop now.")
        else:
            name = signal.Signals(self._signum).name
            self._write(f"\n{name}: finishing{tests}; a second signal stops now.")

    @contextmanager
    def interruptible_imports(self) -> Iterator[None]:
        """Let a signal end the import of tests, although unittest reports exceptions as errors."""
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            with suppress(ValueError):
                sys.meta_path.remove(self)
        self.check()

    def find_spec(self, *_: object) -> None:
        """Find no module, but prevent imports once the run is aborted."""
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if the run is aborted, in case something caught the first."""
        if self.is_aborting:
            raise KeyboardInterrupt

    @contextmanager
    def cleaning_up(self) -> Iterator[None]:
        """Let the `with` block clean up; Ctrl-C interrupts it only after a message has said so."""
        self._is_cleaning_up = True
        if self.is_aborting:
            self._announce_clean_up()
        try:
            yield
        finally:
            self._is_cleaning_up = False

    def _announce_clean_up(self, before: str = "") -> None:
        self._is_clean_up_announced = True
        key = "Another Ctrl-C" if self._signum == signal.SIGINT else "Ctrl-C"
        self._write(f"{before}Cleaning up. {key} leaves the rest to the next run.")

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_interrupt, in_debugger = signum == signal.SIGINT, _is_in_debugger(frame)
        if is_interrupt and in_debugger:
            raise KeyboardInterrupt
        is_first, self._signum = self._signum is None, signum
        if self._is_cleaning_up and not (is_interrupt and self._is_clean_up_announced):
            if is_interrupt:
                self._announce_clean_up("\n")
        elif self._finishes_tests and is_first:
            for result in list(unittest.signals._results):  # type: ignore[attr-defined]
                result.stop()
            if self._announces_at_once:
                self.announce()
        else:
            self.is_aborting = True
            if is_interrupt and not self._finishes_tests and os.isatty(_STDERR):
                # End the line of the terminal's ^C.
                self._write("")
            # At KeyboardInterrupt, psycopg cancels the statement that it waits for. A debugger
            # would prompt again, but quits at EOFError.
            raise EOFError if in_debugger else KeyboardInterrupt

    def _write(self, text: str) -> None:
        # The signal may have interrupted a write to sys.stderr.
        if not self._is_silent:
            with suppress(OSError):
                os.write(_STDERR, f"{text}\n".encode())


class WorkerSignals:
    """Ends a worker after a signal, unless the main process sends Stop."""

    def __init__(self, commands: "Receiver", is_stopped: Callable[[], bool]) -> None:
        self._commands = commands
        self._is_stopped = is_stopped
        # Set until a new database is marked: without its marker, later runs cannot recognise it.
        self.is_deferred = False

    def handle(self) -> None:
        for signum in _SIGNALS:
            forks.handle_signal(signum, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_SIGNALS, signal.SIGINT])

    def _on_signal(self, signum: int, _frame: object) -> None:
        """Return to the running test if the main process sends Stop; exit otherwise."""
        deadline = Clock.monotonic() + _STOP_TIMEOUT
        if self._commands.is_reading or self.is_deferred:
            # Try again later: the signal has interrupted a read, or the creation of a database.
            threading.Timer(_POLL_INTERVAL, os.kill, (os.getpid(), signum)).start()
            return
        while not self._is_stopped():
            if Clock.monotonic() > deadline:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            time.sleep(_POLL_INTERVAL)


@contextmanager
def block_signals() -> Iterator[None]:
    """Block signals while the `with` block starts a child, until its `WorkerSignals.handle`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_SIGNALS, signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_in_debugger(frame: FrameType | None) -> bool:
    """Whether a debugger is prompting, so that Ctrl-C is for it."""
    while frame:
        if frame.f_code.co_name == "interaction" and _is_debugger(frame.f_locals.get("self")):
            return True
        frame = frame.f_back
    return False


def _is_debugger(found: object) -> bool:
    bdb = sys.modules.get("bdb")
    return bdb is not None and isinstance(found, bdb.Bdb)
