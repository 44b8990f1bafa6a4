"""The run's terminal, which one worker at a time borrows for its debugger."""

import signal
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .. import forks
from .handle import WorkerHandle
from .protocol import TerminalLent, TerminalRequest

_STDIN = 0


class Terminal:
    """Lends the terminal to one worker at a time, until its test ends.

    Meanwhile, Ctrl-C goes to the debugger, and the run prints nothing.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._waiting: deque[tuple[WorkerHandle, str]] = deque()
        self._settings: Any = None
        self.holder: WorkerHandle | None = None

    def handle(self, worker: WorkerHandle, message: TerminalRequest) -> None:
        if message.test_id is None:
            self.take_back(worker)
        else:
            self._waiting.append((worker, message.test_id))

    def lend(self) -> None:
        """Lend the terminal to the worker that has waited longest."""
        while self.holder is None and self._waiting:
            worker, test_id = self._waiting.popleft()
            if not worker.is_stopping:
                self.holder = worker
                self._lend(worker, test_id)

    def _lend(self, worker: WorkerHandle, test_id: str) -> None:
        self._log(f"Worker {worker.number} has stopped in a debugger: {test_id or 'its set-up'}")
        for output in (sys.stdout, sys.stderr):
            output.flush()
        with suppress(termios.error):
            self._settings = termios.tcgetattr(_STDIN)
        if threading.current_thread() is threading.main_thread():
            forks.handle_signal(signal.SIGINT, self._ignore_interrupt)
        worker.send(TerminalLent())

    def _ignore_interrupt(self, *_: object) -> None:
        """Leave Ctrl-C to the debugger."""

    def is_lent_to_other(self, worker: WorkerHandle) -> bool:
        """Whether a worker other than this one has the terminal."""
        return self.holder is not None and self.holder is not worker

    def take_back(self, worker: WorkerHandle, *, is_dead: bool = False) -> None:
        """Take the terminal back from a worker whose test has ended, or that has died."""
        self._waiting = deque(item for item in self._waiting if item[0] is not worker)
        if self.holder is not worker:
            return
        self.holder = None
        forks.restore_signal(signal.SIGINT, self._ignore_interrupt)
        if is_dead and self._settings is not None:
            # The worker may have died while readline was editing a line.
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, self._settings)
