"""A command that tests a generated project: how long it takes, and its parts; see `marks`.

Set-up is from the first `begun` to the last `ready`; making the copies is from `built` on. What
Django checks in between is left out of both: it is no set-up, and pytest-django does not do it.
Starting worker processes is in both, but not in what pytest-django takes.
"""

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

from psycopg import sql

from ..project import Project
from .command import execute
from .generated import CLASSES

_MANAGE = ["manage.py", "test", "suite", "--noinput", "--parallel"]
# Only these plugins: what else is installed would take part too.
_PLUGINS = ["-p", "xdist.plugin", "-p", "pytest_django.plugin"]
_COMMANDS = {
    "ours": [*_MANAGE, "{workers}", "--testrunner", "runners.OurRunner"],
    "stock": [*_MANAGE, "{workers}", "--testrunner", "runners.StockRunner"],
    "pytest": ["-m", "pytest", *_PLUGINS, "suite/tests.py", "-n", "{workers}"],
}


@dataclass(frozen=True, slots=True)
class Way:
    """How a project is tested: by "ours", "stock" or "pytest", with options of its own."""

    runner: str
    workers: int
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds; `readiness` has one for each worker, from the start of its set-up to its end.

    pytest-django makes no copies, and starts no workers for them.
    """

    whole: float
    set_up: float
    copies: float = nan
    readiness: Sequence[float] = ()


def drop_databases(project: Project) -> None:
    with project.maintenance() as connection:
        for name in project.databases():
            if name.startswith("test_"):
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


def take(project: Project, way: Way) -> Taken:
    """Run the tests, and return what it takes; fail unless all of them pass.

    A checkpoint comes first, so that no command waits for what the one before has written.
    """
    with project.maintenance() as connection:
        connection.execute("CHECKPOINT")
    command = [part.format(workers=way.workers) for part in _COMMANDS[way.runner]]
    with tempfile.TemporaryDirectory(prefix="marks-") as marks:
        environment = {
            "BENCH_MARKS": marks,
            "BENCH_RUNNER": way.runner,
            "BENCH_WORKERS": str(way.workers),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "START_METHOD": "fork",
        }
        begun = time.perf_counter()
        output = execute(
            sys.executable, *command, *way.options, folder=project.folder, environment=environment
        )
        whole = time.perf_counter() - begun
        marked = _read(Path(marks))
    expected = rf"^Ran {CLASSES} tests in .*\n\nOK\b|\b{CLASSES} passed in "
    assert re.search(expected, output, re.MULTILINE), output
    assert len(marked["ready"]) == way.workers, output
    ready = max(marked["ready"].values())
    set_up = ready - min(marked["begun"].values())
    if way.runner == "pytest":
        return Taken(whole, set_up)
    # Each of these comes once, in the main process.
    (built,), (checking,), (checked,) = (
        marked[event].values() for event in ("built", "checking", "checked")
    )
    checks = checked - checking
    return Taken(
        whole,
        set_up - checks,
        copies=ready - built - checks,
        readiness=[marked["ready"][process] - at for process, at in marked["started"].items()],
    )


def _read(folder: Path) -> dict[str, dict[str, float]]:
    """Return the times by event and process."""
    times: dict[str, dict[str, float]] = {}
    for file in folder.iterdir():
        event, _, process = file.name.partition("-")
        times.setdefault(event, {})[process] = float(file.read_text())
    return times
