"""The events that observers receive."""

from typing import Any

import pytest

from ..project import PARALLEL, Mode, Project, each_mode, fork_and_spawn

RUNNER = """
    import os
    import unittest

    from helpers.observed import ObservedRunner
    from schema_runner import Finished, SchemaDiscoverRunner, Started

    class Runner(ObservedRunner):
        get_resultclass = SchemaDiscoverRunner.get_resultclass
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(self.count)
            self.counted = 0
        def count(self, event):
            if "RAISES" in os.environ: raise ValueError("observer")
            self.counted += isinstance(event, Started | Finished)
        def build_suite(self, *args, **kwargs):
            suite = super().build_suite(*args, **kwargs)
            if "NESTED" in os.environ:
                return unittest.TestSuite([unittest.TestSuite([suite])])
            return suite

        def suite_result(self, suite, result, **kwargs):
            print(f"counted {self.counted} in {os.getpid()}")
            return super().suite_result(suite, result, **kwargs)
"""
TESTS = """
    class Outcomes(TestCase):
        def tearDown(self): record("ends", test=self.id(), time=time.time())
        def test_passed(self): time.sleep(0.2)
        def test_failed(self): self.fail("as planned")
        def test_error(self): raise KeyError("as planned")
        def test_skipped(self): self.skipTest("today")
        @unittest.skip("always")
        def test_skipped_by_a_decorator(self): pass
        @unittest.expectedFailure
        def test_expected_failure(self): self.fail("as planned")
        @unittest.expectedFailure
        def test_unexpected_success(self): pass
        def test_failed_in_a_subtest(self):
            for number in range(3):
                with self.subTest(number=number): self.assertNotEqual(number, 1)
        def test_error_in_a_subtest(self):
            for number in range(3):
                with self.subTest(number=number): 1 / number
        @schema_runner.timeout(0.5)
        def test_timed_out(self): time.sleep(60)

    class Costly(TransactionTestCase):
        @classmethod
        def setUpClass(cls):
            time.sleep(0.2)
            super().setUpClass()
        def test_a(self):
            Author.objects.create(name="committed")
            time.sleep(0.1)
            sum(range(1_000_000))
        def test_b(self): Costly.changed = True

    class NoSetUp(TestCase):
        @classmethod
        def setUpClass(cls): raise ValueError("class set-up")
        def test_never(self): pass
"""
MODULE = "library.test_generated."
OUTCOMES = {
    **dict.fromkeys(["Outcomes.test_passed", "Costly.test_a", "Costly.test_b"], "passed"),
    **dict.fromkeys(["Outcomes.test_failed", "Outcomes.test_failed_in_a_subtest"], "failed"),
    **dict.fromkeys(["Outcomes.test_error", "Outcomes.test_error_in_a_subtest"], "error"),
    **dict.fromkeys(["Outcomes.test_skipped", "Outcomes.test_skipped_by_a_decorator"], "skipped"),
    "Outcomes.test_expected_failure": "expected failure",
    "Outcomes.test_unexpected_success": "unexpected success",
    "Outcomes.test_timed_out": "timed out",
}


def by_test(project: Project) -> dict[str, list[dict[str, Any]]]:
    """Map each test to its events; check that these are one Started and one Finished."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in project.records():
        if event["what"] in ("Started", "Finished"):
            found.setdefault(event["test_id"], []).append(event)
    for both in found.values():
        assert [event["what"] for event in both] == ["Started", "Finished"]
    return found


@pytest.fixture
def observed(project: Project) -> Project:
    project.write("runner.py", RUNNER)
    project.configure('TEST_RUNNER = "runner.Runner"')
    project.tests(TESTS)
    return project


@fork_and_spawn
def test_observers_receive_all_events(observed: Project, mode: Mode, method: str) -> None:
    """Observers receive events of tests, classes and workers in the main process."""
    result = observed.run(*mode, env={"START_METHOD": method}).failed()
    check_tests(observed)
    check_classes(observed, has_workers=bool(mode))
    kinds = {"Started", "Finished", "ClassFinished", "FixtureFailed", "WorkerReady"}
    (process,) = {one["process"] for one in observed.records() if one["what"] in kinds}
    assert f"counted {2 * len(OUTCOMES)} in {process}" in result.stdout


def check_tests(project: Project) -> None:
    """Check that each test started and finished once, with its worker, outcome and times."""
    found = by_test(project)
    assert set(found) == {MODULE + test for test in OUTCOMES}
    ends = {one["test"]: one for one in project.records("ends")}
    assert len(ends) == 9
    for test, (started, finished) in found.items():
        assert finished["outcome"] == OUTCOMES[test.removeprefix(MODULE)]
        assert started["attempt"] == finished["attempt"] == 1
        assert started["worker"] == finished["worker"] in {1, 2}
        assert finished["duration"] >= 0
        if test in ends:
            assert started["worker"] == ends[test]["worker"]
            assert started["time"] <= ends[test]["time"]
    assert found[f"{MODULE}Outcomes.test_passed"][1]["duration"] >= 0.2


def check_classes(project: Project, *, has_workers: bool) -> None:
    """Check the costs of classes, the failed fixture, and the durations of workers' set-ups."""
    events = project.records("ClassFinished")
    costs = {event["test_class"]: event for event in events}
    assert sorted(costs) == [MODULE + name for name in ("Costly", "NoSetUp", "Outcomes")]
    assert len(events) == len(costs)
    cost = costs[f"{MODULE}Costly"]
    assert 0.2 <= cost["overhead"] < cost["duration"]
    assert cost["duration"] >= 0.3
    assert 0 < cost["processor_time"] < cost["duration"]
    assert cost["resets"] == 2
    assert 0 < cost["reset_time"] < cost["duration"]
    assert cost["keeps_state"] is (True if has_workers else None)
    assert costs[f"{MODULE}NoSetUp"]["resets"] == 0
    (failed,) = project.records("FixtureFailed")
    assert failed["name"] == f"setUpClass ({MODULE}NoSetUp)"
    assert failed["test_ids"] == [f"{MODULE}NoSetUp.test_never"]
    ready = project.records("WorkerReady")
    assert len(ready) == (2 if has_workers else 0)
    for event in ready:
        assert event["duration"] > 0
        assert not event["is_replacement"]


def test_a_test_that_kills_its_worker_has_a_finished_event(observed: Project) -> None:
    """Its outcome is "crashed", or "timed out" if it was ended because of its timeout."""
    tests = """
        import collections
        import itertools

        class Killing(TestCase):
            def test_a_crashed(self): os._exit(3)
            @schema_runner.timeout(0.5)
            def test_b_timed_out(self): collections.deque(itertools.repeat(0), maxlen=0)
            def test_c_passed(self): pass

        class Beside(TestCase):
            def test_d_passed(self): pass
    """
    observed.tests(tests)
    observed.run(*PARALLEL).failed()
    found = by_test(observed)
    assert len(found) == 4
    for test, (started, finished) in found.items():
        assert test.endswith(finished["outcome"].replace(" ", "_"))
        assert started["worker"] == finished["worker"]


def test_nested_suites(observed: Project) -> None:
    """A project's runner may build nested suites, and each test has its events."""
    observed.run(env={"NESTED": "1"})
    assert len(by_test(observed)) == len(OUTCOMES)


@each_mode
def test_errors_around_a_test_are_its_outcome(observed: Project, mode: Mode) -> None:
    """A test case may fail before its test starts, and while it flushes afterwards."""
    tests = """
        class Around(TransactionTestCase):
            calls = 0
            @classmethod
            def _pre_setup(cls):
                super()._pre_setup()
                cls.calls += 1
                if cls.calls == 2: raise ValueError("before")
            def _post_teardown(self):
                super()._post_teardown()
                if "after" in self.id(): raise ValueError("after")
            def test_a_passed(self): pass
            def test_b_before(self): pass
            def test_c_after(self): pass

        class Beside(TestCase):
            def test_passed(self): pass
    """
    observed.tests(tests)
    observed.run(*mode).failed("errors=2")
    outcomes = {test: both[1]["outcome"] for test, both in by_test(observed).items()}
    assert outcomes == {
        f"{MODULE}Around.test_a_passed": "passed",
        f"{MODULE}Around.test_b_before": "error",
        f"{MODULE}Around.test_c_after": "error",
        f"{MODULE}Beside.test_passed": "passed",
    }


@each_mode
def test_an_observer_that_raises_ends_the_run(observed: Project, mode: Mode) -> None:
    """The exception of the observer ends the run, as one in a result class does."""
    observed.run(*mode, env={"RAISES": "1"}).failed("ValueError: observer")
