from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema_runner.foresight.sizing import Choice, Situation, choose

LONG = Situation(
    processors=4.0,
    connections=90,
    parts=[1.0] * 100,
    is_measured=True,
    start=0.5,
    processor_share=1.0,
)


def test_as_many_workers_as_processors() -> None:
    """Where nothing speaks against it."""
    assert choose(LONG) == Choice(
        4, "--parallel auto: 4 workers, because 4 processors can be used."
    )


@pytest.mark.parametrize(("quota", "workers"), [(2.9, 2), (1.5, 1), (0.5, 1), (0.01, 1)])
def test_part_of_a_processor_is_none(quota: float, workers: int) -> None:
    """A second worker would share the one with the first."""
    choice = choose(replace(LONG, processors=quota))
    assert choice.workers == workers
    assert f"{workers} processor" in choice.why


def test_no_more_than_the_connections_that_are_left() -> None:
    """Not even one: then there are no workers."""
    assert choose(replace(LONG, connections=3)) == Choice(
        3, "--parallel auto: 3 workers, because the server has connections for 3 at most."
    )
    assert choose(replace(LONG, connections=0)).workers == 1
    assert choose(replace(LONG, connections=None)).workers == 4


def test_no_more_than_there_are_parts() -> None:
    """A class is one, unless it can be divided."""
    assert choose(replace(LONG, parts=[9.0] * 3)) == Choice(
        3, "--parallel auto: 3 workers, because there are 3 classes of tests."
    )
    assert "there is 1 class of tests" in choose(replace(LONG, parts=[9.0])).why
    assert choose(replace(LONG, parts=[])).workers == 1


def test_a_suite_that_is_too_short_stays_serial() -> None:
    """Setting up a worker takes longer than it could save."""
    choice = choose(replace(LONG, parts=[0.01] * 30))
    assert choice == Choice(
        1,
        "--parallel auto: no workers, because the tests take about 0.3 s, too short for more to "
        "pay.",
    )


def test_one_long_class_decides_how_many_are_of_use() -> None:
    """While it is run, one other worker is through with all the rest."""
    choice = choose(replace(LONG, parts=[30.0, *[1.0] * 20]))
    assert choice == Choice(
        2, "--parallel auto: 2 workers, because more would hardly be through sooner."
    )


@pytest.mark.parametrize(("others", "workers"), [(32, 2), (40, 3)])
def test_hardly_sooner_is_not_worth_a_worker(others: int, workers: int) -> None:
    """A third one would save a thirtieth of the time, or a seventh."""
    assert choose(replace(LONG, parts=[30.0, *[1.0] * others])).workers == workers


@pytest.mark.parametrize(("start", "workers"), [(2.0, 2), (0.0, 4)])
def test_workers_that_start_share_the_processors(start: float, workers: int) -> None:
    """What sets them up does not wait, though their tests do."""
    waiting = replace(LONG, processors=1.0, parts=[0.1] * 100, processor_share=0.25)
    assert choose(replace(waiting, start=start)).workers == workers


def test_tests_that_wait_leave_processors_to_others() -> None:
    """Up to four workers for each."""
    choice = choose(replace(LONG, processor_share=0.5))
    assert choice.workers == 8
    assert "4 processors can be used, and tests wait for 50% of their time" in choice.why
    assert 14 <= choose(replace(LONG, processor_share=0.0)).workers <= 16
    assert choose(replace(LONG, processor_share=None)).workers == 4


def test_it_is_said_where_times_are_a_guess() -> None:
    """The next run knows them."""
    assert "is a guess" in choose(replace(LONG, is_measured=False)).why


@given(
    st.builds(
        Situation,
        processors=st.floats(0.01, 64),
        connections=st.none() | st.integers(0, 200),
        parts=st.lists(st.floats(0, 100), max_size=40),
        is_measured=st.booleans(),
        start=st.floats(0, 10),
        processor_share=st.none() | st.floats(0, 1),
    )
)
def test_every_limit_is_kept(situation: Situation) -> None:
    """And there is a reason for any number."""
    choice = choose(situation)
    most = max(int(situation.processors), 1)
    if situation.processor_share is not None:
        most = max(int(4 * situation.processors), 1)
    assert 1 <= choice.workers <= most
    assert choice.workers <= max(len(situation.parts), 1)
    assert choice.workers <= max(situation.connections or 1, 1) or situation.connections is None
    more = choose(replace(situation, start=situation.start * 2))
    assert more.workers <= choice.workers
    assert choice.why.startswith("--parallel auto: ")
    assert choice.why.endswith(".")
