"""--quarantine-flaky: flaky tests run alone, after all others."""

from ..project import PARALLEL, Mode, Project, each_mode
from .recording import TOGETHER, run

# The flaky test is the first in suite order, and the longest.
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
def test_a_flaky_test_runs_alone_after_all_others(project: Project, mode: Mode) -> None:
    """It does so in several runs, although it passes, and whichever run recorded it as flaky."""
    project.tests(TESTS.format(condition="times('flaky') == 1"))
    found = run(project, *mode, "--retries", "1").passed()
    assert found.tests.count(FLAKY) == 2
    # Without the option, it starts early as the longest test.
    found = run(project, *PARALLEL, env=TOGETHER).passed()
    assert sorted(found.tests) == sorted(SUITE)
    assert found.tests.index(FLAKY) < 3
    assert found.met[FLAKY]
    for _ in range(2):
        found = run(project, *PARALLEL, "--quarantine-flaky", env=TOGETHER).passed()
        assert sorted(found.tests) == sorted(SUITE)
        assert found.tests[-1] == FLAKY
        assert not found.met[FLAKY]
        # The rest of its class keeps its place.
        assert found.tests.index("Flaky.test_beside") < 3
    # In a serial run it is alone anyway, and keeps its place.
    assert run(project, "--quarantine-flaky").passed().tests == SUITE


def test_a_test_that_always_fails_is_not_flaky(project: Project) -> None:
    """A flaky test both failed and passed with the same code."""
    project.tests(TESTS.format(condition=True))
    run(project, *PARALLEL, "--retries", "1").failed()
    found = run(project, *PARALLEL, "--quarantine-flaky", env=TOGETHER).failed()
    assert found.tests.index(FLAKY) < 3
