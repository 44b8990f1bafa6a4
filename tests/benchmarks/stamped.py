"""A command that runs tests of `committing`: how long it takes, and what lies between tests.

Between two tests of a class is all from the end of one's body to the beginning of the next one's:
the flush or the reset, what else Django does to end a test and to begin one, and a connection.
The first quarter of those of a class is left out: there our resets learn, and plans are made.
"""

import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from ..project import STOCK, Project
from .command import execute
from .timed import drop_databases

_RUNNERS: dict[str, Sequence[str]] = {"ours": (), "stock": ("--testrunner", STOCK)}


@dataclass(frozen=True, slots=True)
class Stamped:
    """Seconds: of the whole command, and by class the median between tests."""

    whole: float
    between: Mapping[str, float]


def take_stamps(project: Project, runner: str, labels: Sequence[str], *, tests: int) -> Stamped:
    """Run tests in one process, with so many tests in those classes that may have any number.

    Fail unless all pass. A checkpoint comes first, so that no command waits for what the one
    before has written.
    """
    drop_databases(project)
    with project.maintenance() as connection:
        connection.execute("CHECKPOINT")
    command = ["manage.py", "test", *labels, "--noinput", *_RUNNERS[runner]]
    with tempfile.TemporaryDirectory(prefix="stamps-") as folder:
        stamps = Path(folder) / "stamps"
        environment = {"BENCH_STAMPS": str(stamps), "BENCH_TESTS": str(tests)}
        begun = time.perf_counter()
        output = execute(sys.executable, *command, folder=project.folder, environment=environment)
        whole = time.perf_counter() - begun
        bodies = _read(stamps)
    ran = sum(map(len, bodies.values()))
    assert re.search(rf"^Ran {ran} tests in .*\n\nOK\b", output, re.MULTILINE), output
    return Stamped(whole, {name: _between(times) for name, times in bodies.items()})


def _read(stamps: Path) -> dict[str, list[tuple[float, float]]]:
    """Return by class when the bodies of its tests have begun and ended."""
    bodies: dict[str, list[tuple[float, float]]] = {}
    for line in stamps.read_text().splitlines():
        name, begun, ended = line.split()
        bodies.setdefault(name, []).append((float(begun), float(ended)))
    return bodies


def _between(bodies: Sequence[tuple[float, float]]) -> float:
    gaps = [begun - ended for (_, ended), (begun, _) in pairwise(bodies)]
    return median(gaps[-(-len(gaps) // 4) :])
