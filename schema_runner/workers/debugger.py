"""Debuggers in a worker: it has the terminal, alone, until the test is over."""

import bdb
import os
import pdb
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .. import forks
from ..errors import WorkerError
from .debugger_hooks import DebuggerHooks, debuggers_call
from .exceptions import ExcInfo, exc_info
from .pipes import Receiver
from .protocol import Debugs, TerminalLent, WorkerConfig
from .reporter import Reporter

# Stands for the name of a test in a command.
TEST = "TEST.TO.RUN"
# What "quit" raises in pdb; from Python 3.14 on it is SystemExit.
_QUIT = SystemExit if sys.version_info >= (3, 14) else bdb.BdbQuit


class WorkerDebugger(DebuggerHooks, forks.ForkAware):
    """Gets the terminal for debuggers of a worker, from the first stop to the end of a test.

    Where the worker has none the test fails that would stop; in a silent one it goes on.
    """

    def __init__(self, reporter: Reporter, orders: Receiver, assigned: WorkerConfig) -> None:
        super().__init__()
        self._reporter, self._orders, self._assigned = reporter, orders, assigned
        self._is_forked = False
        # Held at each prompt, which may be one of another thread.
        self._prompt = threading.RLock()
        self._at_prompt: tuple[Any, int] | None = None
        self._stdin_before: Any = None
        self._has_terminal = False
        reporter.debugger = self

    def follow(self) -> AbstractContextManager[None]:
        return debuggers_call(self)

    def after_fork(self, *, is_child: bool) -> None:
        # What a test forks reads nothing, as in stock Django's workers.
        self._is_forked = self._is_forked or is_child

    def opens(self, debugger: Any) -> bool:
        __tracebackhide__ = True
        if self._is_forked or self._has_terminal:
            return True
        if self._assigned.is_silent:
            return False
        if not getattr(debugger, "use_rawinput", True):
            # One that is talked to elsewhere, as through a socket.
            self._reporter.suspend_limit()
        elif not self._assigned.may_prompt:
            raise WorkerError(self._advice("standard input is no terminal"))
        elif self._assigned.is_only_one or _reads_lines(debugger):
            self._get_terminal()
        else:
            name = type(debugger).__qualname__
            raise WorkerError(self._advice(f"{name} cannot share it, as pdb can"))
        return True

    def _advice(self, why: str) -> str:
        again = self._assigned.command.replace(TEST, self._reporter.name).strip()
        return (
            f"Worker {self._assigned.number} has no terminal for a debugger: {why}. "
            f"Run it without --parallel: {again}"
        )

    def _get_terminal(self) -> None:
        __tracebackhide__ = True
        self._reporter.suspend_limit(Debugs(self._reporter.name))
        self._reporter.ring()
        while self._orders.take(TerminalLent) is None:
            if self._orders.is_at_end or self._reporter.is_stopped():
                raise WorkerError("The run ended before a debugger could have the terminal.")
            self._orders.wait()
        self._has_terminal = True
        # multiprocessing has given this process another one.
        self._stdin_before, sys.stdin = sys.stdin, _standard_input(sys.stdin)

    @contextmanager
    def prompts(self, debugger: Any) -> Iterator[None]:
        if self._is_forked or not self._has_terminal:
            yield
            return
        # Stepping out of a test leads to unittest, and never to us.
        debugger.skip = {*(debugger.skip or ()), "schema_runner.*"}
        with self._prompt:
            # With --buffer those of the test are not shown.
            before, sys.stdout = sys.stdout, sys.__stdout__
            debugger.stdout = sys.__stdout__
            self._at_prompt = debugger, threading.get_ident()
            try:
                yield
            finally:
                sys.stdout = before

    def heed_interrupt(self, number: int, frame: Any) -> None:
        """Leave Ctrl-C to a debugger that has the terminal; else it is for the run."""
        if self._has_terminal and self._at_prompt is not None:
            debugger, thread = self._at_prompt
            if thread == threading.get_ident():
                debugger.sigint_handler(number, frame)

    def close(self) -> None:
        """Give the terminal back when a test is over."""
        if self._is_forked or not self._has_terminal:
            return
        with self._prompt:
            self._has_terminal, self._at_prompt = False, None
        sys.stdin = self._stdin_before
        if threading.current_thread() is threading.main_thread():
            # pdb has its own handler from "continue" on.
            forks.handle(signal.SIGINT, self.heed_interrupt)
        self._reporter.send(Debugs(None))
        self._reporter.ring()

    def shown(self, err: ExcInfo) -> ExcInfo:
        """Return what a test has raised as it is shown: "quit" of a debugger is not its error."""
        if self._has_terminal and issubclass(err[0], (_QUIT, bdb.BdbQuit)):
            return exc_info(WorkerError("The debugger was quit."))
        return err


def _reads_lines(debugger: Any) -> bool:
    """Whether it uses `input()`; IPython's has looked at standard input before."""
    return isinstance(debugger, pdb.Pdb) and not hasattr(debugger, "pt_app")


def _standard_input(current: Any) -> Any:
    """Return the file that readline reads from; the current one where it is that."""
    if current is not None and current.fileno() == 0:
        return current
    return os.fdopen(0, closefd=False)
