"""Debuggers in workers: one worker at a time has the terminal."""

import shlex
import sys

import pytest

from ..fork_server import FLAGS
from ..project import PARALLEL, Mode, Project, each_mode, wait_for
from ..terminal import INTERRUPT, Terminal, terminal

TESTS = """
    import pdb

    class First(TestCase):
        @schema_runner.timeout(1)
        def test_stops(self):
            answer = 6
            breakpoint()
            record("answer", answer=answer)
            raise ValueError("after the debugger")

    class Second(TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            wait_for("first")
            breakpoint()
        def test_stops(self):
            print("captured")
            pdb.set_trace()
            record("waits")
            wait_for("never")
        def test_passes(self): pass
"""
BRIEF = """
    class First(TestCase):
        @schema_runner.timeout(0.5)
        def test_stops(self):
            answer = 41
            breakpoint()
            self.assertEqual(answer, 42)

    class Second(TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            __import__("pdb").set_trace()
        def test_passes(self): pass
"""


def wait_for_debugger(run: Terminal, test: str) -> None:
    """Wait for the line that says so."""
    run.until(" has stopped in a debugger: ")
    assert run.until("\n") == f"library.test_generated.{test}"


# pdb differs between Python versions.
@pytest.mark.parametrize(
    "method", [pytest.param("fork", marks=pytest.mark.versions), "spawn", "forkserver"]
)
def test_one_worker_at_a_time(project: Project, method: str) -> None:
    """Ctrl-C and `quit` affect the test only. Timeouts are suspended, prompts are not buffered."""
    project.tests(TESTS)
    with terminal(project, *PARALLEL, "--buffer", START_METHOD=method) as run:
        wait_for_debugger(run, "First.test_stops")
        run.answer("open('first', 'w').close(); import time; time.sleep(1.2); answer *= 7")
        run.answer(f"abandoned{INTERRUPT}")
        run.until("--KeyboardInterrupt--")
        run.answer("c")
        wait_for_debugger(run, "Second.test_passes")
        run.answer("c")
        wait_for_debugger(run, "Second.test_stops")
        # A statement that blocks can be interrupted.
        run.answer("c")
        wait_for(lambda: project.records("waits"), "the test to go on")
        run.type(INTERRUPT)
        run.until("Program interrupted.")
        run.answer("q")
        assert run.exit_code() == 1
    (record,) = project.records("answer")
    assert record["answer"] == 42
    for text in ("ValueError: after the debugger", "WorkerError: The debugger was quit."):
        assert text in run.shown
    for text in ("BdbQuit", "TestTimeoutError", "Finishing"):
        assert text not in run.shown
    assert "FAILED (errors=2)" in run.shown
    assert "Ran 3 tests" in run.shown


@each_mode
def test_retries_stop_again(project: Project, mode: Mode) -> None:
    """Retries stop in the debugger again. Probes of --diagnose do not."""
    project.tests(BRIEF)
    with terminal(project, *mode, "--retries", "1", "--diagnose") as run:
        for _ in range(2):
            run.answer("c")
        run.until("Retrying 1 failure, each alone.")
        wait_for_debugger(run, "First.test_stops")
        run.answer("c")
        assert run.exit_code() == 1
    assert "test_stops is BROKEN: it fails alone" in run.shown


def test_without_a_terminal(project: Project) -> None:
    """The test fails at once, with the command to run instead."""
    project.tests(BRIEF)
    result = project.run(*PARALLEL).failed("FAILED (errors=2)")
    why = (
        "has no terminal for a debugger: standard input is not a terminal. "
        "Run the test without --parallel:"
    )
    command = shlex.join([sys.executable, *FLAGS, "manage.py", "test", "library.test_generated"])
    for test in ("First.test_stops", "Second.test_passes"):
        assert f"{why} {command}.{test}\n" in result.stderr
    assert "Pdb" not in result.output
    assert "debugger_hooks" not in result.output
    assert "debugger_hooks" not in result.output
    assert "BdbQuit" not in result.output
    off = {"PYTHONBREAKPOINT": "0"}
    project.run(*PARALLEL, env=off).failed("FAILED (failures=1, errors=1)")


def test_a_debugger_that_cannot_share_the_terminal(project: Project) -> None:
    """Debuggers that read standard input themselves, as ipdb does, fail likewise."""
    debugger = "import pdb\nclass Other(pdb.Pdb): pt_app = None\n"
    project.write("other.py", f"{debugger}def set_trace(): Other().set_trace()\n")
    project.tests(BRIEF.replace("breakpoint()", "import other; other.set_trace()"))
    with terminal(project, *PARALLEL) as run:
        run.answer("c")
        assert run.exit_code() == 1
    assert "a debugger: unlike pdb, Other cannot share it. Run the test without" in run.shown


def test_a_time_limit_without_workers(project: Project) -> None:
    """A timeout does not apply while a test is in a debugger."""
    project.tests(BRIEF)
    typed = "import time; time.sleep(0.7); answer = 42\nc\n"
    project.run("library.test_generated.First", stdin=typed).passed()
