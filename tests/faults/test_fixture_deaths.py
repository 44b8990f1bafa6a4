"""Class and module fixtures that kill their worker."""

import pytest

from ..observed import OTHER, TWO_CLASSES, Reported, run
from ..project import Project

SUITE = """
    class DiesInSetUp(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            os._exit(3)
        def test_one(self): pass
        def test_two(self): pass

    # unittest does not catch KeyboardInterrupt and SystemExit, so they end the worker.
    class Interrupted(Recording, TestCase):
        @classmethod
        def setUpClass(cls): raise KeyboardInterrupt("in set-up")
        def test_it(self): pass

    class Exiting(Recording, TestCase):
        @classmethod
        def setUpClass(cls): sys.exit("out of set-up")
        def test_it(self): pass

    class DiesInTearDown(Recording, TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            os.kill(os.getpid(), signal.SIGKILL)
        def test_one(self): pass
        @unittest.skip("not today")
        def test_two(self): pass

    class DiesInFlush(Recording, TransactionTestCase):
        def test_1(self): pass
        def test_2(self): Author.objects.create(name="to be flushed")
        def test_3(self): self.assertEqual(Author.objects.count(), 0)
        def _fixture_teardown(self):
            if self._testMethodName == "test_2": os._exit(3)
            super()._fixture_teardown()

    # Its set-up runs again after each death, and finally kills the worker as well.
    class DiesEachTime(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            if times("set-up") > 2: os._exit(5)
        def test_1(self): os._exit(1)
        def test_2(self): os._exit(2)
        def test_3(self): pass
"""
DIES_IN_SET_UP = """
    def setUpModule():
        record("setUpModule")
        os._exit(3)

"""
DIES_IN_TEAR_DOWN = """
    def tearDownModule(): os._exit(3)

"""
FIXTURES = {
    "setUpClass (DiesInSetUp)": "ended with exit code 3.",
    "setUpClass (Interrupted)": "KeyboardInterrupt: in set-up",
    "setUpClass (Exiting)": "SystemExit: out of set-up",
    "tearDownClass (DiesInTearDown)": "was killed by signal 9 (SIGKILL).",
    "setUpClass (DiesEachTime)": "ended with exit code 5.",
    # setUpModule is part of the set-up of each of the module's classes.
    "setUpClass (library.test_set_up.First)": "ended with exit code 3.",
    "setUpClass (library.test_set_up.Second)": "ended with exit code 3.",
    # A failed tearDownModule is an error of the class that ran last.
    "tearDownClass (library.test_tear_down.First)": "ended with exit code 3.",
    "tearDownClass (library.test_tear_down.Second)": "ended with exit code 3.",
}
# Outcomes of the tests that run.
OUTCOMES = {
    **dict.fromkeys(["DiesEachTime.test_1", "DiesEachTime.test_2"], "crashed"),
    # A worker that dies in the clean-up of a test is an error of that test.
    "DiesInFlush.test_2": "crashed",
    **dict.fromkeys(["DiesInFlush.test_1", "DiesInFlush.test_3"], "passed"),
    **dict.fromkeys(["DiesInTearDown.test_one", "Other.test_it"], "passed"),
    "DiesInTearDown.test_two": "skipped",
    **{f"library.test_tear_down.{name}.test_it": "passed" for name in ("First", "Second")},
}


@pytest.fixture(scope="module")
def reported(shared: Project) -> Reported:
    """A run of the suite and of both modules."""
    shared.tests(DIES_IN_SET_UP + TWO_CLASSES, "test_set_up")
    shared.tests(DIES_IN_TEAR_DOWN + TWO_CLASSES, "test_tear_down")
    return run(shared, SUITE + OTHER)


def test_each_failed_fixture_is_one_error(reported: Reported) -> None:
    """Each error names the class and the cause of the worker's end."""
    assert reported.fixtures.keys() == FIXTURES.keys()
    for name, told in FIXTURES.items():
        (call,) = reported.fixtures[name]
        assert told in call.text


def test_tests_keep_their_outcomes(reported: Reported) -> None:
    """Tests of a class whose set-up fails do not run. All others do."""
    assert reported.outcomes == OUTCOMES
    assert "ended with exit code 3." in reported.text("DiesInFlush.test_2")


def test_a_set_up_that_kills_its_worker_is_tried_twice(reported: Reported) -> None:
    """A set-up that kills its worker is tried a second time. A tear-down repeats no test."""
    assert len(reported.processes("sets up", "DiesInSetUp")) == 2
    assert len(reported.processes("begins", "DiesInTearDown")) == 1
    assert [line["what"] for line in reported.records].count("setUpModule") == 4


def test_a_class_runs_if_its_set_up_kills_a_worker_only_once(observed: Project) -> None:
    """The class runs on the second try: something else may have killed the first worker."""
    text = """
    class Dying(Recording, TestCase):
        @classmethod
        def setUpTestData(cls):
            Author.objects.create(name="here")
            if times("set-up") == 1: os._exit(3)
        def test_one(self): self.assertEqual(Author.objects.count(), 1)
    """
    reported = run(observed, text + OTHER, code=0)
    assert set(reported.outcomes.values()) == {"passed"}
    assert "ended with exit code 3. Setting up its class again." in reported.result.stdout
    assert reported.fixtures == {}


def test_a_set_up_that_fails_leaves_no_transaction_open(observed: Project) -> None:
    """The runner closes it: unittest calls no tearDownClass after a failed setUpClass."""
    text = """
    class Failing(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            Author.objects.create(name="of no test")
            raise ValueError("as planned")
        def test_it(self): pass

    class Later(Recording, TransactionTestCase):
        def test_it(self):
            self.assertTrue(connection.get_autocommit())
            self.assertEqual(Author.objects.count(), 0)

    class Latest(Recording, TestCase):
        def test_it(self): self.assertEqual(Author.objects.count(), 0)
    """
    reported = run(observed, text)
    assert reported.fixtures.keys() == {"setUpClass (Failing)"}
    assert list(reported.outcomes.values()) == ["passed"] * 2
