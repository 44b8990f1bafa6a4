from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema_runner.scheduling.history import ClassRecord, History, TestRecord
from schema_runner.scheduling.plan import Durations, Ordering, Plan


class Case:
    """What a plan needs of a test case."""

    def __init__(self, name: str) -> None:
        self.name = name

    def id(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def suite(**classes: list[float]) -> tuple[list[list[Any]], History]:
    """Return subsuites of classes with tests of these seconds, and a history with their times."""
    subsuites: list[list[Any]] = []
    records, class_records = {}, {}
    for name, seconds in classes.items():
        kind = type(name, (Case,), {"__module__": "m", "__qualname__": name})
        tests = [kind(f"test_{n:03}") for n in range(len(seconds))]
        subsuites.append(tests)
        for test, one in zip(tests, seconds, strict=True):
            records[test.id()] = TestRecord(one, "P", 1)
        class_records[f"m.{name}"] = ClassRecord(0.0, keeps_state=False, day=1)
    return subsuites, History(records, class_records)


def plan(
    subsuites: list[list[Any]],
    history: History,
    *,
    workers: int = 2,
    first: tuple[str, ...] = (),
    stage_of: Callable[[Any], int] = lambda _: 0,
) -> Plan:
    tests = [test for subsuite in subsuites for test in subsuite]
    order = Ordering(durations=Durations(history, tests), stage_of=stage_of, first=first)
    return Plan(subsuites, workers=workers, is_serial=lambda _: False, order=order)


def parts_of(planned: Plan, subsuites: list[list[Any]]) -> list[str]:
    """Return the names of the classes in each part."""
    return [type(subsuites[part.subsuite][0]).__name__ for part in planned.parallel]


def with_long(history: History, record: ClassRecord) -> History:
    return History(history.tests, {**history.classes, "m.Long": record}, history.runs)


def test_the_longest_class_comes_first() -> None:
    """A new test is assumed to take the median time of known ones."""
    subsuites, history = suite(A=[0.1] * 5, B=[2.0], C=[0.2, 0.2], D=[1.0])
    assert parts_of(plan(subsuites, history), subsuites) == ["B", "D", "A", "C"]
    subsuites, history = suite(A=[1.0], B=[3.0], C=[9.0], New=[0.0])
    tests = {name: record for name, record in history.tests.items() if "New" not in name}
    planned = plan(subsuites, History(tests, {}), workers=1)
    assert parts_of(planned, subsuites) == ["C", "B", "New", "A"]


def test_stages_and_failures_come_before_length() -> None:
    subsuites, history = suite(A=[1.0], B=[3.0], C=[9.0], D=[2.0])
    planned = plan(subsuites, history, workers=1, first=("A.test_000", "D.test_000"))
    assert parts_of(planned, subsuites) == ["D", "A", "C", "B"]
    stages = {"stage_of": lambda test: 0 if test.id()[0] in "AB" else 1}
    planned = plan(subsuites, history, workers=1, first=("D.test_000",), **stages)
    assert parts_of(planned, subsuites) == ["B", "A", "D", "C"]
    assert [part.stage for part in planned.parallel] == [0, 0, 1, 1]


def test_a_class_that_would_delay_the_run_is_divided() -> None:
    """Into parts of a quarter of a worker's share, with its tests in order."""
    subsuites, history = suite(Long=[1.0] * 16, A=[2.0], B=[2.0])
    planned = plan(subsuites, history)
    pieces = [part.positions for part in planned.parallel if part.subsuite == 0]
    assert pieces == [tuple(range(n, n + 2)) for n in range(0, 16, 2)]
    # Not divided, because other classes fill the time.
    subsuites, history = suite(**{f"C{n}": [1.0] * 4 for n in range(4)})
    assert len(plan(subsuites, history).parallel) == 4


@pytest.mark.parametrize(
    ("keeps_state", "overhead"),
    [(True, 0.0), (False, 5.0), (None, 0.0)],
    ids=["state", "set-up", "unknown"],
)
def test_a_class_is_not_divided(keeps_state: bool | None, overhead: float) -> None:
    """If it keeps state, or may do so, or its set-up takes as long as its tests."""
    subsuites, history = suite(Long=[1.0] * 16, A=[2.0], B=[2.0])
    if keeps_state is None:
        history = History(history.tests, {})
    else:
        history = with_long(history, ClassRecord(overhead, keeps_state=keeps_state, day=1))
    assert len(plan(subsuites, history).parallel) == 3


def test_parts_are_longer_if_set_up_takes_longer() -> None:
    """Each part takes at least ten times as long as the class's set-up."""
    subsuites, history = suite(Long=[1.0] * 40, A=[1.0])
    history = with_long(history, ClassRecord(1.0, keeps_state=False, day=1))
    pieces = [part for part in plan(subsuites, history).parallel if part.subsuite == 0]
    assert [len(piece.positions) for piece in pieces] == [10] * 4


@given(st.lists(st.lists(st.floats(0, 5), min_size=1, max_size=12), max_size=8), st.integers(1, 5))
def test_each_test_is_in_one_part(classes: list[list[float]], workers: int) -> None:
    """Each test is in one part, in the order of its class."""
    subsuites, history = suite(**{f"C{n}": seconds for n, seconds in enumerate(classes)})
    planned = plan(subsuites, history, workers=workers)
    for index, tests in enumerate(subsuites):
        pieces = sorted(part.positions for part in planned.parallel if part.subsuite == index)
        assert [*chain(*pieces)] == list(range(len(tests)))
    keys = [part.key for part in planned.parallel]
    assert len(keys) == len(set(keys))
    seconds = [part.seconds for part in planned.parallel]
    assert seconds == sorted(seconds, reverse=True)
