"""Commands whose cost is taken, and the servers on which they run."""

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
# As initdb leaves it, and one that does not wait for the disk.
_SETTINGS = {"default": {}, "test": embedded.DEFAULT_SETTINGS}
KINDS = tuple(_SETTINGS)


class Ran(NamedTuple):
    """What a command cost, in seconds and in those of user CPU, and what it printed."""

    seconds: float
    user_cpu: float
    output: str

    def passed(self, tests: int | str = r"\d+") -> int:
        """Return how many tests have passed; fail unless all did, and as many as expected."""
        counted = rf"^Ran ({tests}) tests? in .*\n\nOK\b|\b({tests}) passed in "
        found = re.search(counted, self.output, re.MULTILINE)
        assert found, self.output
        return int(found[1] or found[2])


def run(
    *arguments: str, folder: Path, env: dict[str, str], command: tuple[str, ...] = _MANAGE
) -> Ran:
    """Run `manage.py test`, or another command of Python, in a folder; any exit code will do.

    It prints into a file: reading from a pipe would take time from it. Python's development mode,
    which our tests have, would slow it down, and so would compiling this package each time.
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
        return Ran(seconds, user_cpu, output.read())


def settle(project: Project, *, is_kept: bool = False) -> None:
    """Drop a project's test databases unless they are kept, and write everything to disk."""
    if not is_kept:
        drop_databases(project)
    # No command waits for what the one before has written.
    with project.maintenance() as connection:
        connection.execute("CHECKPOINT")


def drop_databases(project: Project) -> None:
    for name in project.databases():
        if name.startswith("test_"):
            project.drop_database(name)


def _user_cpu() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


@contextmanager
def serving(kind: str, folder: Path, bin_dir: Path | None = None) -> Iterator[Server]:
    """Run a server with the settings of one of `KINDS`."""
    cache = folder / "server"
    server = embedded.start(settings=_SETTINGS[kind], cache_dir=cache, bin_dir=bin_dir)
    try:
        yield address(server)
    finally:
        embedded.stop(server)
