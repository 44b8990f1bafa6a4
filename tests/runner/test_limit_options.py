"""How time limits are given, and that there is none unless one is."""

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
# A setting, a mark and arguments; workers have to be told of the first two.
SETTING = 'SCHEMA_RUNNER = {{"TEST_TIMEOUT": {}}}'
WAYS = [
    ("", "", ["--test-timeout", "0.4"], [SERIAL]),
    (SETTING.format(0.4), "", [], [SERIAL, PARALLEL]),
    (SETTING.format(600), "", ["--test-timeout", "0.4"], [SERIAL, PARALLEL]),
    (SETTING.format(600), "@schema_runner.timeout(0.4)", [], [SERIAL, PARALLEL]),
]


@pytest.mark.parametrize(
    ("setting", "mark", "flags", "mode"),
    [(*way, mode) for *way, modes in WAYS for mode in modes],
)
def test_a_limit_is_given(
    project: Project, setting: str, mark: str, flags: list[str], mode: Mode
) -> None:
    """For all tests, for those of a class, or for one; None lifts it."""
    project.configure(setting)
    project.tests(ALARMS + SLEEPING.replace("MARK", mark))
    result = project.run(*mode, *flags).failed("Timed out after 0.4 s.", "Ran 3 tests")
    assert reported(result) == ["FAIL Limited.test_sleeps"]
    assert [one["case"] for one in project.records("slept")] == ["Unlimited"]


@each_mode
def test_there_is_no_limit_by_default(project: Project, mode: Mode) -> None:
    """Neither a handler of SIGALRM nor a timer: tests may use them."""
    project.tests(ALARMS + TWO)
    project.run(*mode).passed()


def test_a_debugger_has_no_limit(project: Project) -> None:
    """A person at --pdb may think for longer."""
    project.tests("class Failing(SimpleTestCase):\n    def test_it(self): 1 / 0\n")
    process = project.start("--pdb", "--test-timeout", "0.5")
    assert process.stdout
    while "Opening PDB" not in process.stdout.readline():
        assert process.poll() is None
    # Beyond the limit.
    time.sleep(0.8)
    stdout, stderr = process.communicate("p 40 + 2\nc\n", timeout=60)
    assert "42" in stdout, stderr
    assert "Timed out after" not in stderr
