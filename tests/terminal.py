"""Run `manage.py test` in a pseudo-terminal, and type into it."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .fork_server import FLAGS
from .project import Project, _environment

INTERRUPT = "\x03"
_TIMEOUT = 60
_ESCAPES = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]|\r")


class Terminal:
    """The other end of the pseudo-terminal.

    `shown`: everything printed so far, without escape sequences.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", end: int) -> None:
        self.process = process
        self._end = end
        self._read = b""
        self._seen = 0

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self._read.decode(errors="replace"))

    def until(self, text: str) -> str:
        """Wait for a text that follows the last one; return what was printed before it."""
        deadline = time.monotonic() + _TIMEOUT
        while (position := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.shown}"
            assert self._read_more(), f"no {text!r} in:\n{self.shown}"
        before, self._seen = self.shown[self._seen : position], position + len(text)
        return before

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def answer(self, text: str) -> None:
        """Wait for the prompt of pdb, and type a line there."""
        self.until("(Pdb) ")
        self.type(f"{text}\n")

    def exit_code(self) -> int:
        """Wait for the end of the run, and return its exit code."""
        while self._read_more():
            pass
        return self.process.wait(_TIMEOUT)

    def _read_more(self) -> bool:
        if not select.select([self._end], [], [], _TIMEOUT)[0]:
            return False
        try:
            read = os.read(self._end, 1 << 16)
        except OSError:  # All processes that had it open have ended.
            return False
        self._read += read
        return bool(read)


@contextmanager
def terminal(project: Project, *arguments: str, **env: str) -> Iterator[Terminal]:
    """Run `manage.py test`, and kill what is left of it afterwards."""
    ours, theirs = pty.openpty()
    # Set the variables that determine what pdb prints.
    variables = {**_environment(), "TERM": "dumb", "COLUMNS": "200", **env}
    process: Any = subprocess.Popen(
        [sys.executable, *FLAGS, "manage.py", "test", *arguments],
        cwd=project.folder,
        env=variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_set_controlling_terminal,  # noqa: PLW1509
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(ours)


def _set_controlling_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
