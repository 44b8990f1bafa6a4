"""What it takes until all workers can test: with schemas, and with clone databases.

A small and a big project (`generated`) are tested on each of the two servers. In each round
every way takes its turn on the same server; `timed` says what is measured. All test databases are
dropped before each command, but for two ways, which find what one run before has left:

- with `--keepdb` its databases, for both runners; no migration is missing.
- with `--snapshot-dir`, as from the cache of a CI service, its file alone. Stock Django has
  nothing of the kind, and begins with nothing.

pytest-django clones nothing: each worker runs the migrations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..project import Project
from .command import KINDS, drop_databases, serving
from .comparison import Comparison
from .generated import BIG, SMALL, Size, write_project
from .timed import Taken, Way, take, write_timing

SIZES = {size.name: size for size in (SMALL, BIG)}

_OURS, _STOCK, _PYTEST = (
    {n: Way(name, n) for n in (2, 8)} for name in ("ours", "stock", "pytest")
)
_SNAPSHOTS = "snapshots"
_CACHED = Way("ours", 2, ("--snapshot-dir", _SNAPSHOTS))
_OURS_KEPT, _STOCK_KEPT = (Way(name, 2, ("--keepdb",)) for name in ("ours", "stock"))
# How long a worker may take, in milliseconds, that finds a schema which is kept.
_READY = {"small": 50, "big": 150}


class Row(NamedTuple):
    """The part of two ways to compare, and at most what ratio for each size; None is no target."""

    name: str
    part: str
    ours: Way
    theirs: Way
    small: float
    big: float | None = None

    def compare(self, size: Size, kind: str, rounds: Sequence[dict[Way, Taken]]) -> Comparison:
        return Comparison(
            f"{size.name}, {kind} settings: {self.name}",
            [
                getattr(taken[self.ours], self.part) / getattr(taken[self.theirs], self.part)
                for taken in rounds
            ],
            self.big if size is BIG else self.small,
            f"this runner / {'pytest-django' if self.theirs.runner == 'pytest' else 'stock'}",
        )


_FRESH = [
    Row("whole run, 2 workers", "whole", _OURS[2], _STOCK[2], small=0.95, big=1.05),
    Row("whole run, 8 workers", "whole", _OURS[8], _STOCK[8], small=0.85, big=1.1),
    Row("copies only, 2 workers", "copies", _OURS[2], _STOCK[2], small=0.5),
    Row("copies only, 8 workers", "copies", _OURS[8], _STOCK[8], small=0.5),
    Row("set-up, 2 workers", "set_up", _OURS[2], _PYTEST[2], small=0.6, big=0.6),
    Row("set-up, 8 workers", "set_up", _OURS[8], _PYTEST[8], small=0.25, big=0.25),
    Row("set-up from a snapshot, 2 workers", "set_up", _CACHED, _STOCK[2], small=0.4, big=0.1),
]
_KEPT_NAME = "set-up with --keepdb, 2 workers"
_KEPT = [Row(_KEPT_NAME, "set_up", _OURS_KEPT, _STOCK_KEPT, small=0.2, big=0.05)]


def compare_set_ups(
    folder: Path, *, rounds: int, sizes: Sequence[Size] = (SMALL, BIG)
) -> Iterator[Comparison]:
    for kind in KINDS:
        with serving(kind, folder) as address:
            for size in sizes:
                project = Project(folder / f"{size.name}-{kind}", address, "bench")
                write_timing(project)
                write_project(project, size)
                # A round of the big one takes minutes.
                turns = (rounds + 2) // 3 if size is BIG else rounds
                (project.folder / _SNAPSHOTS).mkdir()
                take(project, _CACHED)
                assert list((project.folder / _SNAPSHOTS).iterdir()), "the first run keeps nothing"
                taken = _take(project, _FRESH, turns)
                yield from (row.compare(size, kind, taken) for row in _FRESH)

                # The first round makes what is kept.
                _, *taken = _take(project, _KEPT, turns + 1, is_kept=True)
                yield from (row.compare(size, kind, taken) for row in _KEPT)
                # Milliseconds are those of one machine, and are not kept.
                ready = 1000 * median(max(turn[_OURS_KEPT].readiness) for turn in taken)
                found = f"{size.name}, {kind} settings: a worker leases its kept schema"
                print(f"{found} in {ready:.0f} ms (target ≤ {_READY[size.name]})")


def _take(
    project: Project, rows: Sequence[Row], rounds: int, *, is_kept: bool = False
) -> list[dict[Way, Taken]]:
    """Let each way of some rows take its turn, ours and theirs; then drop the databases."""
    ways = dict.fromkeys(way for row in rows for way in (row.ours, row.theirs))
    taken = [{way: take(project, way, is_kept=is_kept) for way in ways} for _ in range(rounds)]
    drop_databases(project)
    return taken
