import itertools

from hypothesis import given
from hypothesis import strategies as st

from schema_runner.execution.messages import Part
from schema_runner.execution.schedule import Schedule


def schedule(*subsuites: str) -> Schedule:
    """Return a schedule of classes: a letter a test, a capital one that is serial."""
    return Schedule(subsuites, is_serial=str.isupper)


def taken(parts: Schedule, *, is_alone: bool = True) -> list[tuple[int, tuple[int, ...]]]:
    """Take all there are, and return the subsuite and the positions of each."""
    found = []
    while part := parts.take(is_alone=is_alone):
        found.append((part.subsuite, part.positions))
    return found


def test_classes_come_in_the_order_of_the_suite() -> None:
    """A class is one part, with its tests in order."""
    parts = schedule("ab", "c", "def")
    assert taken(parts) == [(0, (0, 1)), (1, (0,)), (2, (0, 1, 2))]
    assert parts.is_empty


def test_serial_tests_come_after_all_others_as_parts_of_their_own() -> None:
    """Those of a class that is mixed are two parts of it."""
    parts = schedule("AB", "cDe", "f")
    assert taken(parts) == [(1, (0, 2)), (2, (0,)), (0, (0, 1)), (1, (1,))]


def test_serial_tests_wait_until_a_worker_is_alone() -> None:
    """Others get nothing, though there is something left."""
    parts = schedule("a", "B")
    assert taken(parts, is_alone=False) == [(0, (0,))]
    assert not parts.is_empty
    assert taken(parts) == [(1, (0,))]
    assert parts.is_empty


def test_no_test_makes_no_part() -> None:
    """A subsuite may be empty."""
    assert schedule().is_empty
    assert schedule("").is_empty


def test_what_is_put_back_comes_next() -> None:
    """As a part with a key of its own, and with the deaths it has caused."""
    parts = schedule("abc", "d")
    first = parts.take(is_alone=False)
    assert first is not None
    parts.put_back(first, [1, 2], deaths=1)
    again = parts.take(is_alone=False)
    assert again is not None
    assert (again.subsuite, again.positions, again.deaths) == (0, (1, 2), 1)
    assert again.key != first.key
    assert taken(parts) == [(1, (0,))]


def test_what_is_put_back_stays_serial() -> None:
    """However often, and parallel parts still go first."""
    parts = schedule("ABC", "d")
    beside, alone = parts.take(is_alone=True), parts.take(is_alone=True)
    assert beside is not None
    assert alone is not None
    for positions in ([1, 2], [2]):
        parts.put_back(alone, positions)
        assert parts.take(is_alone=False) is None
        alone = parts.take(is_alone=True)
        assert alone is not None
        assert alone.positions == tuple(positions)
    parts.put_back(alone, [2])
    parts.put_back(beside, [0])
    assert taken(parts) == [(1, (0,)), (0, (2,))]


def test_workers_get_parts_ahead_while_there_are_many() -> None:
    """At least one each, and few enough that all workers end at once."""
    many, few = schedule(*["a"] * 100), schedule(*["a"] * 7)
    assert many.ahead(2) > many.ahead(8) > few.ahead(2) == 1
    assert schedule(*["a"] * 10_000).ahead(2) < 20
    assert schedule(*["A"] * 100).ahead(2) == 1
    ahead = many.ahead(2)
    while not many.is_empty:
        many.take(is_alone=True)
        assert many.ahead(2) <= ahead
        ahead = many.ahead(2)
    assert ahead == 1


@given(st.lists(st.text("aB", max_size=4), max_size=6), st.lists(st.integers(0, 11)))
def test_each_test_is_handed_out_once(subsuites: list[str], steps: list[int]) -> None:
    """Whatever is taken, begun and put back, with whatever else under way."""
    parts, under_way, run = schedule(*subsuites), list[Part](), list[tuple[int, int]]()
    # In the end all that is taken is run.
    for step in itertools.chain(steps, itertools.cycle([0, 11])):
        if not under_way and parts.is_empty:
            break
        if step % 2 == 0:
            part = parts.take(is_alone=not under_way)
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
