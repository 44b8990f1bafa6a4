"""Exceptions, subtest parameters and skip reasons that cannot be pickled or unpickled."""

import pytest

from ..observed import OTHER, Reported, run
from ..project import Project

pytestmark = pytest.mark.versions

# Test name: statement, expected outcome, texts that the report contains.
ERRORS = {
    "lock": ("raise LockedError('with a lock')", "error", "with a lock"),
    "reduce": ("raise ReducingError('from a reduce')", "error", "from a reduce"),
    "unreduce": ("raise UnreducingError('from an unreduce')", "error", "from an unreduce"),
    "two_arguments": ("raise DemandingError(1, 2)", "error", "of two"),
    "mute": ("raise MuteError('silent')", "error", "MuteError"),
    "local_class": ("raise type('LocalError', (Exception,), {})('local')", "error", "local"),
    "cause": (
        "raise ValueError('effect') from LockedError('cause')",
        *("error", "ValueError: effect", "LockedError: ('cause'"),
    ),
    "group": (
        "raise ExceptionGroup('a group', [LockedError('in a group'), ValueError('beside it')])",
        *("error", "LockedError: ('in a group'", "ValueError: beside it"),
    ),
    "failure": ("raise AssertionError('a failure', threading.Lock())", "failed", "a failure"),
    "usual_error": ("1 / 0", "error", "ZeroDivisionError: division by zero"),
    "usual_failure": ("self.assertEqual(1, 2, 'as planned')", "failed", "1 != 2 : as planned"),
    # Instances of classes that exist in the worker only.
    "known": ("raise make_known(Exception)('known here')", "error", "known here"),
    "known_failure": ("raise make_known(AssertionError)('is known')", "failed", "is known"),
    "passes": ("pass", "passed"),
}
METHODS = "\n        ".join(
    f"def test_{name}(self): {does}" for name, (does, *_) in ERRORS.items()
)
SUITE = f"""
    from helpers.unpicklable import *

    class Errors(Recording, TestCase):
        {METHODS}

    class Subtests(Recording, TestCase):
        def test_locks(self):
            for number in range(3):
                with self.subTest("a message", lock=threading.Lock(), number=number):
                    self.assertNotEqual(number, 1)
        def test_errors(self):
            with self.subTest(function=lambda: None): raise LockedError("in a subtest")
            with self.subTest(number=7): raise LockedError("in a second one")
        def test_known(self):
            with self.subTest(known=make_known(Parameter)()): self.fail("with a known parameter")
        def test_pass(self):
            with self.subTest(lock=threading.Lock()): pass

    class NoSetUp(Recording, TestCase):
        @classmethod
        def setUpClass(cls): raise LockedError("in setUpClass")
        def test_it(self): pass

    class NoTearDown(Recording, TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            raise make_known(Exception)("in tearDownClass")
        def test_it(self): pass

    class NoCleanUp(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.addClassCleanup(cls.fail_to_clean_up)
        @classmethod
        def fail_to_clean_up(cls): raise UnreducingError("in a class's clean-up")
        def test_it(self): pass
"""
EXPECTED = {
    **{f"Errors.test_{name}": told for name, (_, *told) in ERRORS.items()},
    "Subtests.test_locks": ("failed", "1 == 1"),
    "Subtests.test_errors": ("error", "in a subtest", "in a second one"),
    "Subtests.test_known": ("failed", "with a known parameter"),
}
for passing in ("Subtests.test_pass", "NoTearDown.test_it", "NoCleanUp.test_it", "Other.test_it"):
    EXPECTED[passing] = ["passed"]
FIXTURES = {
    "setUpClass (NoSetUp)": "in setUpClass",
    "tearDownClass (NoTearDown)": "in tearDownClass",
    "tearDownClass (NoCleanUp)": "in a class's clean-up",
}
SKIPS = """
    from django.utils.functional import lazy
    from django.utils.translation import gettext_lazy

    from helpers.unpicklable import *

    class Skipped(Recording, TestCase):
        @unittest.expectedFailure
        def test_expected(self): raise LockedError("as expected")
        @unittest.expectedFailure
        def test_expected_subtest(self):
            with self.subTest(lock=threading.Lock()): raise LockedError("as expected")
        def test_translated(self): self.skipTest(gettext_lazy("a lazy reason"))
        def test_lazy(self): self.skipTest(lazy(lambda: "a lazier reason", str)())
        def test_reducing(self): self.skipTest(LocalReason("a local reason"))
        def test_known(self): self.skipTest(make_known(str)("a reason known here alone"))
        def test_subtest(self):
            with self.subTest(lock=threading.Lock()): self.skipTest(gettext_lazy("a part of it"))

    class SkippedAltogether(TestCase):
        @classmethod
        def setUpClass(cls): raise unittest.SkipTest(gettext_lazy("all of it"))
        def test_it(self): pass

    @unittest.skip(gettext_lazy("a class"))
    class SkippedClass(TestCase):
        def test_it(self): pass
"""
REASONS = {
    "Skipped.test_translated": "a lazy reason",
    "Skipped.test_lazy": "a lazier reason",
    "Skipped.test_reducing": "a local reason",
    "Skipped.test_known": "a reason known here alone",
    "Skipped.test_subtest": "a part of it",
    "SkippedClass.test_it": "a class",
}


@pytest.fixture(scope="module", params=["fork", "spawn"])
def reported(shared: Project, request: pytest.FixtureRequest) -> Reported:
    return run(shared, SUITE + OTHER, method=request.param)


def test_each_error_is_reported_with_its_text(reported: Reported) -> None:
    """Each is reported as an error or a failure with its text, and no worker dies."""
    assert reported.outcomes == {test: outcome for test, (outcome, *_) in sorted(EXPECTED.items())}
    for test, (_, *texts) in EXPECTED.items():
        for text in texts:
            assert text in reported.text(test)
    assert "FAILED (failures=5, errors=15)" in reported.result.stderr
    assert "WorkerError" not in reported.result.stderr


def test_subtests_are_reported_with_their_parameters(reported: Reported) -> None:
    """Parameters that cannot be pickled are reported as text."""
    (call,) = (call for call in reported.calls["Subtests.test_locks"] if call.subtest)
    assert "[a message]" in call.subtest
    assert "<unlocked _thread.lock" in call.subtest
    assert "number=1" in call.subtest
    calls = [call for call in reported.calls["Subtests.test_errors"] if call.subtest]
    assert ["in a subtest" in call.text for call in calls] == [True, False]
    assert "number=7" in calls[1].subtest


def test_fixtures_are_reported_once(reported: Reported) -> None:
    """Each failed fixture is reported once with its text, and other classes run."""
    assert reported.fixtures.keys() == FIXTURES.keys()
    for name, text in FIXTURES.items():
        (call,) = reported.fixtures[name]
        assert text in call.text


def test_a_parameter_without_a_repr_is_an_error_of_its_test(observed: Project) -> None:
    """A parameter whose repr raises affects its own test only."""
    text = """
    from helpers.unpicklable import MuteParameter

    class Mute(Recording, TestCase):
        def test_1_before(self): pass
        def test_2_mute(self):
            with self.subTest(mute=MuteParameter(), lock=threading.Lock()): self.fail()
        def test_3_after(self): pass
    """
    before, mute, after, other = run(observed, text + OTHER).outcomes.values()
    assert before == after == other == "passed"
    assert mute in {"failed", "error", "crashed"}


def test_expected_failures_and_reasons(observed: Project) -> None:
    """Expected failures and skips do not fail a run, even if their errors cannot be pickled."""
    reported = run(observed, SKIPS + OTHER, code=0)
    expected = ["Skipped.test_expected", "Skipped.test_expected_subtest"]
    assert reported.outcomes == {
        "Other.test_it": "passed",
        **dict.fromkeys(expected, "expected failure"),
        **dict.fromkeys(REASONS, "skipped"),
    }
    for test, reason in REASONS.items():
        assert reason in reported.text(test)
    ((name, (call,)),) = reported.fixtures.items()
    assert name == "setUpClass (SkippedAltogether)"
    assert call.text == "all of it"
