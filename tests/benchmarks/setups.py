"""The time until all workers can run tests: with schemas, and with clone databases.

A small and a big project (`generated`) are tested on each of the two servers. In each round every
variant runs once on the same server; `timed` describes what is measured. All test databases are
dropped before each command, except for two variants, which use what an earlier run left:

- with `--keepdb`, its databases, for both runners; no migration is missing.
- with `--snapshot-dir`, only its file, as from the cache of a CI service. Stock Django has no
  equivalent, and starts from nothing.

pytest-django does not clone: each worker runs the migrations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..project import Project
from .command import KINDS, drop_databases, running_server
from .comparison import Comparison
from .generated import BIG, SMALL, Size, write_project
from .timed import Times, Variant, measure, write_timing

SIZES = {size.name: size for size in (SMALL, BIG)}

_OURS, _STOCK, _PYTEST = (
    {n: Variant(name, n) for n in (2, 8)} for name in ("ours", "stock", "pytest")
)
_SNAPSHOTS = "snapshots"
_CACHED = Variant("ours", 2, ("--snapshot-dir", _SNAPSHOTS))
_OURS_KEPT, _STOCK_KEPT = (Variant(name, 2, ("--keepdb",)) for name in ("ours", "stock"))
# Milliseconds in which a worker should lease a kept schema.
_READY = {"small": 50, "big": 150}


class Row(NamedTuple):
    """The part of the times of two variants to compare, and the targets by size (None: none)."""

    name: str
    part: str
    ours: Variant
    theirs: Variant
    small: float
    big: float | None = None

    def compare(self, size: Size, kind: str, rounds: Sequence[dict[Variant, Times]]) -> Comparison:
        return Comparison(
            f"{size.name}, {kind} settings: {self.name}",
            [
                getattr(measured[self.ours], self.part) / getattr(measured[self.theirs], self.part)
                for measured in rounds
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
    Row("set-up from a snapshot, 2 workers", "set_up", _CACHED, _STOCK[2], small=0.4, big=0.12),
]
_KEPT_NAME = "set-up with --keepdb, 2 workers"
_KEPT = [Row(_KEPT_NAME, "set_up", _OURS_KEPT, _STOCK_KEPT, small=1.0, big=0.15)]


def compare_set_ups(
    folder: Path, *, rounds: int, sizes: Sequence[Size] = (SMALL, BIG)
) -> Iterator[Comparison]:
    for kind in KINDS:
        with running_server(kind, folder) as address:
            for size in sizes:
                project = Project(folder / f"{size.name}-{kind}", address, "bench")
                write_timing(project)
                write_project(project, size)
                # A round of the big project takes minutes.
                round_count = (rounds + 2) // 3 if size is BIG else rounds
                (project.folder / _SNAPSHOTS).mkdir()
                measure(project, _CACHED)
                assert list((project.folder / _SNAPSHOTS).iterdir()), "the first run keeps nothing"
                measured = _measure(project, _FRESH, round_count)
                yield from (row.compare(size, kind, measured) for row in _FRESH)

                # The first round creates what is kept.
                _, *measured = _measure(project, _KEPT, round_count + 1, is_kept=True)
                yield from (row.compare(size, kind, measured) for row in _KEPT)
                # Milliseconds depend on the machine, so they are not on the page.
                ready = 1000 * median(max(times[_OURS_KEPT].readiness) for times in measured)
                found = f"{size.name}, {kind} settings: a worker leases its kept schema"
                print(f"{found} in {ready:.0f} ms (target ≤ {_READY[size.name]})")


def _measure(
    project: Project, rows: Sequence[Row], rounds: int, *, is_kept: bool = False
) -> list[dict[Variant, Times]]:
    """Measure each variant of the rows in each round; then drop the databases."""
    variants = dict.fromkeys(variant for row in rows for variant in (row.ours, row.theirs))
    measured = [
        {variant: measure(project, variant, is_kept=is_kept) for variant in variants}
        for _ in range(rounds)
    ]
    drop_databases(project)
    return measured
