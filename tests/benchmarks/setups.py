"""What it takes until all workers can test: with schemas, and with clone databases.

A small and a big project are tested, each on two servers: one with the settings that initdb
leaves, and one with those of `schema_runner.embedded`, which does not wait for the disk. In each
round every way takes its turn on the same server; `timed` says what is measured, `generated`
what the projects are. With nothing kept, all test databases of the server are dropped before
each command. The other ways find what one run before has left:

- with `--keepdb` its databases, for our runner and for stock's. Neither finds a migration that
  is not applied yet.
- with `--snapshot-dir`, as from a cache of a CI service, its file, but none of its databases.
  Stock Django has nothing of the kind, and begins with nothing.

pytest-django clones nothing: each worker runs the migrations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import median

from ..project import Project
from .comparison import Comparison, Target
from .generated import BIG, SMALL, Size, write_project
from .marks import write_timing
from .servers import KINDS, serving
from .timed import Taken, Way, drop_databases, take

SIZES = {size.name: size for size in (SMALL, BIG)}

_OURS, _STOCK, _PYTEST = (
    {n: Way(name, n) for n in (2, 8)} for name in ("ours", "stock", "pytest")
)
_SNAPSHOTS = "snapshots"
_CACHED = Way("ours", 2, ("--snapshot-dir", _SNAPSHOTS))
_OURS_KEPT, _STOCK_KEPT = (Way(name, 2, ("--keepdb",)) for name in ("ours", "stock"))
# How long a worker may take, in milliseconds, that finds a schema which is kept.
_READY = {"small": 50, "big": 150}


@dataclass(frozen=True, slots=True)
class Row:
    """What to compare of two ways; a size without a bound has no target."""

    name: str
    figure: Callable[[Taken], float]
    ways: tuple[Way, Way]
    bounds: dict[str, float]

    def compare(self, size: Size, kind: str, rounds: Sequence[dict[Way, Taken]]) -> Comparison:
        ours, theirs = self.ways
        bound = self.bounds.get(size.name)
        return Comparison(
            f"{size.name}, {kind} settings: {self.name}",
            "ours / pytest-django" if theirs.runner == "pytest" else "ours / stock",
            [self.figure(taken[ours]) / self.figure(taken[theirs]) for taken in rounds],
            None if bound is None else Target(is_maximum=True, bound=bound),
        )


_whole, _set_up, _copies = (attrgetter(name) for name in ("whole", "set_up", "copies"))
_WHOLE_BOUNDS = {2: {"small": 0.95, "big": 1.05}, 8: {"small": 0.85, "big": 1.1}}
_PYTEST_BOUNDS = {2: {"small": 0.6, "big": 0.6}, 8: {"small": 0.25, "big": 0.25}}
_FRESH = [
    *(
        Row(f"whole run, {n} workers", _whole, (_OURS[n], _STOCK[n]), _WHOLE_BOUNDS[n])
        for n in (2, 8)
    ),
    *(
        Row(f"copies alone, {n} workers", _copies, (_OURS[n], _STOCK[n]), {"small": 0.5})
        for n in (2, 8)
    ),
    *(
        Row(f"set-up, {n} workers", _set_up, (_OURS[n], _PYTEST[n]), _PYTEST_BOUNDS[n])
        for n in (2, 8)
    ),
    Row(
        "set-up from the CI cache, 2 workers",
        _set_up,
        (_CACHED, _STOCK[2]),
        {"small": 0.4, "big": 0.1},
    ),
]
_KEPT = [
    Row(
        "set-up with --keepdb, 2 workers",
        _set_up,
        (_OURS_KEPT, _STOCK_KEPT),
        {"small": 0.2, "big": 0.05},
    )
]


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
                yield from _compare_fresh(project, size, kind, turns)
                yield from _compare_kept(project, size, kind, turns)


def _compare_fresh(project: Project, size: Size, kind: str, rounds: int) -> Iterator[Comparison]:
    snapshots = project.folder / _SNAPSHOTS
    snapshots.mkdir()
    _take_fresh(project, _CACHED)
    assert list(snapshots.iterdir()), "the first run keeps nothing"
    ways = _ways(_FRESH)
    taken = [{way: _take_fresh(project, way) for way in ways} for _ in range(rounds)]
    drop_databases(project)
    for row in _FRESH:
        yield row.compare(size, kind, taken)


def _take_fresh(project: Project, way: Way) -> Taken:
    drop_databases(project)
    return take(project, way)


def _compare_kept(project: Project, size: Size, kind: str, rounds: int) -> Iterator[Comparison]:
    ways = _ways(_KEPT)
    for way in ways:
        take(project, way)
    taken = [{way: take(project, way) for way in ways} for _ in range(rounds)]
    drop_databases(project)
    for row in _KEPT:
        yield row.compare(size, kind, taken)
    # Milliseconds are those of one machine, and are not kept.
    ready = 1000 * median(max(turn[_OURS_KEPT].readiness) for turn in taken)
    target = _READY[size.name]
    name = f"{size.name}, {kind} settings"
    print(f"{name}: a worker finds its kept schema in {ready:.0f} ms (target ≤ {target})")


def _ways(rows: Sequence[Row]) -> list[Way]:
    """List the ways of some rows, each once, ours and theirs in turn."""
    return list(dict.fromkeys(way for row in rows for way in row.ways))
