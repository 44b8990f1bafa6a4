"""Run commands and measure what they cost, and run the servers that they use."""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from schema_runner import embedded
from schema_runner.postgres.server import Server

from ..project import Project, address

_MANAGE = ("manage.py", "test")
# The settings of initdb, and those without waiting for the disk.
_SETTINGS = {"default": {}, "test": embedded.DEFAULT_SETTINGS}
KINDS = tuple(_SETTINGS)


class CommandResult(NamedTuple):
    """The output of a command, and its cost: seconds of time and of user CPU time."""

    seconds: float
    user_cpu: float
    output: str

    def check_passed(self, tests: int | str = r"\d+") -> int:
        """Return the number of passed tests; fail unless all passed, and as many as expected."""
        counted = rf"^Ran ({tests}) tests? in .*\n\nOK\b|\b({tests}) passed in "
        found = re.search(counted, self.output, re.MULTILINE)
        assert found, self.output
        return int(found[1] or found[2])


def run(
    *arguments: str, folder: Path, env: dict[str, str], command: tuple[str, ...] = _MANAGE
) -> CommandResult:
    """Run `manage.py test`, or other arguments of Python, in a folder; do not check the exit code.

    The output goes to a file, because reading from a pipe would take time from the command.
    Python's development mode, and compiling this package each time, would slow it down.
    """
    slow = {"PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE"}
    inherited = {name: value for name, value in os.environ.items() if name not in slow}
    with tempfile.TemporaryFile("w+") as output:
        user_cpu, begun = _user_cpu(), time.perf_counter()
        subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=folder,
            env={**inherited, "START_METHOD": "fork", **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=1800,
            check=False,
        )
        seconds, user_cpu = time.perf_counter() - begun, _user_cpu() - user_cpu
        output.seek(0)
        return CommandResult(seconds, user_cpu, output.read())


def prepare(project: Project, *, is_kept: bool = False) -> None:
    """Drop a project's test databases unless they are kept, and write everything to disk."""
    if not is_kept:
        drop_databases(project)
    # So that no command waits for what the previous one wrote.
    with project.maintenance() as connection:
        connection.execute("CHECKPOINT")


def drop_databases(project: Project) -> None:
    for name in project.databases():
        if name.startswith("test_"):
            project.drop_database(name)


def _user_cpu() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


@contextmanager
def running_server(kind: str, folder: Path, bin_dir: Path | None = None) -> Iterator[Server]:
    """Run a server with the settings of one of `KINDS`."""
    cache = folder / "server"
    server = embedded.start(settings=_SETTINGS[kind], cache_dir=cache, bin_dir=bin_dir)
    try:
        yield address(server)
    finally:
        embedded.stop(server)
