"""What a test that commits costs beyond its body: with our resets, and with stock's flushes.

A project of 300 tables and one of 10 are tested, in one process, on each of the two `servers`.
In each round both runners take their turn on the same one, each with a database that is made
anew. `committing` says what the tests do, `stamped` what is measured.

What rolled-back tests leave in the tables are dead rows, in which a reset must not get lost: with
300 tables, tests that commit are measured both on a fresh schema and after 500 others.

On a server that waits for the disk, stock Django takes seconds for each test: it has few of them
there, and no whole suite. On the other one the suite takes its turn in every third round.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..project import Project
from .committing import CLASSES, FEW, MANY, TESTS_PER_CLASS, Shape, write_committing
from .comparison import Comparison, Target
from .servers import KINDS, serving
from .stamped import Stamped, take_stamps

_TESTS = {"ours": {"default": 16, "test": 16}, "stock": {"default": 4, "test": 9}}


@dataclass(frozen=True, slots=True)
class Session:
    """Classes of tests of a project that are run together; ours alone runs `idle` ones before."""

    shape: Shape
    labels: tuple[str, ...]
    idle: tuple[str, ...] = ()
    is_long: bool = False

    def take(self, project: Project, kind: str) -> dict[str, Stamped]:
        """Have both runners take their turn."""
        return {
            runner: take_stamps(
                project,
                runner,
                [*self.idle, *self.labels] if runner == "ours" else self.labels,
                tests=_TESTS[runner][kind],
            )
            for runner in ("ours", "stock")
        }


@dataclass(frozen=True, slots=True)
class Row:
    """What to compare in a session; a kind of server without a bound has no target."""

    name: str
    session: Session
    figure: Callable[[Stamped], float]
    bounds: dict[str, float]
    in_milliseconds: bool = False

    def compare(self, kind: str, rounds: Sequence[dict[str, Stamped]]) -> Comparison:
        bound = self.bounds.get(kind)
        return Comparison(
            f"{self.session.shape.name}, {kind} settings: {self.name}",
            "ours, in ms" if self.in_milliseconds else "ours / stock",
            [self._value(taken) for taken in rounds],
            None if bound is None else Target(is_maximum=True, bound=bound),
        )

    def _value(self, taken: dict[str, Stamped]) -> float:
        ours = self.figure(taken["ours"])
        return 1000 * ours if self.in_milliseconds else ours / self.figure(taken["stock"])


def _between(name: str) -> Callable[[Stamped], float]:
    return lambda stamped: stamped.between[name]


def _both(bound: float) -> dict[str, float]:
    return dict.fromkeys(KINDS, bound)


_IDLE, _COMMITTING, _SCOPED, _ROLLED = (
    f"suite.tests.{name}" for name in ("Idle", "Committing", "Scoped", "Rolled")
)
_FRESH = Session(MANY, (_COMMITTING, _SCOPED), idle=(_IDLE,))
_USED = Session(MANY, (_ROLLED, _COMMITTING), idle=(_IDLE,))
_SUITE = Session(MANY, ("suite.many",), is_long=True)
_SMALL = Session(FEW, (_COMMITTING,))
_MANY_BOUNDS = {"default": 0.02, "test": 0.08}
_SUITE_NAME = f"a suite of {CLASSES * TESTS_PER_CLASS} tests that commit, whole run"
_ROWS = [
    Row("a test that commits", _FRESH, _between("Committing"), _MANY_BOUNDS),
    Row("a test that commits, after 500 others", _USED, _between("Committing"), _MANY_BOUNDS),
    Row("a test that reads", _FRESH, _between("Idle"), _both(15), in_milliseconds=True),
    Row(
        "a test that reads, after 500 others",
        _USED,
        _between("Idle"),
        _both(30),
        in_milliseconds=True,
    ),
    Row("a test that commits, two available_apps", _FRESH, _between("Scoped"), _both(1)),
    Row(_SUITE_NAME, _SUITE, lambda stamped: stamped.whole, {"test": 0.25}),
    Row("a test that commits", _SMALL, _between("Committing"), _both(1)),
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
            sessions = dict.fromkeys(row.session for row in rows)
            taken: dict[Session, list[dict[str, Stamped]]] = {each: [] for each in sessions}
            for turn in range(rounds):
                for session in sessions:
                    # Stock Django takes minutes for a long one.
                    if not session.is_long or turn % 3 == 0:
                        taken[session].append(session.take(projects[session.shape], kind))
            for row in rows:
                yield row.compare(kind, taken[row.session])
