"""Events: what an observer of a run is told of each test."""

import json
from typing import Any

import pytest

from ..project import Project

# The arguments of a run, and how it starts its workers.
STARTS = [((), "fork"), (("--parallel", "2"), "fork"), (("--parallel", "2"), "spawn")]
IDS = ["serial", "fork", "spawn"]

RUNNER = """
    import json
    import os

    from schema_runner import Finished, SchemaDiscoverRunner, Started


    class Runner(SchemaDiscoverRunner):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(self.write)
            self.observers.append(self.count)
            self.counted = 0

        def write(self, event):
            line = {"kind": type(event).__name__, "process": os.getpid(),
                    **event._asdict()}
            name = "events" if isinstance(event, Started | Finished) else "more_events"
            with open(name, "a") as lines:
                lines.write(json.dumps(line) + "\\n")

        def count(self, event):
            self.counted += isinstance(event, Started | Finished)

        def suite_result(self, suite, result, **kwargs):
            print(f"counted {self.counted} in {os.getpid()}")
            return super().suite_result(suite, result, **kwargs)
"""
TESTS = """
    import os
    import time
    import unittest
    from pathlib import Path

    import schema_runner


    class Outcomes(TestCase):
        def tearDown(self):
            number = schema_runner.current_worker().number
            Path(self.id()).write_text(f"{number} {time.time()}")

        def test_passed(self):
            time.sleep(0.2)

        def test_failed(self):
            self.fail("as planned")

        def test_error(self):
            raise KeyError("as planned")

        def test_skipped(self):
            self.skipTest("today")

        @unittest.skip("always")
        def test_skipped_by_a_decorator(self):
            pass

        @unittest.expectedFailure
        def test_expected_failure(self):
            self.fail("as planned")

        @unittest.expectedFailure
        def test_unexpected_success(self):
            pass

        def test_failed_in_a_subtest(self):
            for number in range(3):
                with self.subTest(number=number):
                    self.assertNotEqual(number, 1)

        def test_error_in_a_subtest(self):
            for number in range(3):
                with self.subTest(number=number):
                    1 / number

        @schema_runner.timeout(0.5)
        def test_timed_out(self):
            time.sleep(60)


    class Passing(TransactionTestCase):
        def test_passed(self):
            pass


    class Alike(Passing):
        pass


    class NoSetUp(TestCase):
        @classmethod
        def setUpClass(cls):
            raise ValueError("class set-up")

        def test_never(self):
            pass
"""
OUTCOMES = {
    "Outcomes.test_passed": "passed",
    "Outcomes.test_failed": "failed",
    "Outcomes.test_error": "error",
    "Outcomes.test_skipped": "skipped",
    "Outcomes.test_skipped_by_a_decorator": "skipped",
    "Outcomes.test_expected_failure": "expected failure",
    "Outcomes.test_unexpected_success": "unexpected success",
    "Outcomes.test_failed_in_a_subtest": "failed",
    "Outcomes.test_error_in_a_subtest": "error",
    "Outcomes.test_timed_out": "timed out",
    "Passing.test_passed": "passed",
    "Alike.test_passed": "passed",
}


def events(project: Project) -> dict[str, list[dict[str, Any]]]:
    """Return the events of each test, in the order in which they came."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (project.folder / "events").read_text().splitlines():
        event = json.loads(line)
        found.setdefault(event["test_id"], []).append(event)
    return found


@pytest.fixture
def observed(project: Project) -> Project:
    project.write("runner.py", RUNNER)
    project.configure('TEST_RUNNER = "runner.Runner"')
    return project


@pytest.mark.parametrize(("mode", "method"), STARTS, ids=IDS)
def test_each_test_begins_and_ends_once(
    observed: Project, mode: tuple[str, ...], method: str
) -> None:
    """With its id, its worker, its outcome and times, told in the process of the run."""
    observed.tests(TESTS)
    result = observed.run(*mode, env={"START_METHOD": method})
    assert result.code == 1
    told = events(observed)
    prefix = "library.test_generated."
    assert {test.removeprefix(prefix) for test in told} == set(OUTCOMES)
    for test, both in told.items():
        started, finished = both
        assert (started["kind"], finished["kind"]) == ("Started", "Finished")
        assert finished["outcome"] == OUTCOMES[test.removeprefix(prefix)]
        assert started["attempt"] == finished["attempt"] == 1
        assert started["worker"] == finished["worker"] in {1, 2}
        assert finished["duration"] >= 0
        if (path := observed.folder / test).exists():
            number, ended = path.read_text().split()
            assert started["worker"] == int(number)
            assert started["time"] <= float(ended)
    assert told[f"{prefix}Outcomes.test_passed"][1]["duration"] >= 0.2
    (process,) = {event["process"] for both in told.values() for event in both}
    assert f"counted {2 * len(OUTCOMES)} in {process}" in result.stdout


def test_a_test_that_its_worker_dies_with_is_finished_too(observed: Project) -> None:
    """It has crashed, or timed out where it was ended because of its limit."""
    observed.tests(
        """
        import collections
        import itertools
        import os

        import schema_runner


        class Killing(TestCase):
            def test_a_crashed(self):
                os._exit(3)

            @schema_runner.timeout(0.5)
            def test_b_timed_out(self):
                collections.deque(itertools.repeat(0), maxlen=0)

            def test_c_passed(self):
                pass


        class Beside(TestCase):
            def test_d_passed(self):
                pass
        """
    )
    assert observed.run("--parallel", "2").code == 1
    told = events(observed)
    assert len(told) == 4
    for test, both in told.items():
        assert [event["kind"] for event in both] == ["Started", "Finished"]
        outcome = both[1]["outcome"].replace(" ", "_")
        assert test.endswith(outcome)
        assert both[0]["worker"] == both[1]["worker"]


@pytest.mark.parametrize(("mode", "method"), STARTS, ids=IDS)
def test_classes_fixtures_and_workers_are_told_too(
    observed: Project, mode: tuple[str, ...], method: str
) -> None:
    """What a class costs with its fixtures; what could not be run; how long a set-up takes."""
    observed.tests(
        """
        import time


        class Costly(TransactionTestCase):
            @classmethod
            def setUpClass(cls):
                time.sleep(0.2)
                super().setUpClass()

            def test_a(self):
                Author.objects.create(name="committed")
                time.sleep(0.1)
                sum(range(1_000_000))

            def test_b(self):
                Costly.changed = True


        class Broken(TestCase):
            @classmethod
            def setUpClass(cls):
                raise ValueError

            def test_it(self):
                pass
        """
    )
    assert observed.run(*mode, env={"START_METHOD": method}).code == 1
    lines = (observed.folder / "more_events").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    kinds = [event["kind"] for event in told]
    assert sorted(kinds) == ["ClassFinished"] * 2 + ["FixtureFailed"] + ["WorkerReady"] * (
        2 if mode else 0
    )
    costs = {event["test_class"]: event for event in told if event["kind"] == "ClassFinished"}
    cost = costs["library.test_generated.Costly"]
    assert 0.2 <= cost["overhead"] < cost["duration"]
    assert cost["duration"] >= 0.3
    assert 0 < cost["processor_time"] < cost["duration"]
    assert cost["resets"] == 2
    assert 0 < cost["reset_time"] < cost["duration"]
    assert cost["keeps_state"] is (True if mode else None)
    assert costs["library.test_generated.Broken"]["resets"] == 0
    (failed,) = (event for event in told if event["kind"] == "FixtureFailed")
    assert failed["name"] == "setUpClass (library.test_generated.Broken)"
    assert failed["test_ids"] == ["library.test_generated.Broken.test_it"]
    for event in told:
        if event["kind"] == "WorkerReady":
            assert event["duration"] > 0
            assert not event["is_replacement"]


def test_suites_within_a_suite(observed: Project) -> None:
    """A runner of the project's may build one; each test of it is told."""
    observed.write(
        "runner.py",
        RUNNER
        + """
        def build_suite(self, *args, **kwargs):
            import unittest

            return unittest.TestSuite([unittest.TestSuite(super().build_suite(*args, **kwargs))])
""",
    )
    observed.tests(
        "class A(TestCase):\n    def test_it(self):\n        pass\n\n\nclass B(A):\n    pass\n"
    )
    observed.run().passed()
    assert len(events(observed)) == 2


def test_an_observer_that_raises_does_not_leave_anything(observed: Project) -> None:
    """Its error ends the run, as one in a result of the project's own would."""
    observed.write(
        "runner.py",
        RUNNER.replace(
            "self.counted += isinstance(event, Started | Finished)", "raise ValueError('observer')"
        ),
    )
    observed.tests(TESTS)
    for mode in ([], ["--parallel", "2"]):
        result = observed.run(*mode)
        assert result.code == 1
        assert "ValueError: observer" in result.stderr
        assert observed.databases() == []
