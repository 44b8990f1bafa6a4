"""Setting, decorator and option for test timeouts, and no timeout by default."""

import time

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project, each_mode
from .test_timeouts import reported

ALARMS = """
    class Alarms:
        def test_own(self):
            self.assertEqual(signal.getitimer(signal.ITIMER_REAL), (0, 0))
            self.assertEqual(signal.getsignal(signal.SIGALRM), signal.SIG_DFL)
            rung = []
            signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
            self.addCleanup(signal.signal, signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            wait_until(lambda: rung)

"""
SLEEPING = """
    class Sleeping:
        def test_sleeps(self):
            time.sleep(0.8)
            record("slept", case=type(self).__name__)

    MARK
    class Limited(Sleeping, SimpleTestCase): pass

    @schema_runner.timeout(None)
    class Unlimited(Sleeping, Alarms, SimpleTestCase): pass
"""
TWO = """
    class A(Alarms, SimpleTestCase): pass
    class B(Alarms, TestCase): pass
"""
# Setting, decorator, arguments, modes. Workers receive the first two from the main process.
SETTING = 'SCHEMA_RUNNER = {{"TEST_TIMEOUT": {}}}'
CASES = [
    ("", "", ["--test-timeout", "0.4"], [SERIAL]),
    (SETTING.format(0.4), "", [], [SERIAL, PARALLEL]),
    (SETTING.format(600), "", ["--test-timeout", "0.4"], [SERIAL, PARALLEL]),
    (SETTING.format(600), "@schema_runner.timeout(0.4)", [], [SERIAL, PARALLEL]),
]


@pytest.mark.parametrize(
    ("setting", "mark", "flags", "mode"),
    [(*case, mode) for *case, modes in CASES for mode in modes],
)
def test_a_timeout_is_set(
    project: Project, setting: str, mark: str, flags: list[str], mode: Mode
) -> None:
    """For all tests, for a class, or for a single test; None removes it."""
    project.configure(setting)
    project.tests(ALARMS + SLEEPING.replace("MARK", mark))
    result = project.run(*mode, *flags).failed("Timed out after 0.4 s.", "Ran 3 tests")
    assert reported(result) == ["FAIL Limited.test_sleeps"]
    assert [one["case"] for one in project.records("slept")] == ["Unlimited"]


@each_mode
def test_there_is_no_timeout_by_default(project: Project, mode: Mode) -> None:
    """By default there is no SIGALRM handler and no timer, so tests may use both."""
    project.tests(ALARMS + TWO)
    project.run(*mode).passed()


def test_a_debugger_has_no_timeout(project: Project) -> None:
    """Tests under --pdb have no timeout."""
    project.tests("class Failing(SimpleTestCase):\n    def test_it(self): 1 / 0\n")
    process = project.start("--pdb", "--test-timeout", "0.5")
    assert process.stdout
    while "Opening PDB" not in process.stdout.readline():
        assert process.poll() is None
    # Longer than the timeout.
    time.sleep(0.8)
    stdout, stderr = process.communicate("p 40 + 2\nc\n", timeout=60)
    assert "42" in stdout, stderr
    assert "Timed out after" not in stderr
