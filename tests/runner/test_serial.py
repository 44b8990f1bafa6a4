"""Serial tests: after all others, and alone."""

import json
from typing import Any

import pytest

from ..project import Project

PARALLEL = ("--parallel", "2")
METHODS = ["fork", "spawn"]

# Each test writes down when it begins and ends, and who is under way meanwhile. Tests that are
# not serial wait until another is, so that there is somebody to meet.
RECORDING = """
    import json
    import os
    import time
    from pathlib import Path

    import schema_runner


    def write(what, test):
        worker = schema_runner.current_worker()
        line = {"what": what, "test": ".".join(test.id().split(".")[-2:]), "worker": worker.number,
                "schema": worker.schema}
        with open("written", "a") as lines:
            lines.write(json.dumps(line) + "\\n")


    class Recording:
        def setUp(self):
            super().setUp()
            write("begins", self)
            self.addCleanup(write, "ends", self)
            Author.objects.create(name="same everywhere")

        def meet(self):
            Path(f"here-{os.getpid()}").touch()
            deadline = time.monotonic() + 60
            while "PARALLEL" in os.environ and len(list(Path().glob("here-*"))) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)


"""
TESTS = """
    class Beside(Recording, TestCase):
        def test_a(self):
            self.meet()

        def test_b(self):
            pass


    class BesideToo(Beside):
        pass


    @schema_runner.serial
    class Alone(Recording, TestCase):
        def test_a(self):
            time.sleep(0.1)

        def test_b(self):
            time.sleep(0.1)


    class Mixed(Recording, TransactionTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.ready = True

        def test_a(self):
            self.assertTrue(self.ready)

        @schema_runner.serial
        def test_b(self):
            self.assertTrue(self.ready)
            self.assertEqual(Author.objects.count(), 1)
            time.sleep(0.1)

        def test_c(self):
            pass


    class Labelled(Recording, TransactionTestCase):
        def test_a(self):
            time.sleep(0.1)


    @tag("slow")
    class Tagged(Recording, TestCase):
        def test_a(self):
            pass


    class PartlyTagged(Recording, TestCase):
        @tag("slow")
        def test_a(self):
            pass

        def test_b(self):
            pass
"""
SETTING = """
    SCHEMA_RUNNER = {"SERIAL": ["library.test_generated.Labelled", "slow", "library.other"]}
"""
BESIDE = {
    *("Beside.test_a", "Beside.test_b", "BesideToo.test_a", "BesideToo.test_b"),
    *("Mixed.test_a", "Mixed.test_c", "PartlyTagged.test_b"),
}
ALONE = {
    *("Alone.test_a", "Alone.test_b", "Mixed.test_b", "Labelled.test_a"),
    *("Tagged.test_a", "PartlyTagged.test_a"),
}


@pytest.fixture
def mixed(project: Project) -> Project:
    """A project with tests of both kinds."""
    project.configure(SETTING)
    project.tests(RECORDING + TESTS)
    return project


def written(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / "written").read_text().splitlines()]


def order(project: Project) -> list[str]:
    """Return the tests in the order in which they began."""
    return [line["test"] for line in written(project) if line["what"] == "begins"]


def met(project: Project) -> dict[str, set[str]]:
    """Map each test to those that were under way in other workers at any time of its own."""
    found: dict[str, set[str]] = {}
    under_way: set[str] = set()
    for line in written(project):
        if line["what"] == "begins":
            found[line["test"]] = set(under_way)
            for other in under_way:
                found[other].add(line["test"])
            under_way.add(line["test"])
        else:
            under_way.remove(line["test"])
    return found


@pytest.mark.parametrize("method", METHODS)
def test_serial_tests_run_after_all_others_and_alone(mixed: Project, method: str) -> None:
    """Marked, labelled or tagged; in the same schemas and in the same report."""
    result = mixed.run(*PARALLEL, env={"START_METHOD": method, "PARALLEL": "1"}).passed()
    assert f"Ran {len(BESIDE | ALONE)} tests" in result.stderr
    begun = order(mixed)
    assert len(begun) == len(BESIDE | ALONE)
    assert set(begun[: len(BESIDE)]) == BESIDE
    assert set(begun[len(BESIDE) :]) == ALONE
    others = met(mixed)
    assert all(others[test] == set() for test in ALONE)
    assert any(others[test] for test in BESIDE)
    assert len({line["schema"] for line in written(mixed)}) == 2
    assert mixed.databases() == []


@pytest.mark.parametrize("flags", [["--reverse"], ["--shuffle", "7"], ["--shuffle", "8"]])
def test_the_order_within_each_phase_is_that_of_the_suite(
    mixed: Project, flags: list[str]
) -> None:
    """Flags that change it change it in both."""
    mixed.run(*PARALLEL, *flags, env={"PARALLEL": "1"}).passed()
    begun, others = order(mixed), met(mixed)
    assert set(begun[: len(BESIDE)]) == BESIDE
    assert all(others[test] == set() for test in ALONE)
    alone = begun[len(BESIDE) :]
    (mixed.folder / "written").unlink()
    mixed.run(*flags).passed()
    assert [test for test in order(mixed) if test in ALONE] == alone


def test_without_workers_nothing_changes(mixed: Project) -> None:
    """Nothing runs beside anything, so tests keep the place they have in the suite."""
    mixed.run().passed()
    marked = order(mixed)
    (mixed.folder / "written").unlink()
    mixed.configure("SCHEMA_RUNNER = {}")
    mixed.tests(RECORDING + TESTS.replace("@schema_runner.serial", ""))
    mixed.run().passed()
    assert order(mixed) == marked
    assert set(marked) == BESIDE | ALONE


def test_only_serial_tests(mixed: Project) -> None:
    """One after the other, whatever number of workers there is."""
    result = mixed.run(*PARALLEL, "--tag", "slow").passed()
    assert "Ran 2 tests" in result.stderr
    assert order(mixed) == ["PartlyTagged.test_a", "Tagged.test_a"]


FAILING = """
    class Beside(Recording, TestCase):
        def test_a(self):
            self.fail("beside")


    class BesideToo(Recording, TestCase):
        def test_a(self):
            pass


    @schema_runner.serial
    class Alone(Recording, TestCase):
        def test_a(self):
            self.fail("alone")

        def test_b(self):
            pass


    @schema_runner.serial
    class AloneToo(Recording, TestCase):
        def test_a(self):
            pass
"""


def test_failures_of_both_phases_are_in_one_report(project: Project) -> None:
    """A parallel test that fails does not keep serial ones from being run."""
    project.tests(RECORDING + FAILING)
    result = project.run(*PARALLEL)
    assert result.code == 1
    assert "Ran 5 tests" in result.stderr
    assert "FAILED (failures=2)" in result.stderr
    assert "AssertionError: beside" in result.stderr
    assert "AssertionError: alone" in result.stderr


@pytest.mark.parametrize("phase", ["beside", "alone"])
def test_failfast_ends_the_run_in_either_phase(project: Project, phase: str) -> None:
    """No test begins after the one that has failed."""
    text = FAILING if phase == "beside" else FAILING.replace('self.fail("beside")', "pass")
    project.tests(RECORDING + text)
    result = project.run(*PARALLEL, "--failfast")
    assert result.code == 1
    assert "FAILED (failures=1)" in result.stderr
    assert f"AssertionError: {phase}" in result.stderr
    begun = order(project)
    if phase == "beside":
        assert not {"Alone.test_a", "Alone.test_b", "AloneToo.test_a"} & set(begun)
    else:
        assert set(begun) == {"Beside.test_a", "BesideToo.test_a", "Alone.test_a"}


def test_a_worker_that_dies_at_a_serial_test_is_replaced(project: Project) -> None:
    """The rest is run in the new one, and still alone."""
    project.tests(
        RECORDING
        + FAILING.replace('self.fail("beside")', "pass").replace(
            'self.fail("alone")', "write('ends', self) or os._exit(7)"
        )
    )
    result = project.run(*PARALLEL)
    assert result.code == 1
    assert "FAILED (errors=1)" in result.stderr
    assert "ended with exit code 7" in result.stderr
    assert order(project)[-3:] == ["Alone.test_a", "Alone.test_b", "AloneToo.test_a"]
    others = met(project)
    assert not any(others[test] for test in others if test.startswith("Alone"))
    assert project.databases() == []
