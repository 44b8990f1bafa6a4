"""Runners of tests that choose a class of results by themselves."""

from xml.etree import ElementTree

from ..project import Mode, Project, each_mode

RUNNERS = """
    from xmlrunner.extra.djangotestrunner import XMLTestRunner
    from helpers import record
    from schema_runner import Finished, SchemaRunnerMixin

    class Runner(SchemaRunnerMixin, XMLTestRunner):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(self.note)
        def note(self, event):
            if isinstance(event, Finished):
                record("finished", test=event.test_id.split(".", 2)[2], outcome=event.outcome)
        def suite_result(self, suite, result, **kwargs):
            record("result", name=type(result).__qualname__,
                   is_ours="LimitedMixin" in str(type(result).__mro__))
            return super().suite_result(suite, result, **kwargs)
"""
TESTS = """
    class Outcomes(TestCase):
        def test_passed(self): Author.objects.create(name="a")
        def test_failed(self): self.fail("as planned")
        def test_in_subtests(self):
            for number in range(3):
                with self.subTest(number=number): self.assertLess(number, 3)
        @unittest.skip("not now")
        def test_skipped(self): pass
        @schema_runner.timeout(0.5)
        def test_timed_out(self): time.sleep(60)
    class Beside(TestCase):
        def test_passed(self): pass
"""
OUTCOMES = {
    "Outcomes.test_passed": "passed",
    "Outcomes.test_failed": "failed",
    "Outcomes.test_in_subtests": "passed",
    "Outcomes.test_skipped": "skipped",
    "Outcomes.test_timed_out": "timed out",
    "Beside.test_passed": "passed",
}


@each_mode
def test_a_runner_that_chooses_its_own(project: Project, mode: Mode) -> None:
    """It writes its reports, time limits hold, and observers are told of each test."""
    project.write("runners.py", RUNNERS)
    project.configure('TEST_RUNNER = "runners.Runner"\nTEST_OUTPUT_DIR = "reports"')
    project.tests(TESTS)
    project.run(*mode).failed("FAILED (failures=2, skipped=1)", "It took longer than 0.5 s.")
    finished = project.records("finished")
    assert {line["test"]: line["outcome"] for line in finished} == OUTCOMES
    assert len(finished) == len(OUTCOMES)
    # The result is its own again when the tests are over.
    (result,) = project.records("result")
    assert (result["name"], result["is_ours"]) == ("_XMLTestResult", False)
    cases = [
        (
            case.get("classname", "").rpartition(".")[2],
            case.get("name"),
            *(one.tag for one in case),
        )
        for report in (project.folder / "reports").glob("*.xml")
        for case in ElementTree.parse(report).iter("testcase")
    ]
    assert sorted(cases) == [
        ("Beside", "test_passed"),
        ("Outcomes", "test_failed", "failure"),
        ("Outcomes", "test_in_subtests"),
        ("Outcomes", "test_passed"),
        ("Outcomes", "test_skipped", "skipped"),
        ("Outcomes", "test_timed_out", "failure"),
    ]
