"""Runners with their own result or suite classes."""

from xml.etree import ElementTree

import pytest
from django.test.runner import DiscoverRunner

from schema_runner import SchemaDiscoverRunner, SchemaRunnerMixin

from ..project import PARALLEL, Mode, Project, each_mode, outcome

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
                   is_ours="schema_runner" in str(type(result).__mro__))
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
def test_a_runner_with_its_own_result_class(project: Project, mode: Mode) -> None:
    """The runner writes its reports, timeouts apply, and observers receive all events."""
    project.write("runners.py", RUNNERS)
    project.configure('TEST_RUNNER = "runners.Runner"\nTEST_OUTPUT_DIR = "reports"')
    project.tests(TESTS)
    project.run(*mode).failed("FAILED (failures=2, skipped=1)", "Timed out after 0.5 s.")
    finished = project.records("finished")
    assert {line["test"]: line["outcome"] for line in finished} == OUTCOMES
    assert len(finished) == len(OUTCOMES)
    # The runner's own result class is used.
    (result,) = project.records("result")
    assert (result["name"], result["is_ours"]) == ("_XMLTestResult", False)
    found = [
        case
        for report in (project.folder / "reports").glob("*.xml")
        for case in ElementTree.parse(report).iter("testcase")
    ]
    # The duration is that of the test.
    (slow,) = [case for case in found if case.get("name") == "test_timed_out"]
    assert float(slow.get("time", "0")) > 0.4
    cases = [
        (
            case.get("classname", "").rpartition(".")[2],
            case.get("name"),
            *(one.tag for one in case),
        )
        for case in found
    ]
    assert sorted(cases) == [
        ("Beside", "test_passed"),
        ("Outcomes", "test_failed", "failure"),
        ("Outcomes", "test_in_subtests"),
        ("Outcomes", "test_passed"),
        ("Outcomes", "test_skipped", "skipped"),
        ("Outcomes", "test_timed_out", "failure"),
    ]


OTHERS = """
    import traceback
    import unittest
    from django.test.runner import DiscoverRunner
    from helpers import record
    from schema_runner import Finished, SchemaRunnerMixin

    def tell(method, test, text=""): record("told", method=method, test=test.id(), text=text)
    def text_of(err): return "".join(traceback.format_exception(*err))

    # A wrapper around another result, as in nose and testtools.
    class Wrapper:
        __slots__ = ("inner", "__weakref__")
        def __init__(self, inner): object.__setattr__(self, "inner", inner)
        def __getattr__(self, name): return getattr(self.inner, name)
        def __setattr__(self, name, value): setattr(self.inner, name, value)
        def addError(self, test, err):
            tell("addError", test, text_of(err))
            self.inner.addError(test, err)
            # Not a text, as in green.
            self.inner.errors[-1] = (test, err[1])
        def addFailure(self, test, err):
            tell("addFailure", test, text_of(err))
            self.inner.addFailure(test, err)
        def addSuccess(self, test):
            tell("addSuccess", test)
            self.inner.addSuccess(test)
    class WrappingTestRunner(unittest.TextTestRunner):
        def _makeResult(self): return Wrapper(super()._makeResult())
    # Like that of django-slowtests.
    class Suite(unittest.TestSuite):
        def run(self, result, debug=False):
            for test in self:
                if isinstance(test, unittest.TestSuite):
                    test(result)
                    continue
                self._tearDownPreviousClass(test, result)
                self._handleModuleFixture(test, result)
                self._handleClassSetUp(test, result)
                result._previousTestClass = type(test)
                if getattr(type(test), "_classSetupFailed", False): continue
                test(result)
                record("of suite", test=test.id())
            self._tearDownPreviousClass(None, result)
            return result
    class Whole(DiscoverRunner):
        test_suite = Suite
        def run_suite(self, suite, **kwargs): return WrappingTestRunner(verbosity=0).run(suite)

    # Like that of VS Code: each call is sent at once.
    class SendingResult(unittest.TextTestResult):
        def addSuccess(self, test):
            super().addSuccess(test)
            tell("addSuccess", test)
        def addError(self, test, err):
            super().addError(test, err)
            tell("addError", test, text_of(err))
        def addFailure(self, test, err):
            super().addFailure(test, err)
            tell("addFailure", test, text_of(err))
        def addSubTest(self, test, subtest, err):
            super().addSubTest(test, subtest, err)
            tell("addSubTest", subtest, text_of(err) if err else "")
    class Sending(DiscoverRunner):
        def get_test_runner_kwargs(self):
            return {**super().get_test_runner_kwargs(), "resultclass": SendingResult}

    class Observed(SchemaRunnerMixin):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.observers.append(self.note)
        def note(self, event):
            if isinstance(event, Finished): record("finished", test=event.test_id)
    class OfWhole(Observed, Whole): pass
    class OfSending(Observed, Sending): pass
"""
OTHER_TESTS = """
    class Outcomes(TestCase):
        def test_passed(self):
            Author.objects.create(name="a")
            record("schema")
        def test_failed(self): self.fail("as planned")
        def test_error(self): 1 / 0
        def test_local(self):
            class LocalError(Exception): pass
            raise LocalError("local")
    class Beside(TestCase):
        def test_passed(self):
            with self.subTest(number=1): pass
    class Unset(TestCase):
        @classmethod
        def setUpClass(cls): raise ValueError("no set-up")
        def test_it(self): pass
"""
CALLS = {
    "Outcomes.test_passed": ("addSuccess", ""),
    "Outcomes.test_failed": ("addFailure", "AssertionError: as planned"),
    "Outcomes.test_error": ("addError", "ZeroDivisionError: division by zero"),
    "Outcomes.test_local": ("addError", "LocalError: local"),
    "Beside.test_passed": ("addSuccess", ""),
    "setUpClass (Unset)": ("addError", "ValueError: no set-up"),
}


@each_mode
@pytest.mark.parametrize("runner", ["Whole", "Sending"])
def test_third_party_results(project: Project, mode: Mode, runner: str) -> None:
    """Result classes receive all calls, and suite classes run the tests, also in workers."""
    project.write("runners.py", OTHERS)
    project.tests(OTHER_TESTS)
    result = project.run(*mode, "--testrunner", f"runners.Of{runner}")
    assert result.failed("FAILED (failures=1, errors=3)").stderr.count("schema_runner") == 0
    assert "schemas created" in result.stdout or "schema created" in result.stdout
    subtests = [one["text"] for one in project.records("told") if one["method"] == "addSubTest"]
    assert subtests == ([""] if runner == "Sending" else [])
    told = [
        (one["test"].replace("library.test_generated.", ""), one["method"], one["text"])
        for one in project.records("told")
        if one["method"] != "addSubTest"
    ]
    assert sorted(name for name, *_ in told) == sorted(CALLS)
    for name, method, text in told:
        assert (method, text.rstrip().endswith(CALLS[name][1])) == (CALLS[name][0], True)
    tests = sorted(f"library.test_generated.{name}" for name in CALLS if "(" not in name)
    assert sorted(one["test"] for one in project.records("finished")) == tests
    if runner == "Whole":
        assert sorted(one["test"] for one in project.records("of suite")) == tests
    (line,) = project.records("schema")
    assert line["schema"].startswith("test_w")


class Other(DiscoverRunner): ...


@pytest.mark.parametrize("ours", [SchemaRunnerMixin, SchemaDiscoverRunner])
def test_the_mixin_must_come_first(ours: type) -> None:
    """Behind another runner, the methods of the mixin would not be called."""
    with pytest.raises(TypeError, match="SchemaRunnerMixin, Other"):
        type("Wrong", (Other, ours), {})
    order = type("Right", (ours, Other), {}).mro()
    assert order.index(ours) < order.index(Other)


def test_a_runner_that_runs_the_suite_itself(project: Project) -> None:
    """Workers have the settings and observers of a runner whose `run_suite` replaces ours."""
    project.write(
        "runners.py",
        """
        from helpers import record
        from schema_runner import SchemaDiscoverRunner

        class Runner(SchemaDiscoverRunner):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.observers.append(lambda event: record(type(event).__name__))
            def run_suite(self, suite, **kwargs):
                return self.test_runner(**self.get_test_runner_kwargs()).run(suite)
        """,
    )
    project.configure('TEST_RUNNER = "runners.Runner"\nSCHEMA_RUNNER = {"RETRIES": 1}')
    project.tests(
        """
        class Flaky(TestCase):
            def test_it(self): self.assertGreater(times("once"), 1)
        class Passing(TestCase):
            def test_it(self): pass
        """
    )
    project.run(*PARALLEL).passed()
    assert len(project.records("Finished")) == 3


STEPS = """
    import django
    from django.conf import settings
    from django.test.utils import get_runner

    if __name__ == "__main__":
        django.setup()
        runner = get_runner(settings)(parallel=2, timing=True)
        runner.setup_test_environment()
        suite = runner.build_suite(["library"])
        databases = runner.setup_databases(aliases=["default"])
        result = runner.run_suite(suite)
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
        raise SystemExit(runner.suite_result(suite, result))
"""


def test_a_script_that_calls_each_step(project: Project) -> None:
    """It need not set the aliases of the suite, nor measure the time of the set-up."""
    project.write("steps.py", STEPS)
    project.tests(TESTS)
    run = project.shell("python steps.py", DJANGO_SETTINGS_MODULE="settings")
    assert "Ran 6 tests" in outcome(run).stderr
