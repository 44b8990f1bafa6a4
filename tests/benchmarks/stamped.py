"""A command that runs tests of `committing`: how long it takes, and what lies between tests.

Between two tests of a class is all from the end of one's body to the beginning of the next one's:
the flush or the reset, Django's own set-up and tear-down, and a connection. The first quarter of a
class is left out: there our resets learn, and plans are made.
"""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..project import WITH_STOCK, Project
from .command import run, settle


class Stamped(NamedTuple):
    """Seconds: of the whole command, and by class the median between tests."""

    whole: float
    between: Mapping[str, float]


def take_stamps(project: Project, runner: str, labels: Sequence[str], *, tests: int) -> Stamped:
    """Run tests in one process, `tests` in a class where any number will do; all must pass."""
    settle(project)
    flags = ["--noinput", *(WITH_STOCK if runner == "stock" else ())]
    with tempfile.TemporaryDirectory(prefix="stamps-") as folder:
        stamps = Path(folder) / "stamps"
        env = {"BENCH_STAMPS": str(stamps), "BENCH_TESTS": str(tests)}
        ran = run(*labels, *flags, folder=project.folder, env=env)
        bodies: dict[str, list[tuple[float, float]]] = {}
        for line in stamps.read_text().splitlines():
            name, begun, ended = line.split()
            bodies.setdefault(name, []).append((float(begun), float(ended)))
    ran.passed(sum(map(len, bodies.values())))
    return Stamped(ran.seconds, {name: _between(times) for name, times in bodies.items()})


def _between(bodies: Sequence[tuple[float, float]]) -> float:
    gaps = [begun - ended for (_, ended), (begun, _) in pairwise(bodies)]
    return median(gaps[-(-len(gaps) // 4) :])
