"""Tests that are known to be flaky run alone, after all others, where that is asked for."""

import pytest

from ..project import Project
from .recording import PARALLEL, TOGETHER, Run, run

# The flaky test is first in the suite, and takes longest.
TESTS = """
    class Flaky(Recording, TestCase):
        def test_beside(self):
            pass

        def test_flaky(self):
            time.sleep(0.3)
            self.assertFalse(times('flaky') == 1 and 'FLAKY' in os.environ)


    class Other(Recording, TestCase):
        def test_it(self):
            time.sleep(0.1)


    class Third(Recording, TransactionTestCase):
        def test_it(self):
            time.sleep(0.1)
"""
FLAKY = "Flaky.test_flaky"
ALL = sorted([FLAKY, "Flaky.test_beside", "Other.test_it", "Third.test_it"])


@pytest.fixture(params=[(), PARALLEL], ids=["serial", "parallel"])
def flaky(project: Project, request: pytest.FixtureRequest) -> Project:
    """A project with a test that has failed, and passed when it was run again."""
    project.tests(TESTS)
    found = run(project, *request.param, "--retries", "1", env={"FLAKY": "1"}).passed()
    assert found.tests.count(FLAKY) == 2
    return project


def is_alone(found: Run) -> bool:
    """Whether the flaky test was run once, after all others and beside none."""
    assert sorted(found.passed().tests) == ALL
    return found.tests[-1] == FLAKY and not found.met[FLAKY]


def test_a_flaky_test_is_run_alone_after_all_others(flaky: Project) -> None:
    """In several runs, though it passes; the rest of its class stays where it is."""
    for _ in range(2):
        found = run(flaky, *PARALLEL, "--quarantine-flaky", env=TOGETHER)
        assert is_alone(found)
        assert found.tests.index("Flaky.test_beside") < 3


def test_nothing_is_quarantined_unless_that_is_asked_for(flaky: Project) -> None:
    """The test is run where it would be anyhow: as the longest, first."""
    found = run(flaky, *PARALLEL, env=TOGETHER).passed()
    assert sorted(found.tests) == ALL
    assert found.tests.index(FLAKY) < 3
    assert found.met[FLAKY]


def test_what_fails_always_is_not_flaky(project: Project) -> None:
    """Nor is what passes: it has to do both with the same code."""
    project.tests(TESTS.replace("times('flaky') == 1 and 'FLAKY' in os.environ", "True"))
    assert run(project, *PARALLEL, "--retries", "1").result.code == 1
    found = run(project, *PARALLEL, "--quarantine-flaky", env=TOGETHER)
    assert found.result.code == 1
    assert found.tests.index(FLAKY) < 3


def test_without_workers_a_flaky_test_keeps_its_place(flaky: Project) -> None:
    """Nothing runs beside it anyhow."""
    found = run(flaky, "--quarantine-flaky").passed()
    assert found.tests == ["Flaky.test_beside", FLAKY, "Other.test_it", "Third.test_it"]
