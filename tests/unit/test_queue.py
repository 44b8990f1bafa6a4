import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schema_runner.scheduling.plan import Plan
from schema_runner.scheduling.queue import Part, PartQueue


def queue(*subsuites: str) -> PartQueue:
    """Return a queue of classes: one letter for each test, a capital for a serial one."""
    return Plan(subsuites, workers=2, is_serial=str.isupper).queue()


def take(parts: PartQueue, *, is_alone: bool) -> Any:
    """Return the next part, or None."""
    return parts.take(stage=0, others=[0], is_alone=is_alone)


def taken(parts: PartQueue, *, is_alone: bool = True) -> list[tuple[int, tuple[int, ...]]]:
    """Take all parts, and return the subsuite and the positions of each."""
    found = []
    while part := take(parts, is_alone=is_alone):
        found.append((part.subsuite, part.positions))
    return found


def test_classes_come_in_the_order_of_the_suite() -> None:
    """A class is one part, with its tests in order."""
    parts = queue("ab", "c", "def")
    assert taken(parts) == [(0, (0, 1)), (1, (0,)), (2, (0, 1, 2))]
    assert parts.is_empty
    assert queue().is_empty
    assert queue("").is_empty


def test_serial_tests_come_after_all_others_and_alone() -> None:
    """Serial parts wait until no other worker is running tests."""
    parts = queue("AB", "cDe", "f")
    assert taken(parts) == [(1, (0, 2)), (2, (0,)), (0, (0, 1)), (1, (1,))]
    parts = queue("a", "B")
    assert taken(parts, is_alone=False) == [(0, (0,))]
    assert not parts.is_empty
    assert taken(parts) == [(1, (0,))]
    assert parts.is_empty


def test_a_returned_part_comes_next() -> None:
    """A returned part has a new key, and the number of deaths that it has caused."""
    parts = queue("abc", "d")
    first = take(parts, is_alone=False)
    parts.put_back(first, [1, 2], deaths=1)
    again = take(parts, is_alone=False)
    assert (again.subsuite, again.positions, again.deaths) == (0, (1, 2), 1)
    assert again.key != first.key
    assert taken(parts) == [(1, (0,))]


def test_a_returned_part_stays_serial() -> None:
    """A returned part stays serial, and parallel parts still come first."""
    parts = queue("ABC", "d")
    beside, alone = take(parts, is_alone=True), take(parts, is_alone=True)
    for positions in ([1, 2], [2]):
        parts.put_back(alone, positions)
        assert take(parts, is_alone=False) is None
        alone = take(parts, is_alone=True)
        assert alone.positions == tuple(positions)
    parts.put_back(alone, [2])
    parts.put_back(beside, [0])
    assert taken(parts) == [(1, (0,)), (0, (2,))]


def ahead(parts: PartQueue, workers: int) -> int:
    """Return how many parts a worker is given at a time."""
    held = itertools.count()
    return next(n for n in held if not parts.has_more_for([Part(0, 0, (0,))] * n, workers))


def test_workers_get_several_parts_while_there_are_many() -> None:
    """At least one for each worker, and few enough that all end together."""
    many, few = queue(*["a"] * 100), queue(*["a"] * 7)
    assert ahead(many, 2) > ahead(many, 8) > ahead(few, 2) == 1
    assert ahead(queue(*["a"] * 10_000), 2) < 20
    assert ahead(queue(*["A"] * 100), 2) == 1
    before = ahead(many, 2)
    while not many.is_empty:
        take(many, is_alone=True)
        assert ahead(many, 2) <= before
        before = ahead(many, 2)
    assert before == 1
    assert ahead(PartQueue([Part(key, 0, (key,)) for key in range(100)], prefetch=0), 2) == 1


def timed(seconds: dict[tuple[int, str], float]) -> PartQueue:
    """Return a queue of parts with these stages, names and seconds."""
    return PartQueue(
        Part(key, key, (0,), stage=stage, seconds=each)
        for key, ((stage, _), each) in enumerate(seconds.items())
    )


def test_a_busy_worker_gets_no_long_part() -> None:
    """A busy worker is not given a long part in advance."""
    parts = queue(*["a"] * 100)
    assert parts.has_more_for([Part(1, 0, (0,), seconds=0.001)], 2)
    assert not parts.has_more_for([Part(1, 0, (0,), seconds=1.0)], 2)


def taken_by(parts: PartQueue, *, stage: int, others: list[int], number: int = 9) -> list[int]:
    """Return the subsuites that a worker at a stage takes."""
    found: list[int] = []
    while len(found) < number and (part := parts.take(stage=stage, others=others, is_alone=False)):
        found.append(part.subsuite)
        stage = max(stage, part.stage)
    return found


def test_stages_come_in_order() -> None:
    """A worker that has reached a stage does not go back to an earlier one."""
    parts = timed({(0, "a"): 1.0, (0, "b"): 1.0, (1, "c"): 1.0, (2, "d"): 1.0})
    assert taken_by(parts, stage=0, others=[0], number=1) == [0]
    assert taken_by(parts, stage=1, others=[0]) == [2, 3]
    assert taken_by(parts, stage=2, others=[0]) == []
    assert taken_by(parts, stage=0, others=[2]) == [1]
    assert parts.is_empty


def test_a_part_that_would_delay_the_run_does_not_wait_for_its_stage() -> None:
    """One of two workers starts early on a long part, unless earlier stages need all workers."""
    for others, expected in (([0], [2, 3]), ([1], [0, 1, 2, 3]), ([], [0, 1, 2, 3])):
        parts = timed({(0, "a"): 2.0, (0, "b"): 2.0, (1, "c"): 9.0, (1, "d"): 1.0})
        assert taken_by(parts, stage=0, others=others) == expected

    # Without estimates, all wait.
    parts = PartQueue([Part(1, 0, (0,)), Part(2, 1, (0,), stage=1)])
    assert taken_by(parts, stage=0, others=[0]) == [0, 1]


@given(st.lists(st.text("aB", max_size=4), max_size=6), st.lists(st.integers(0, 11)))
def test_each_test_is_taken_once(subsuites: list[str], steps: list[int]) -> None:
    parts, under_way, run = queue(*subsuites), list[Part](), list[tuple[int, int]]()
    # All parts are taken in the end.
    for step in itertools.chain(steps, itertools.cycle([0, 11])):
        if not under_way and parts.is_empty:
            break
        if step % 2 == 0:
            part = take(parts, is_alone=not under_way)
            under_way += [part] if part else []
        elif under_way:
            part = under_way.pop(step % len(under_way))
            done = step // 2
            run += [(part.subsuite, position) for position in part.positions[:done]]
            if rest := part.positions[done:]:
                parts.put_back(part, rest)
        serial = [p for p in under_way if subsuites[p.subsuite][p.positions[0]].isupper()]
        assert not serial or len(under_way) == 1
    everything = [(n, p) for n, tests in enumerate(subsuites) for p in range(len(tests))]
    assert sorted(run) == everything
