"""Serial tests run after all others, and alone."""

import pytest

from ..project import PARALLEL, Project
from .recording import TOGETHER, Run, run

TESTS = """
    serial = (lambda test: test) if "UNMARKED" in os.environ else schema_runner.serial

    class Writing(Recording):
        def setUp(self):
            super().setUp()
            Author.objects.create(name="same everywhere")

    class Beside(Writing, TestCase):
        def test_a(self): pass
        def test_b(self): pass
    class BesideToo(Beside): pass

    @serial
    class Alone(Writing, TestCase):
        def test_a(self): time.sleep(0.1)
        def test_b(self): time.sleep(0.1)

    class Mixed(Writing, TransactionTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.ready = True
        def test_a(self): self.assertTrue(self.ready)
        @serial
        def test_b(self):
            self.assertTrue(self.ready)
            self.assertEqual(Author.objects.count(), 1)
            time.sleep(0.1)
        def test_c(self): pass

    class Labelled(Writing, TransactionTestCase):
        def test_a(self): time.sleep(0.1)

    @tag("slow")
    class Tagged(Writing, TestCase):
        def test_a(self): pass

    class PartlyTagged(Writing, TestCase):
        @tag("slow")
        def test_a(self): pass
        def test_b(self): pass
"""
PARALLEL_TESTS = {
    *("Beside.test_a", "Beside.test_b", "BesideToo.test_a", "BesideToo.test_b"),
    *("Mixed.test_a", "Mixed.test_c", "PartlyTagged.test_b"),
}
SERIAL_TESTS = {
    *("Alone.test_a", "Alone.test_b", "Mixed.test_b", "Labelled.test_a"),
    *("Tagged.test_a", "PartlyTagged.test_a"),
}


@pytest.fixture(scope="module")
def mixed(shared_project: Project) -> Project:
    """A project with parallel and serial tests; all are parallel if UNMARKED is set."""
    labels = ["library.test_generated.Labelled", "slow", "library.other"]
    marked = f'[] if "UNMARKED" in __import__("os").environ else {labels}'
    shared_project.configure(f'SCHEMA_RUNNER = {{"SERIAL": {marked}}}')
    shared_project.tests(TESTS)
    return shared_project


def assert_alone(done: Run) -> None:
    """Check that serial tests ran after all others, and concurrently with none."""
    assert len(done.tests) == len(PARALLEL_TESTS | SERIAL_TESTS)
    assert set(done.tests[: len(PARALLEL_TESTS)]) == PARALLEL_TESTS
    assert set(done.tests[len(PARALLEL_TESTS) :]) == SERIAL_TESTS
    assert all(done.met[test] == set() for test in SERIAL_TESTS)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_serial_tests_run_after_all_others_and_alone(mixed: Project, method: str) -> None:
    """Tests are marked, listed or tagged as serial.

    They use the same schemas and the same report.
    """
    done = run(mixed, *PARALLEL, env={"START_METHOD": method, **TOGETHER})
    done.passed(f"Ran {len(PARALLEL_TESTS | SERIAL_TESTS)} tests")
    assert_alone(done)
    assert any(done.met[test] for test in PARALLEL_TESTS)
    assert len({one["schema"] for one in mixed.records("begins")}) == 2
    assert mixed.databases() == []


@pytest.mark.parametrize("flag", ["--reverse", "--shuffle=7"])
def test_the_order_within_each_phase_is_that_of_the_suite(mixed: Project, flag: str) -> None:
    """--reverse and --shuffle affect both phases."""
    parallel = run(mixed, *PARALLEL, flag, env=TOGETHER).passed()
    assert_alone(parallel)
    serial = run(mixed, flag).passed()
    alone = [test for test in serial.tests if test in SERIAL_TESTS]
    assert parallel.tests[len(PARALLEL_TESTS) :] == alone


def test_without_workers_nothing_changes(mixed: Project) -> None:
    """In a serial run, the order is that of the suite."""
    marked = run(mixed).passed().tests
    unmarked = run(mixed, env={"UNMARKED": "1"}).passed().tests
    assert unmarked == marked
    assert set(marked) == PARALLEL_TESTS | SERIAL_TESTS


def test_only_serial_tests(mixed: Project) -> None:
    """They run one after the other, with any number of workers."""
    done = run(mixed, *PARALLEL, "--tag", "slow").passed("Ran 2 tests")
    assert done.tests == ["PartlyTagged.test_a", "Tagged.test_a"]


FAILING = """
    class Beside(Recording, TestCase):
        def test_a(self):
            if os.environ["FAILS"] in ("beside", "both"): self.fail("beside")

    class BesideToo(Recording, TestCase):
        def test_a(self): pass

    @schema_runner.serial
    class Alone(Recording, TestCase):
        def test_a(self):
            if os.environ["FAILS"] == "dies":
                record("ends", case="Alone", test="test_a")
                os._exit(7)
            self.fail("alone")

        def test_b(self): pass

    @schema_runner.serial
    class AloneToo(Recording, TestCase):
        def test_a(self): pass
"""


@pytest.fixture
def failing(project: Project) -> Project:
    """A project whose tests fail depending on FAILS."""
    project.tests(FAILING)
    return project


def test_failures_of_both_phases_are_in_one_report(failing: Project) -> None:
    """Serial tests run although a parallel test failed."""
    said = ("Ran 5 tests", "FAILED (failures=2)", "Error: beside", "Error: alone")
    failing.run(*PARALLEL, env={"FAILS": "both"}).failed(*said)


@pytest.mark.parametrize("phase", ["beside", "alone"])
def test_failfast_ends_the_run_in_either_phase(failing: Project, phase: str) -> None:
    """No test starts after the failed one."""
    done = run(failing, *PARALLEL, "--failfast", env={"FAILS": phase})
    done.failed("FAILED (failures=1)", f"AssertionError: {phase}")
    if phase == "beside":
        assert not {"Alone.test_a", "Alone.test_b", "AloneToo.test_a"} & set(done.tests)
    else:
        assert set(done.tests) == {"Beside.test_a", "BesideToo.test_a", "Alone.test_a"}


def test_a_worker_that_dies_at_a_serial_test_is_replaced(failing: Project) -> None:
    """The rest of the class runs in the new worker, still alone."""
    done = run(failing, *PARALLEL, env={"FAILS": "dies"})
    done.failed("FAILED (errors=1)", "ended with exit code 7")
    assert done.tests[-3:] == ["Alone.test_a", "Alone.test_b", "AloneToo.test_a"]
    assert not any(done.met[test] for test in done.met if test.startswith("Alone"))
