"""What a test that commits costs beyond its body: with our resets, and with stock's flushes.

A project of 300 tables and one of 10 are tested, in one process, on each of the two servers. In
each round both runners take a turn on the same one, with new databases. `committing` says what the
tests do, and what is measured. Rolled-back tests leave dead rows, which must not slow a
reset down: with 300 tables, tests that commit are measured on a fresh schema and after 500 others.

On a server that waits for the disk, a test takes stock Django seconds: it has few of them there,
and no whole suite. On the other one the suite takes its turn in every third round.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..project import Project
from .command import KINDS, serving
from .committing import FEW, MANY, Shape, Stamped, take_stamps, write_committing
from .comparison import Comparison

_TESTS = {"ours": {"default": 16, "test": 16}, "stock": {"default": 4, "test": 9}}


class Session(NamedTuple):
    """Classes of tests of a project that are run together; ours alone runs `idle` ones before."""

    shape: Shape
    labels: tuple[str, ...]
    idle: tuple[str, ...] = ()
    is_long: bool = False

    def take(self, project: Project, kind: str) -> dict[str, Stamped]:
        """Let both runners take their turn."""
        labels = {"ours": [*self.idle, *self.labels], "stock": self.labels}
        return {
            runner: take_stamps(project, runner, labels[runner], tests=_TESTS[runner][kind])
            for runner in labels
        }


class Row(NamedTuple):
    """What to compare in a session: what lies between tests of a class, or the whole command."""

    name: str
    session: Session
    between: str | None
    # By kind of server; one that is not there has no target.
    bounds: dict[str, float]
    in_milliseconds: bool = False

    def compare(self, kind: str, rounds: Sequence[dict[str, Stamped]]) -> Comparison:
        return Comparison(
            f"{self.session.shape.name}, {kind} settings: {self.name}",
            [self._value(taken) for taken in rounds],
            self.bounds.get(kind),
            "this runner, ms" if self.in_milliseconds else "this runner / stock",
        )

    def _value(self, taken: dict[str, Stamped]) -> float:
        if self.in_milliseconds:
            return 1000 * self._seconds(taken["ours"])
        return self._seconds(taken["ours"]) / self._seconds(taken["stock"])

    def _seconds(self, stamped: Stamped) -> float:
        return stamped.between[self.between] if self.between else stamped.whole


def _both(bound: float) -> dict[str, float]:
    return dict.fromkeys(KINDS, bound)


_IDLE, _COMMITTING, _SCOPED, _ROLLED = (
    f"suite.tests.{name}" for name in ("Idle", "Committing", "Scoped", "Rolled")
)
_FRESH = Session(MANY, (_COMMITTING, _SCOPED), idle=(_IDLE,))
_USED = Session(MANY, (_ROLLED, _COMMITTING), idle=(_IDLE,))
_SUITE = Session(MANY, ("suite.many",), is_long=True)
_SMALL = Session(FEW, (_COMMITTING,))
_BOUNDS = {"default": 0.02, "test": 0.08}
_ROWS = [
    Row("test that commits", _FRESH, "Committing", _BOUNDS),
    Row("test that commits, after 500 others", _USED, "Committing", _BOUNDS),
    Row("test that reads", _FRESH, "Idle", _both(15), in_milliseconds=True),
    Row("test that reads, after 500 others", _USED, "Idle", _both(30), in_milliseconds=True),
    Row("test that commits, two available_apps", _FRESH, "Scoped", _both(1)),
    Row("suite of 200 tests that commit, whole run", _SUITE, None, {"test": 0.25}),
    Row("test that commits", _SMALL, "Committing", _both(1)),
]


def compare_resets(folder: Path, *, rounds: int) -> Iterator[Comparison]:
    for kind in KINDS:
        with serving(kind, folder) as address:
            projects = {}
            for shape in (MANY, FEW):
                name = f"{shape.tables}-tables-{kind}"
                projects[shape] = Project(folder / name, address, "bench")
                write_committing(projects[shape], shape)
            rows = [row for row in _ROWS if kind == "test" or not row.session.is_long]
            taken: dict[Session, list[dict[str, Stamped]]] = {row.session: [] for row in rows}
            for turn in range(rounds):
                for session, rounds_taken in taken.items():
                    # Stock Django takes minutes for a long one.
                    if not session.is_long or turn % 3 == 0:
                        rounds_taken.append(session.take(projects[session.shape], kind))
            yield from (row.compare(kind, taken[row.session]) for row in rows)
