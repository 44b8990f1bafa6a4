from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema_runner.scheduling.worker_count import (
    Limits,
    WorkerCount,
    choose_worker_count,
)

LONG = Limits(
    processors=4.0,
    connections=90,
    parts=[1.0] * 100,
    is_measured=True,
    start=0.5,
    processor_share=1.0,
)
NOT_SHORTER = "more would not make the run noticeably shorter."
# Tests of 10 seconds that mostly wait, with one processor.
WAITING = {"processors": 1.0, "parts": [0.1] * 100, "processor_share": 0.25}


@pytest.mark.parametrize(
    ("changes", "workers", "why"),
    [
        ({}, 4, "4 workers, because the process may use 4 CPUs."),
        # A second worker would share part of a processor with the first.
        ({"processors": 2.9}, 2, "2 workers, because the process may use 2 CPUs."),
        *[({"processors": quota}, 1, "1 CPU") for quota in (1.5, 0.5, 0.01)],
        ({"connections": 3}, 3, "the server has connections left for at most 3"),
        ({"connections": 0}, 1, ""),
        ({"connections": None}, 4, ""),
        # A class is one part, unless it can be divided.
        ({"parts": [9.0] * 3}, 3, "3 workers, because there are 3 test classes."),
        ({"parts": [9.0]}, 1, "there is 1 test class"),
        ({"parts": []}, 1, ""),
        # The set-up of a worker takes longer than it would save.
        ({"parts": [0.01] * 30}, 1, "no workers, because the tests take only about 0.3 s."),
        # During a long class, one other worker completes the rest; a third would save a thirtieth
        # of the time, or a seventh.
        ({"parts": [30.0, *[1.0] * 20]}, 2, f"2 workers, because {NOT_SHORTER}"),
        ({"parts": [30.0, *[1.0] * 32]}, 2, ""),
        ({"parts": [30.0, *[1.0] * 40]}, 3, ""),
        # Set-up uses a processor, even if tests wait.
        ({**WAITING, "start": 2.0}, 2, ""),
        ({**WAITING, "start": 0.0}, 4, ""),
        # Waiting tests leave processors free: up to four workers for each processor.
        ({"processor_share": 0.5}, 8, "use 4 CPUs, and tests spend 50% of their time waiting"),
        ({"processor_share": None}, 4, ""),
        # The next run has the times.
        ({"is_measured": False}, 4, "(estimated, because the history lacks most of these tests)"),
    ],
)
def test_the_number_of_workers_and_why(changes: dict[str, Any], workers: int, why: str) -> None:
    choice = choose_worker_count(LONG._replace(**changes))
    assert choice.workers == workers
    if why.endswith("."):
        assert choice == WorkerCount(workers, f"--parallel auto: {why}")
    assert why in choice.why


def test_waiting_tests_get_four_workers_a_processor() -> None:
    assert 14 <= choose_worker_count(LONG._replace(processor_share=0.0)).workers <= 16


@given(
    st.builds(
        Limits,
        processors=st.floats(0.01, 64),
        connections=st.none() | st.integers(0, 200),
        parts=st.lists(st.floats(0, 100), max_size=40),
        is_measured=st.booleans(),
        start=st.floats(0, 10),
        processor_share=st.none() | st.floats(0, 1),
    )
)
def test_the_number_is_within_all_limits(situation: Limits) -> None:
    """Every number has a reason."""
    choice = choose_worker_count(situation)
    most = max(int(situation.processors), 1)
    if situation.processor_share is not None:
        most = max(int(4 * situation.processors), 1)
    assert 1 <= choice.workers <= most
    assert choice.workers <= max(len(situation.parts), 1)
    assert choice.workers <= max(situation.connections or 1, 1) or situation.connections is None
    more = choose_worker_count(situation._replace(start=situation.start * 2))
    assert more.workers <= choice.workers
    assert choice.why.startswith("--parallel auto: ")
    assert choice.why.endswith(".")
