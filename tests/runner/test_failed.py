"""--last-failed runs tests that failed in earlier runs, --failed-first runs them first."""

from collections import Counter

from ..project import PARALLEL, SERIAL, Mode, Project, each_mode
from .recording import TOGETHER, follows, run, sleeping

BROKEN = {"BROKEN": "1"}

# Each way in which a test can fail while BROKEN is set.
TESTS = """
    IS_BROKEN = "BROKEN" in os.environ

    class Failing(Recording, TestCase):
        def test_error(self):
            if IS_BROKEN: raise KeyError("as planned")
        def test_failure(self): self.assertFalse(IS_BROKEN)
        def test_passing(self): pass
        def test_skipped(self): self.skipTest("today")
        def test_subtest(self):
            for number in range(3):
                with self.subTest(number=number):
                    self.assertFalse(IS_BROKEN and number == 1)
        @schema_runner.timeout(0.5)
        def test_timed_out(self): time.sleep(60 if IS_BROKEN else 0)
        @unittest.expectedFailure
        def test_expected(self): self.fail("as planned")

    class Passing(Recording, TransactionTestCase):
        def test_passing(self): pass

    class Unset(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            assert not IS_BROKEN
        def test_a(self): pass
        def test_b(self): pass

"""
CRASHING = """
    class Crashing(Recording, TestCase):
        def test_a(self):
            if IS_BROKEN: os._exit(7)
        def test_b(self): pass
"""
MODULE = """
    class InModule(Recording, TestCase):
        def test_it(self): pass

    def setUpModule(): assert "BROKEN" not in os.environ
"""
FAILED = {
    *("Failing.test_error", "Failing.test_failure", "Failing.test_subtest"),
    *("Failing.test_timed_out", "Unset.test_a", "Unset.test_b", "InModule.test_it"),
}
OTHERS = {
    *("Failing.test_passing", "Failing.test_skipped", "Failing.test_expected"),
    "Passing.test_passing",
}


@each_mode
def test_failed_tests_run_once_more(project: Project, mode: Mode) -> None:
    """Failures include those of fixtures, modules, timeouts and dead workers."""
    failed, others = FAILED, OTHERS
    # Without workers, a crash would end the run.
    if mode:
        failed, others = failed | {"Crashing.test_a"}, others | {"Crashing.test_b"}
    project.tests(TESTS + (CRASHING if mode else ""))
    project.tests(MODULE, module="test_module")
    run(project, *mode, env=BROKEN).failed()
    # Runs of other tests keep the record, and so does a run that stops before them.
    run(project, *mode, "library.test_generated.Passing").passed()
    run(project, *mode, "--last-failed", "--failfast", env=BROKEN).failed()
    found = run(project, *mode, "--last-failed").passed()
    assert Counter(found.tests) == Counter(failed)
    line = f"Running the last failed tests: {len(failed)} of {len(failed | others)} tests."
    assert found.result.stdout.splitlines().count(line) == 1
    found = run(project, *mode, "--last-failed").passed()
    assert Counter(found.tests) == Counter(failed | others)
    line = "The history has no failed tests. Running all tests."
    assert found.result.stdout.splitlines().count(line) == 1


def test_a_module_that_cannot_be_imported_always_runs(project: Project) -> None:
    """Its tests are unknown, so it always runs."""
    project.tests(sleeping("A B C", 0))
    run(project).passed()
    project.tests("import nothing_there", module="test_broken")
    for mode in (SERIAL, PARALLEL):
        found = run(project, *mode, "--last-failed")
        assert found.failed("No module named 'nothing_there'", "Ran 1 test in").tests == []


# Passing tests come before failing ones in suite order.
FIRST = """
    class A(Recording, TestCase):
        def test_a(self): time.sleep(0.2)

    class B(Recording, TestCase):
        def test_a(self): time.sleep(0.4)

    class C(Recording, TestCase):
        def test_a(self): pass
        def test_b(self): self.assertNotIn("BROKEN", os.environ)

    class D(Recording, TransactionTestCase):
        def test_a(self): time.sleep(0.1)

    class E(Recording, TransactionTestCase):
        def test_a(self): self.assertNotIn("BROKEN", os.environ)
"""


@each_mode
def test_failed_tests_run_first_within_their_kind(project: Project, mode: Mode) -> None:
    """The rest of the class follows, and TransactionTestCases still run later."""
    project.tests(FIRST)
    together = TOGETHER if mode else {}
    run(project, *mode, env=BROKEN).failed()
    # With an explicit order, failed tests keep their place.
    labels = [f"library.test_generated.{name}" for name in "BCAD"]
    found = run(project, *mode, "--failed-first", *labels, env={**BROKEN, **together}).failed()
    expected = ["B", "C", "A", "D"]
    assert follows(found.classes, expected) if mode else found.classes == expected
    assert [name for name in found.tests if name[0] == "C"] == ["C.test_a", "C.test_b"]
    found = run(project, *mode, "--failed-first", env=together).passed()
    assert [name for name in found.tests if name[0] == "C"] == ["C.test_b", "C.test_a"]
    if mode:
        assert follows(found.classes, ["C", "B", "A", "E", "D"])
    else:
        assert found.classes == ["C", "A", "B", "E", "D"]
