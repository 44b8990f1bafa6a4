"""Fixtures of classes and modules with which their worker dies."""

import pytest

from ..observed import OTHER, RECORDING, Reported, recorded, run
from ..project import Project


def run_dying(project: Project, text: str) -> Reported:
    """Run tests that die, beside a class that passes."""
    project.tests(RECORDING + text)
    project.tests(RECORDING + OTHER, "test_other")
    reported = run(project)
    assert reported.result.code == 1
    assert reported.outcomes["test_other.Other.test_it"] == "passed"
    return reported


def test_a_class_whose_set_up_dies_is_tried_twice(observed: Project) -> None:
    """Then it is one error with its name, and none of its tests is run."""
    reported = run_dying(
        observed,
        """
    class Dying(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            os._exit(3)

        def test_one(self):
            pass

        def test_two(self):
            pass
    """,
    )
    assert reported.tests == {"test_other.Other.test_it"}
    ((name, (call,)),) = reported.fixtures.items()
    assert name == "setUpClass (test_generated.Dying)"
    assert "ended with exit code 3." in call.text
    assert len(recorded(observed, "setUpClass Dying")) == 2


def test_a_class_whose_set_up_dies_once_is_run(observed: Project) -> None:
    """As where somebody has killed a worker who did not mean the class."""
    observed.tests(
        RECORDING
        + """
    class Dying(Recording, TestCase):
        @classmethod
        def setUpTestData(cls):
            Author.objects.create(name="here")
            if not Path("died").exists():
                Path("died").touch()
                os._exit(3)

        def test_one(self):
            self.assertEqual(Author.objects.count(), 1)
    """
        + OTHER
    )
    reported = run(observed)
    assert reported.result.code == 0, reported.result.output
    assert set(reported.outcomes.values()) == {"passed"}
    assert "ended with exit code 3. Its class is set up once more." in reported.result.stdout
    assert reported.fixtures == {}


def test_an_interrupt_in_set_up_is_told_with_its_traceback(observed: Project) -> None:
    """unittest lets KeyboardInterrupt and SystemExit through, and they end the worker."""
    reported = run_dying(
        observed,
        """
    class Interrupted(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            raise KeyboardInterrupt("in set-up")

        def test_one(self):
            pass


    class Exiting(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            sys.exit("out of set-up")

        def test_one(self):
            pass
    """,
    )
    assert reported.tests == {"test_other.Other.test_it"}
    assert len(reported.fixtures) == 2
    for name, told in (
        ("Interrupted", "KeyboardInterrupt: in set-up"),
        ("Exiting", "SystemExit: out of set-up"),
    ):
        (call,) = reported.fixtures[f"setUpClass (test_generated.{name})"]
        assert told in call.text


def test_a_class_whose_tear_down_dies_is_one_error(observed: Project) -> None:
    """Its tests keep their outcomes, and none is run twice."""
    reported = run_dying(
        observed,
        """
    class Dying(Recording, TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            os.kill(os.getpid(), signal.SIGKILL)

        def test_one(self):
            pass

        @unittest.skip("not today")
        def test_two(self):
            pass
    """,
    )
    assert reported.outcomes == {
        "test_generated.Dying.test_one": "passed",
        "test_generated.Dying.test_two": "skipped",
        "test_other.Other.test_it": "passed",
    }
    ((name, (call,)),) = reported.fixtures.items()
    assert name == "tearDownClass (test_generated.Dying)"
    assert "was killed by signal 9 (SIGKILL)." in call.text
    assert len(recorded(observed, "test_generated.Dying.test_one")) == 1


def test_a_death_while_the_database_is_flushed_is_that_of_the_test(observed: Project) -> None:
    """What a test's class does after it belongs to it, though the test itself has passed."""
    reported = run_dying(
        observed,
        """
    class Dying(Recording, TransactionTestCase):
        def test_1(self):
            pass

        def test_2(self):
            Author.objects.create(name="to be flushed")

        def test_3(self):
            self.assertEqual(Author.objects.count(), 0)

        def _fixture_teardown(self):
            if self._testMethodName == "test_2":
                os._exit(3)
            super()._fixture_teardown()
    """,
    )
    dying = [reported.outcomes[f"test_generated.Dying.test_{number}"] for number in (1, 2, 3)]
    assert dying == ["passed", "crashed", "passed"]
    assert "ended with exit code 3." in reported.text("test_generated.Dying.test_2")
    assert reported.fixtures == {}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_module_whose_set_up_dies_ends(observed: Project, method: str) -> None:
    """It takes part in the set-up of each of its classes, which are an error each."""
    observed.tests(
        RECORDING
        + """
    def setUpModule():
        record("setUpModule")
        os._exit(3)


    class First(Recording, TestCase):
        def test_it(self):
            pass


    class Second(First):
        pass
    """
    )
    observed.tests(RECORDING + OTHER, "test_other")
    reported = run(observed, env={"START_METHOD": method})
    assert reported.result.code == 1
    assert reported.outcomes == {"test_other.Other.test_it": "passed"}
    assert len(reported.fixtures) == 2
    for name in ("First", "Second"):
        (call,) = reported.fixtures[f"setUpClass (test_generated.{name})"]
        assert "ended with exit code 3." in call.text
    assert len(recorded(observed, "setUpModule")) == 4


def test_a_module_whose_tear_down_dies_harms_no_test(observed: Project) -> None:
    """It is an error of the class after which it died, and the others are run."""
    reported = run_dying(
        observed,
        """
    def tearDownModule():
        os._exit(3)


    class First(Recording, TestCase):
        def test_it(self):
            pass


    class Second(First):
        pass
    """,
    )
    assert set(reported.outcomes.values()) == {"passed"}
    assert len(reported.outcomes) == 3
    assert len(reported.fixtures) == 2
    for calls in reported.fixtures.values():
        (call,) = calls
        assert "ended with exit code 3." in call.text


def test_all_tests_of_a_class_that_sets_itself_up_again_die(observed: Project) -> None:
    """Its set-up runs again for each, and dies in the end as well."""
    reported = run_dying(
        observed,
        """
    class Dying(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            count = Path("count")
            count.write_text(f"{count.read_text() if count.exists() else ''}.")
            if len(count.read_text()) > 2:
                os._exit(5)

        def test_1(self):
            os._exit(1)

        def test_2(self):
            os._exit(2)

        def test_3(self):
            pass
    """,
    )
    assert reported.outcomes == {
        "test_generated.Dying.test_1": "crashed",
        "test_generated.Dying.test_2": "crashed",
        "test_other.Other.test_it": "passed",
    }
    (call,) = reported.fixtures["setUpClass (test_generated.Dying)"]
    assert "ended with exit code 5." in call.text


def test_a_set_up_that_fails_leaves_no_transaction_open(observed: Project) -> None:
    """unittest calls no tearDownClass then, and later classes of the worker would be within it."""
    observed.tests(
        RECORDING
        + """
    class Failing(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            Author.objects.create(name="of no test")
            raise ValueError("as planned")

        def test_it(self):
            pass


    class Later(Recording, TransactionTestCase):
        def test_it(self):
            self.assertTrue(connection.get_autocommit())
            self.assertEqual(Author.objects.count(), 0)


    class Latest(Recording, TestCase):
        def test_it(self):
            self.assertEqual(Author.objects.count(), 0)
    """
    )
    reported = run(observed)
    assert reported.fixtures.keys() == {"setUpClass (test_generated.Failing)"}
    assert list(reported.outcomes.values()) == ["passed"] * 2
