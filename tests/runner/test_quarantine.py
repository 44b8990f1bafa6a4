"""Tests that are known to be flaky run alone, after all others, where that is asked for."""

from ..project import PARALLEL, Mode, Project, each_mode
from .recording import TOGETHER, run

# The flaky test is first in the suite, and takes longest.
TESTS = """
    class Flaky(Recording, TestCase):
        def test_beside(self): pass
        def test_flaky(self):
            time.sleep(0.3)
            self.assertFalse({condition})

    class Other(Recording, TestCase):
        def test_it(self): time.sleep(0.1)

    class Third(Recording, TransactionTestCase):
        def test_it(self): time.sleep(0.1)
"""
FLAKY = "Flaky.test_flaky"
SUITE = ["Flaky.test_beside", FLAKY, "Other.test_it", "Third.test_it"]


@each_mode
def test_a_flaky_test_is_run_alone_after_all_others(project: Project, mode: Mode) -> None:
    """Whichever kind of run has seen it fail and pass; and in several runs, though it passes."""
    project.tests(TESTS.format(condition="times('flaky') == 1"))
    found = run(project, *mode, "--retries", "1").passed()
    assert found.tests.count(FLAKY) == 2
    # Where that is not asked for, the test is run where it would be anyhow: as the longest, first.
    found = run(project, *PARALLEL, env=TOGETHER).passed()
    assert sorted(found.tests) == sorted(SUITE)
    assert found.tests.index(FLAKY) < 3
    assert found.met[FLAKY]
    for _ in range(2):
        found = run(project, *PARALLEL, "--quarantine-flaky", env=TOGETHER).passed()
        assert sorted(found.tests) == sorted(SUITE)
        assert found.tests[-1] == FLAKY
        assert not found.met[FLAKY]
        # The rest of its class stays where it is.
        assert found.tests.index("Flaky.test_beside") < 3
    # Without workers nothing runs beside it anyhow, and it keeps its place.
    assert run(project, "--quarantine-flaky").passed().tests == SUITE


def test_what_fails_always_is_not_flaky(project: Project) -> None:
    """Nor is what passes: it has to do both with the same code."""
    project.tests(TESTS.format(condition=True))
    run(project, *PARALLEL, "--retries", "1").failed()
    found = run(project, *PARALLEL, "--quarantine-flaky", env=TOGETHER).failed()
    assert found.tests.index(FLAKY) < 3
