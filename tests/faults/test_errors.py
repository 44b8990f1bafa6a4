"""Errors, parameters and reasons that cannot be pickled, or not be read again by the run."""

import pytest

from ..observed import OTHER, RECORDING, Reported, run
from ..project import Project

pytestmark = pytest.mark.versions

UNPICKLABLE = """
    class LockedError(Exception):
        def __init__(self, message):
            super().__init__(message, threading.Lock())


    class ReducingError(Exception):
        def __reduce__(self):
            raise RuntimeError("not to be reduced")


    class UnreducingError(Exception):
        def __reduce__(self):
            return int, ("no number",)


    class DemandingError(Exception):
        def __init__(self, first, second):
            super().__init__("of two")


    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("not to be shown")


    class Parameter:
        pass


    def make_known(kind):
        '''Give a class a name that is found in this process alone.'''
        name = f"Known{os.getpid()}"
        globals()[name] = type(name, (kind,), {"__module__": __name__})
        return globals()[name]


    class Errors(Recording, TestCase):
        def test_local_class(self):
            class LocalError(Exception):
                pass

            raise LocalError("from a local class")

        def test_lock(self):
            raise LockedError("with a lock")

        def test_reduce(self):
            raise ReducingError("from a reduce")

        def test_unreduce(self):
            raise UnreducingError("from an unreduce")

        def test_two_arguments(self):
            raise DemandingError(1, 2)

        def test_mute(self):
            raise MuteError("silent")

        def test_cause(self):
            try:
                raise LockedError("the cause")
            except LockedError as error:
                raise ValueError("the effect") from error

        def test_group(self):
            raise ExceptionGroup("a group", [LockedError("in a group"), ValueError("beside it")])

        def test_failure(self):
            error = AssertionError("a failure with a lock", threading.Lock())
            raise error

        def test_passes(self):
            pass
"""
TOLD = {
    "local_class": "from a local class",
    "lock": "with a lock",
    "reduce": "from a reduce",
    "unreduce": "from an unreduce",
    "two_arguments": "of two",
    "mute": "MuteError",
    "cause": "the effect",
    "group": "beside it",
    "failure": "a failure with a lock",
}


def hide_tblib(project: Project) -> None:
    project.write("tblib.py", "raise ImportError('hidden from this project')\n")


def run_beside_another(project: Project, text: str, method: str = "fork") -> Reported:
    """Run tests that fail, beside a class that passes."""
    project.tests(RECORDING + UNPICKLABLE + text + OTHER)
    reported = run(project, env={"START_METHOD": method})
    assert reported.result.code == 1
    assert reported.outcomes["test_generated.Other.test_it"] == "passed"
    return reported


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("has_tblib", [True, False], ids=["tblib", "plain"])
def test_errors_that_cannot_be_pickled(observed: Project, method: str, has_tblib: bool) -> None:
    """Each is told with its text, as an error or a failure, and no worker dies of it."""
    if not has_tblib:
        hide_tblib(observed)
    reported = run_beside_another(observed, "", method)
    outcomes = reported.outcomes
    for name, told in TOLD.items():
        test = f"test_generated.Errors.test_{name}"
        assert outcomes[test] == ("failed" if name == "failure" else "error")
        assert told in reported.text(test)
        # The line of the test itself.
        assert f"in test_{name}\n" in reported.result.stderr
    assert outcomes["test_generated.Errors.test_passes"] == "passed"
    assert "the cause" in reported.text("test_generated.Errors.test_cause")
    assert "in a group" in reported.text("test_generated.Errors.test_group")
    assert reported.fixtures == {}
    assert "FAILED (failures=1, errors=8)" in reported.result.stderr


def test_without_tblib_tracebacks_are_whole(observed: Project) -> None:
    """An ordinary error and a failure are shown with the lines that raised them."""
    hide_tblib(observed)
    observed.tests(
        RECORDING
        + """
    class Failing(Recording, TestCase):
        def test_error(self):
            1 / 0

        def test_failure(self):
            self.assertEqual(1, 2, "as planned")
    """
        + OTHER
    )
    reported = run(observed)
    assert reported.result.code == 1
    assert reported.outcomes == {
        "test_generated.Failing.test_error": "error",
        "test_generated.Failing.test_failure": "failed",
        "test_generated.Other.test_it": "passed",
    }
    assert "1 / 0" in reported.result.stderr
    assert "ZeroDivisionError: division by zero" in reported.result.stderr
    assert "1 != 2 : as planned" in reported.result.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_subtests_with_parameters_that_cannot_be_pickled(observed: Project, method: str) -> None:
    """Each failing one is told with its parameters as text; those that pass are not."""
    reported = run_beside_another(
        observed,
        """

    class Subtests(Recording, TestCase):
        def test_locks(self):
            for number in range(3):
                with self.subTest("a message", lock=threading.Lock(), number=number):
                    self.assertNotEqual(number, 1)

        def test_errors(self):
            with self.subTest(function=lambda: None):
                raise LockedError("in a subtest")
            with self.subTest(number=7):
                raise LockedError("in a second one")

        def test_pass(self):
            with self.subTest(lock=threading.Lock()):
                pass
    """,
        method,
    )
    outcomes = reported.outcomes
    (call,) = (c for c in reported.calls["test_generated.Subtests.test_locks"] if c.subtest)
    assert "[a message]" in call.subtest
    assert "<unlocked _thread.lock" in call.subtest
    assert "number=1" in call.subtest
    assert outcomes["test_generated.Subtests.test_locks"] == "failed"
    calls = [c for c in reported.calls["test_generated.Subtests.test_errors"] if c.subtest]
    assert ["in a subtest" in call.text for call in calls] == [True, False]
    assert "number=7" in calls[1].subtest
    assert outcomes["test_generated.Subtests.test_errors"] == "error"
    assert outcomes["test_generated.Subtests.test_pass"] == "passed"


def test_what_only_the_worker_can_read_is_told_as_text(observed: Project) -> None:
    """As an exception, or a parameter, of a class that a test has made."""
    reported = run_beside_another(
        observed,
        """

    class OfThisProcess(Recording, TestCase):
        def test_error(self):
            raise make_known(Exception)("an error known here alone")

        def test_failure(self):
            raise make_known(AssertionError)("a failure known here alone")

        def test_parameter(self):
            with self.subTest(known=make_known(Parameter)()):
                self.fail("with a parameter known here alone")

        def test_passes(self):
            pass
    """,
    )
    outcomes = reported.outcomes
    for name, outcome, told in (
        ("error", "error", "an error known here alone"),
        ("failure", "failed", "a failure known here alone"),
        ("parameter", "failed", "with a parameter known here alone"),
        ("passes", "passed", ""),
    ):
        test = f"test_generated.OfThisProcess.test_{name}"
        assert outcomes[test] == outcome
        assert told in reported.text(test)


def test_a_parameter_that_cannot_be_shown_is_an_error_of_its_test(observed: Project) -> None:
    """No other test is harmed by it."""
    reported = run_beside_another(
        observed,
        """

    class MuteParameter:
        def __repr__(self):
            raise RuntimeError("not to be shown")


    class Mute(Recording, TestCase):
        def test_1_before(self):
            pass

        def test_2_mute(self):
            with self.subTest(mute=MuteParameter(), lock=threading.Lock()):
                self.fail("with a mute parameter")

        def test_3_after(self):
            pass
    """,
    )
    mute = [outcome for test, outcome in reported.outcomes.items() if ".Mute." in test]
    assert mute[0] == mute[2] == "passed"
    assert mute[1] in {"failed", "error", "crashed"}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_expected_failures_and_reasons(observed: Project, method: str) -> None:
    """Neither fails a run, whatever the error or the reason of a skip is made of."""
    observed.tests(
        RECORDING
        + UNPICKLABLE.partition("    class Errors")[0]
        + """
    from django.utils.functional import lazy
    from django.utils.translation import gettext_lazy


    class LocalReason(str):
        def __reduce__(self):
            raise RuntimeError("not to be reduced")


    class Skipped(Recording, TestCase):
        @unittest.expectedFailure
        def test_expected(self):
            raise LockedError("as expected")

        @unittest.expectedFailure
        def test_expected_subtest(self):
            with self.subTest(lock=threading.Lock()):
                raise LockedError("as expected")

        def test_translated(self):
            self.skipTest(gettext_lazy("a lazy reason"))

        def test_lazy(self):
            self.skipTest(lazy(lambda: "a lazier reason", str)())

        def test_reducing(self):
            self.skipTest(LocalReason("a local reason"))

        def test_of_this_process(self):
            self.skipTest(make_known(str)("a reason known here alone"))

        def test_subtest(self):
            with self.subTest(lock=threading.Lock()):
                self.skipTest(gettext_lazy("a part of it"))


    class SkippedAltogether(TestCase):
        @classmethod
        def setUpClass(cls):
            raise unittest.SkipTest(gettext_lazy("all of it"))

        def test_it(self):
            pass


    @unittest.skip(gettext_lazy("a class"))
    class SkippedClass(TestCase):
        def test_it(self):
            pass
    """
        + OTHER
    )
    reported = run(observed, env={"START_METHOD": method})
    assert reported.result.code == 0, reported.result.output
    outcomes = reported.outcomes
    assert set(outcomes.values()) == {"expected failure", "skipped", "passed"}
    reasons = {
        "test_translated": "a lazy reason",
        "test_lazy": "a lazier reason",
        "test_reducing": "a local reason",
        "test_of_this_process": "a reason known here alone",
        "test_subtest": "a part of it",
    }
    for name, reason in reasons.items():
        test = f"test_generated.Skipped.{name}"
        assert outcomes[test] == "skipped"
        assert reason in reported.text(test)
    ((name, (call,)),) = reported.fixtures.items()
    assert name == "setUpClass (test_generated.SkippedAltogether)"
    assert call.text == "all of it"
    for name in ("test_expected", "test_expected_subtest"):
        assert outcomes[f"test_generated.Skipped.{name}"] == "expected failure"


def test_fixtures_that_raise_what_cannot_be_pickled(observed: Project) -> None:
    """Each is told once with its text, and the tests of other classes run."""
    reported = run_beside_another(
        observed,
        """

    class NoSetUp(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            raise LockedError("in setUpClass")

        def test_it(self):
            pass


    class NoTearDown(Recording, TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            raise make_known(Exception)("in tearDownClass")

        def test_it(self):
            pass


    class NoCleanUp(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.addClassCleanup(cls.fail_to_clean_up)

        @classmethod
        def fail_to_clean_up(cls):
            raise UnreducingError("in a class's clean-up")

        def test_it(self):
            pass
    """,
    )
    told = {
        "setUpClass (test_generated.NoSetUp)": "in setUpClass",
        "tearDownClass (test_generated.NoTearDown)": "in tearDownClass",
        "tearDownClass (test_generated.NoCleanUp)": "in a class's clean-up",
    }
    assert reported.fixtures.keys() == told.keys()
    for name, text in told.items():
        (call,) = reported.fixtures[name]
        assert text in call.text
    assert "test_generated.NoSetUp.test_it" not in reported.tests
    assert reported.outcomes["test_generated.NoTearDown.test_it"] == "passed"
    assert reported.outcomes["test_generated.NoCleanUp.test_it"] == "passed"
