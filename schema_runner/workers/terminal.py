"""The terminal of a run, which debuggers in workers need: one of them at a time has it."""

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
from .protocol import Debugs, TerminalLent

_STDIN = 0


class Terminal:
    """Lends it to one worker after another, each until its test is over.

    Meanwhile Ctrl-C is for the debugger, and the run says nothing.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._waiting: deque[tuple[WorkerHandle, str]] = deque()
        self._settings: Any = None
        self.holder: WorkerHandle | None = None

    def heed(self, worker: WorkerHandle, message: Debugs) -> None:
        if message.name is None:
            self.take_back(worker)
        else:
            self._waiting.append((worker, message.name))

    def lend(self) -> None:
        """Lend it to the worker that has waited longest."""
        while self.holder is None and self._waiting:
            worker, name = self._waiting.popleft()
            if not worker.is_told_to_stop:
                self.holder = worker
                self._lend(worker, name)

    def _lend(self, worker: WorkerHandle, name: str) -> None:
        self._log(
            f"WorkerHandle {worker.number} has stopped in a debugger: {name or 'its set-up'}"
        )
        for output in (sys.stdout, sys.stderr):
            output.flush()
        with suppress(termios.error):
            self._settings = termios.tcgetattr(_STDIN)
        if threading.current_thread() is threading.main_thread():
            forks.handle(signal.SIGINT, self._heed_nothing)
        worker.tell(TerminalLent())

    def _heed_nothing(self, *_: object) -> None:
        """Leave Ctrl-C to the debugger."""

    def leaves_out(self, worker: WorkerHandle) -> bool:
        """Whether another worker has it."""
        return self.holder is not None and self.holder is not worker

    def take_back(self, worker: WorkerHandle, *, is_dead: bool = False) -> None:
        """Take it back from a worker whose test is over, or that has died."""
        self._waiting = deque(one for one in self._waiting if one[0] is not worker)
        if self.holder is not worker:
            return
        self.holder = None
        forks.stop_handling(signal.SIGINT, self._heed_nothing)
        if is_dead and self._settings is not None:
            # It may have died while a line was edited.
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, self._settings)
