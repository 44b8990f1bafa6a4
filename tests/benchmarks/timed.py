"""A command that tests a generated project: how long it takes, and its parts; see `marks`.

Set-up is from the first `begun` to the last `ready`; making the copies is from `built` on. Both
are without Django's checks in between, which pytest-django does not run; both are with the start
of worker processes, which comes before pytest-django's set-up.
"""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

from ..project import Project
from .command import run, settle
from .generated import CLASSES

_MANAGE = ["manage.py", "test", "suite", "--noinput", "--testrunner"]
# Only these plugins: what else is installed would take part too.
_PLUGINS = ["-p", "xdist.plugin", "-p", "pytest_django.plugin"]
_COMMANDS = {
    "ours": [*_MANAGE, "runners.OurRunner", "--parallel"],
    "stock": [*_MANAGE, "runners.StockRunner", "--parallel"],
    "pytest": ["-m", "pytest", *_PLUGINS, "suite/tests.py", "-n"],
}


class Way(NamedTuple):
    """How a project is tested: by "ours", "stock" or "pytest", with options of its own."""

    runner: str
    workers: int
    options: tuple[str, ...] = ()


class Taken(NamedTuple):
    """Seconds; `readiness` has one for each worker, from the start of its set-up to its end.

    pytest-django makes no copies, and starts no workers for them.
    """

    whole: float
    set_up: float
    copies: float = nan
    readiness: Sequence[float] = ()


def take(project: Project, way: Way, *, is_kept: bool = False) -> Taken:
    """Run the tests, on kept databases or none; return what it takes, or fail unless all pass."""
    settle(project, is_kept=is_kept)
    with tempfile.TemporaryDirectory(prefix="marks-") as marks:
        env = {
            "BENCH_MARKS": marks,
            "BENCH_RUNNER": way.runner,
            "BENCH_WORKERS": str(way.workers),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        command = (*_COMMANDS[way.runner], str(way.workers), *way.options)
        ran = run(folder=project.folder, env=env, command=command)
        # The times by event and process.
        marked: dict[str, dict[str, float]] = defaultdict(dict)
        for file in Path(marks).iterdir():
            event, _, process = file.name.partition("-")
            marked[event][process] = float(file.read_text())
    ran.passed(CLASSES)
    assert len(marked["ready"]) == way.workers, ran.output
    ready = max(marked["ready"].values())
    set_up = ready - min(marked["begun"].values())
    if way.runner == "pytest":
        return Taken(ran.seconds, set_up)
    # Each of these comes once, in the main process.
    (built,), (checking,), (checked,) = (
        marked[event].values() for event in ("built", "checking", "checked")
    )
    checks = checked - checking
    readiness = [marked["ready"][process] - at for process, at in marked["started"].items()]
    return Taken(ran.seconds, set_up - checks, ready - built - checks, readiness)
