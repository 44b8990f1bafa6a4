"""The cost of a test that commits beyond its body: with our resets, and with stock's flushes.

Projects of 300 and of 10 tables are tested, in one process, on each of the two servers. In each
round both runners run once on the same server, with new databases. `committing` describes the
tests, and what is measured. Rolled-back tests leave dead rows, which must not slow a reset down:
with 300 tables, tests that commit are measured in a fresh schema and after 500 others.

On the server that waits for the disk, stock Django takes seconds for a test, so it runs few of
them there, and not the whole suite. On the other one, the suite runs in every third round.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..project import Project
from .command import KINDS, running_server
from .committing import FEW, MANY, Gaps, Shape, measure_gaps, write_committing
from .comparison import Comparison

_TESTS = {"ours": {"default": 16, "test": 16}, "stock": {"default": 4, "test": 9}}


class Session(NamedTuple):
    """Classes of tests that run in one command; only our runner runs those of `idle`, first.

    With `is_kept`, our runner uses the schema that an earlier command has kept.
    """

    shape: Shape
    labels: tuple[str, ...]
    idle: tuple[str, ...] = ()
    is_long: bool = False
    is_kept: bool = False

    def measure(self, project: Project, kind: str) -> dict[str, Gaps]:
        """Run the tests with both runners."""
        labels = {"ours": [*self.idle, *self.labels], "stock": self.labels}
        measured = {
            runner: measure_gaps(project, runner, labels[runner], tests=_TESTS[runner][kind])
            for runner in ("stock", "ours")
        }
        if self.is_kept:
            for _ in range(2):  # The first command creates what is kept.
                measured["ours"] = measure_gaps(
                    project, "ours", labels["ours"], tests=_TESTS["ours"][kind], is_kept=True
                )
        return measured


class Row(NamedTuple):
    """What to compare in a session: the gap between tests of a class, or the whole command."""

    name: str
    session: Session
    between: str | None
    # By kind of server; a missing one has no target.
    bounds: dict[str, float]
    in_milliseconds: bool = False

    def compare(self, kind: str, rounds: Sequence[dict[str, Gaps]]) -> Comparison:
        return Comparison(
            f"{self.session.shape.name}, {kind} settings: {self.name}",
            [self._value(measured) for measured in rounds],
            self.bounds.get(kind),
            "this runner, ms" if self.in_milliseconds else "this runner / stock",
        )

    def _value(self, measured: dict[str, Gaps]) -> float:
        if self.in_milliseconds:
            return 1000 * self._seconds(measured["ours"])
        return self._seconds(measured["ours"]) / self._seconds(measured["stock"])

    def _seconds(self, gaps: Gaps) -> float:
        return gaps.between[self.between] if self.between else gaps.whole


def _both(bound: float) -> dict[str, float]:
    return dict.fromkeys(KINDS, bound)


_IDLE, _COMMITTING, _SCOPED, _ROLLED = (
    f"suite.tests.{name}" for name in ("Idle", "Committing", "Scoped", "Rolled")
)
_FRESH = Session(MANY, (_COMMITTING, _SCOPED), idle=(_IDLE,))
_USED = Session(MANY, (_ROLLED, _COMMITTING), idle=(_IDLE,))
_SUITE = Session(MANY, ("suite.many",), is_long=True)
_SMALL = Session(FEW, (_COMMITTING,))
_FIRST = Session(MANY, ("suite.first",))
_FIRST_KEPT = Session(MANY, ("suite.first",), is_kept=True)
_SMALL_FIRST = Session(FEW, ("suite.first",))
_BOUNDS = {"default": 0.02, "test": 0.08}
_ROWS = [
    Row("test that commits", _FRESH, "Committing", _BOUNDS),
    Row("test that commits, after 500 others", _USED, "Committing", _BOUNDS),
    Row("first test that commits", _FIRST, "First", _both(1)),
    Row("first test that commits, --keepdb", _FIRST_KEPT, "First", _both(1)),
    Row("test that reads", _FRESH, "Idle", _both(15), in_milliseconds=True),
    Row("test that reads, after 500 others", _USED, "Idle", _both(30), in_milliseconds=True),
    Row("test that commits, two available_apps", _FRESH, "Scoped", _both(1)),
    Row("suite of 200 tests that commit, whole run", _SUITE, None, {"test": 0.25}),
    Row("test that commits", _SMALL, "Committing", _both(1)),
    Row("first test that commits", _SMALL_FIRST, "First", _both(1)),
]


def compare_resets(folder: Path, *, rounds: int) -> Iterator[Comparison]:
    for kind in KINDS:
        with running_server(kind, folder) as address:
            projects = {}
            for shape in (MANY, FEW):
                name = f"{shape.tables}-tables-{kind}"
                projects[shape] = Project(folder / name, address, "bench")
                write_committing(projects[shape], shape)
            rows = [row for row in _ROWS if kind == "test" or not row.session.is_long]
            measured: dict[Session, list[dict[str, Gaps]]] = {row.session: [] for row in rows}
            for number in range(rounds):
                for session, measured_rounds in measured.items():
                    # Stock Django takes minutes for a long session.
                    if not session.is_long or number % 3 == 0:
                        measured_rounds.append(session.measure(projects[session.shape], kind))
            yield from (row.compare(kind, measured[row.session]) for row in rows)
