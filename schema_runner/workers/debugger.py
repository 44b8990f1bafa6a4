"""Debuggers in a worker, which borrows the terminal from the run until the test ends."""

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
from .debugger_hooks import DebuggerHooks, install_hooks
from .exceptions import ExcInfo, exc_info
from .pipes import Receiver
from .protocol import TerminalLent, TerminalRequest, WorkerConfig
from .reporter import Reporter

# Stands for the id of the test in the command that reruns it.
TEST_PLACEHOLDER = "TEST.TO.RUN"
# Raised by pdb's "quit"; SystemExit since Python 3.14.
_QUIT_EXCEPTION = SystemExit if sys.version_info >= (3, 14) else bdb.BdbQuit


class WorkerDebugger(DebuggerHooks, forks.ForkAware):
    """Gets the terminal for the debuggers of a worker, from their first stop to the test's end.

    If there is no terminal, a test that stops in a debugger fails. A silent worker ignores
    breakpoints.
    """

    def __init__(self, reporter: Reporter, commands: Receiver, config: WorkerConfig) -> None:
        super().__init__()
        self._reporter, self._commands, self._config = reporter, commands, config
        self._is_child = False
        # Held during a prompt, which may run in another thread.
        self._prompt_lock = threading.RLock()
        self._current_prompt: tuple[Any, int] | None = None
        self._stdin_before: Any = None
        self._has_terminal = False
        reporter.debugger = self

    def install(self) -> AbstractContextManager[None]:
        return install_hooks(self)

    def after_fork(self, *, is_child: bool) -> None:
        # A process that a test forks does not read the terminal, as in stock Django's workers.
        self._is_child = self._is_child or is_child

    def should_stop(self, debugger: Any) -> bool:
        __tracebackhide__ = True
        if self._is_child or self._has_terminal:
            return True
        if self._config.is_silent:
            return False
        if not getattr(debugger, "use_rawinput", True):
            # This debugger uses a socket, for example, instead of a terminal.
            self._reporter.suspend_timeout()
        elif not self._config.may_prompt:
            raise WorkerError(self._explain_no_terminal("standard input is not a terminal"))
        elif self._config.is_only_one or _uses_input(debugger):
            self._acquire_terminal()
        else:
            name = type(debugger).__qualname__
            raise WorkerError(self._explain_no_terminal(f"unlike pdb, {name} cannot share it"))
        return True

    def _explain_no_terminal(self, why: str) -> str:
        command = self._config.command.replace(TEST_PLACEHOLDER, self._reporter.test_id).strip()
        return (
            f"Worker {self._config.number} has no terminal for a debugger: {why}. "
            f"Run the test without --parallel: {command}"
        )

    def _acquire_terminal(self) -> None:
        __tracebackhide__ = True
        self._reporter.suspend_timeout(TerminalRequest(self._reporter.test_id))
        self._reporter.wake_run()
        while self._commands.pop_first(TerminalLent) is None:
            if self._commands.is_at_eof or self._reporter.is_stopped():
                raise WorkerError("The run ended before the debugger got the terminal.")
            self._commands.wait()
        self._has_terminal = True
        # multiprocessing has replaced standard input in this process.
        self._stdin_before, sys.stdin = sys.stdin, _open_stdin(sys.stdin)

    @contextmanager
    def prompting(self, debugger: Any) -> Iterator[None]:
        if self._is_child or not self._has_terminal:
            yield
            return
        # So that stepping out of a test leads to unittest, never to this package.
        debugger.skip = {*(debugger.skip or ()), "schema_runner.*"}
        with self._prompt_lock:
            # With --buffer, sys.stdout is a buffer.
            before, sys.stdout = sys.stdout, sys.__stdout__
            debugger.stdout = sys.__stdout__
            self._current_prompt = debugger, threading.get_ident()
            try:
                yield
            finally:
                sys.stdout = before

    def handle_interrupt(self, signum: int, frame: Any) -> None:
        """Pass Ctrl-C to the debugger that has the terminal; else leave it to the main process."""
        if self._has_terminal and self._current_prompt is not None:
            debugger, thread = self._current_prompt
            if thread == threading.get_ident():
                debugger.sigint_handler(signum, frame)

    def close(self) -> None:
        """Return the terminal at the end of a test."""
        if self._is_child or not self._has_terminal:
            return
        with self._prompt_lock:
            self._has_terminal, self._current_prompt = False, None
        sys.stdin = self._stdin_before
        if threading.current_thread() is threading.main_thread():
            # "continue" in pdb installs its own handler.
            forks.handle_signal(signal.SIGINT, self.handle_interrupt)
        self._reporter.send(TerminalRequest(None))
        self._reporter.wake_run()

    def replace_quit(self, err: ExcInfo) -> ExcInfo:
        """Replace the exception that a debugger's "quit" raises; return others unchanged."""
        if self._has_terminal and issubclass(err[0], (_QUIT_EXCEPTION, bdb.BdbQuit)):
            return exc_info(WorkerError("The debugger was quit."))
        return err


def _uses_input(debugger: Any) -> bool:
    """Whether a debugger reads with `input()`, unlike IPython's, which has a `pt_app`."""
    return isinstance(debugger, pdb.Pdb) and not hasattr(debugger, "pt_app")


def _open_stdin(current: Any) -> Any:
    """Return standard input for readline: `current` if that is descriptor 0, or a new file."""
    if current is not None and current.fileno() == 0:
        return current
    return os.fdopen(0, closefd=False)
