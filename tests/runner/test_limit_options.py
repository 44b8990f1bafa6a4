"""How time limits are given, and that there is none unless one is."""

import time

import pytest

from ..project import Project
from .test_limits import IMPORTS, reported

MODES = [(), ("--parallel", "2")]
IDS = ["serial", "parallel"]

SLEEPING = """
    class Sleeping:
        databases = set()

        def test_sleeps(self):
            time.sleep(1.5)
            Path(f"slept-{type(self).__name__}").touch()


    MARK
    class Limited(Sleeping, SimpleTestCase):
        pass


    @schema_runner.timeout(None)
    class Unlimited(Sleeping, SimpleTestCase):
        def test_nothing_is_set(self):
            self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0, 0))
            self.assertEqual(signal.getsignal(signal.SIGALRM), signal.SIG_DFL)
"""
ALARMS = """
    class Alarms:
        def test_own(self):
            self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0, 0))
            self.assertEqual(signal.getsignal(signal.SIGALRM), signal.SIG_DFL)
            rung = []
            signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
            self.addCleanup(signal.signal, signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while not rung:
                time.sleep(0.01)


    class A(Alarms, SimpleTestCase):
        pass


    class B(Alarms, TestCase):
        pass
"""
EXPECTING = """
    @schema_runner.timeout(1)
    class Expecting(SimpleTestCase):
        def test_raises(self):
            with self.assertRaises(AssertionError):
                time.sleep(600)

        def test_passes(self):
            pass


    class Beside(SimpleTestCase):
        def test_passes(self):
            pass
"""
# Settings, decorator and arguments.
WAYS = {
    "option": ("", "", ["--test-timeout", "1"]),
    "setting": ('SCHEMA_RUNNER = {"TEST_TIMEOUT": 1}', "", []),
    "option-wins": ('SCHEMA_RUNNER = {"TEST_TIMEOUT": 600}', "", ["--test-timeout", "1.0"]),
    "mark-wins": ('SCHEMA_RUNNER = {"TEST_TIMEOUT": 600}', "@schema_runner.timeout(1)", []),
}


@pytest.mark.parametrize("mode", MODES, ids=IDS)
@pytest.mark.parametrize(("setting", "mark", "flags"), WAYS.values(), ids=WAYS)
def test_a_limit_is_given_in_several_ways(
    project: Project, setting: str, mark: str, flags: list[str], mode: tuple[str, ...]
) -> None:
    """For all tests, for those of a class, or for one; None lifts it."""
    project.configure(setting)
    project.tests(IMPORTS + SLEEPING.replace("MARK", mark))
    result = project.run(*mode, *flags)
    assert result.code == 1
    assert reported(result) == ["FAIL Limited.test_sleeps"]
    assert "It took longer than 1 s." in result.stderr
    assert "Ran 3 tests" in result.stderr
    assert [path.name for path in project.folder.glob("slept-*")] == ["slept-Unlimited"]


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_there_is_no_limit_by_default(project: Project, mode: tuple[str, ...]) -> None:
    """Neither a handler of SIGALRM nor a timer: tests may use them."""
    project.tests(IMPORTS + ALARMS)
    project.run(*mode).passed()


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_a_test_that_is_interrupted_fails_though_it_catches_that(
    project: Project, mode: tuple[str, ...]
) -> None:
    """It has taken longer than it may, whatever it expects to be raised."""
    project.tests(IMPORTS + EXPECTING)
    result = project.run(*mode)
    assert result.code == 1
    assert [line.split()[1] for line in reported(result)] == ["Expecting.test_raises"]
    assert "It took longer than 1 s." in result.stderr
    assert "Ran 3 tests" in result.stderr


def test_a_debugger_has_no_limit(project: Project) -> None:
    """Under --pdb somebody thinks."""
    project.tests("class Failing(SimpleTestCase):\n    def test_it(self):\n        1 / 0\n")
    process = project.start("--pdb", "--test-timeout", "1")
    assert process.stdout is not None
    while "Opening PDB" not in process.stdout.readline():
        assert process.poll() is None
    # Beyond the limit.
    time.sleep(1.5)
    stdout, stderr = process.communicate("p 40 + 2\nc\n", timeout=60)
    assert "42" in stdout, stderr
    assert "It took longer" not in stderr


@pytest.mark.parametrize("given", ["0", "x", "nan"])
def test_a_wrong_option_is_one_error(project: Project, given: str) -> None:
    """As argparse tells any other."""
    project.tests(IMPORTS + ALARMS)
    result = project.run(f"--test-timeout={given}")
    assert result.code == 2
    assert result.stderr.splitlines()[-1].endswith(
        f"error: argument --test-timeout: {given!r} is not a number of seconds, more than 0"
    )
    assert "Traceback" not in result.stderr


def test_a_wrong_setting_is_one_error(project: Project) -> None:
    """Before anything is made."""
    project.configure('SCHEMA_RUNNER = {"TEST_TIMEOUT": "5"}')
    project.tests(IMPORTS + ALARMS)
    result = project.run()
    assert result.code == 1
    assert result.stderr.splitlines() == [
        'CommandError: SCHEMA_RUNNER["TEST_TIMEOUT"] must be a number of seconds, more than 0, '
        "or None."
    ]
    assert project.databases() == []


def test_what_tidies_up_has_as_long_as_the_test(project: Project) -> None:
    """The worker is not ended in the middle of that: the test is a failure as any other."""
    project.tests(
        """
        import time
        from pathlib import Path


        class Slow(SimpleTestCase):
            def tearDown(self):
                time.sleep(3.5)
                Path("tidied").touch()

            def test_it(self):
                time.sleep(600)


        class Other(SimpleTestCase):
            def test_it(self):
                pass
        """
    )
    result = project.run("--parallel", "2", "--test-timeout", "4")
    assert "FAILED (failures=1)" in result.stderr
    assert "It took longer than 4 s." in result.stderr
    assert (project.folder / "tidied").exists()
