"""Workers whose set-up fails."""

from textwrap import dedent, indent

import pytest

from ..observed import TWO_CLASSES, Reported, run
from ..project import METHODS, Project

pytestmark = pytest.mark.oldest

# These tests continue once the process whose id is in the file `failing` has ended.
WAITING = """
    class First(Recording, TestCase):
        def test_one(self):
            Path("one").touch()
            wait_for("failing")
            failing = Path("/proc", Path("failing").read_text())
            wait_until(lambda: not failing.exists())
    class Second(First): pass
"""
# Writes the process id to the file `failing`, then raises.
FAILING = """
    from helpers import *

    def fail(message):
        wait_for("one")
        Path("writing").write_text(str(os.getpid()))
        Path("writing").rename("failing")
        raise ValueError(message)

"""


def run_with_set_up(
    project: Project, tests: str, body: str, *, method: str = "fork", code: int = 1
) -> Reported:
    """Run with a WORKER_SETUP function that has this body."""
    body = indent(dedent(body), " " * 8)
    project.write("workers.py", f"{FAILING}    def set_up(worker):\n{body}")
    project.configure('SCHEMA_RUNNER = {"WORKER_SETUP": ["workers.set_up"]}')
    return run(project, tests, method=method, code=code)


def check_workers(reported: Reported, *told: str) -> None:
    """Check that each failed worker is reported once, and no other fixture."""
    assert reported.fixtures
    assert reported.fixtures.keys() <= {"worker 1", "worker 2"}
    for calls in reported.fixtures.values():
        (call,) = calls
        assert all(text in call.text for text in told)


@pytest.mark.parametrize("method", METHODS)
def test_set_up_that_raises_ends_the_run(observed: Project, method: str) -> None:
    """The traceback is reported for a worker, no test runs, and the exit code is 1."""
    body = "record('set up'); raise ValueError('no service for this worker')"
    reported = run_with_set_up(observed, TWO_CLASSES, body, method=method)
    assert reported.tests == set()
    error = "ValueError: no service for this worker"
    check_workers(reported, "could not be set up", "in set_up\n", error)
    assert len(observed.records("set up")) <= 2


def test_set_up_that_always_kills_its_process_ends_the_run(observed: Project) -> None:
    """The runner gives up after a few attempts, and reports how the process ended."""
    reported = run_with_set_up(observed, TWO_CLASSES, "record('set up'); os._exit(7)")
    assert reported.tests == set()
    check_workers(reported, "could not be set up: it ended with exit code 7.")
    assert 3 <= len(observed.records("set up")) <= 6


def test_set_up_that_fails_in_one_worker_ends_the_run(observed: Project) -> None:
    """Tests that run in the other worker finish, and no other test starts."""
    body = "if worker.number == 2: fail('no service for worker 2')"
    reported = run_with_set_up(observed, WAITING, body)
    assert list(reported.outcomes.values()) == ["passed"]
    assert reported.fixtures.keys() == {"worker 2"}
    check_workers(reported, "ValueError: no service for worker 2")


def test_a_migration_that_fails_in_one_worker_ends_the_run(observed: Project) -> None:
    """The exception of the migration is reported for that worker."""
    observed.configure('SCHEMA_RUNNER = {"STRATEGY": "migrate"}')
    build = """
    def migrate(apps, editor):
        if times("built") > 1: fail("a second time")
    """
    observed.write("once.py", FAILING + build)
    run_once = "migrations.RunPython(__import__('once').migrate)"
    observed.migration("0002_once", "0001_initial", run_once)
    reported = run(observed, WAITING)
    assert list(reported.outcomes.values()) == ["passed"]
    assert reported.fixtures.keys() == {"worker 2"}
    check_workers(reported, "ValueError: a second time")


def test_set_up_that_kills_its_process_once_is_repeated(observed: Project) -> None:
    """The replacement runs the tests, and a line says how the first worker ended."""
    body = """
        if worker.number == 2 and times("set-up") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        meet("set-up", 2)
    """
    reported = run_with_set_up(observed, TWO_CLASSES, body, code=0)
    assert list(reported.outcomes.values()) == ["passed"] * 2
    told = "Worker 2 was killed by signal 9 (SIGKILL). Starting another."
    assert told in reported.result.stdout


def test_set_up_that_fails_in_a_replacement_is_reported(observed: Project) -> None:
    """The tests that killed the first workers are errors, and so is the replacement's set-up."""
    tests = """
    class First(Recording, TestCase):
        def test_1(self):
            meet("dying", 2)
            os._exit(3)
        def test_2(self): pass
    class Second(First): pass
    """
    body = "if times(f'set-up-{worker.number}') > 1: raise ValueError('only once')"
    reported = run_with_set_up(observed, tests, body)
    assert reported.outcomes == {"First.test_1": "crashed", "Second.test_1": "crashed"}
    check_workers(reported, "ValueError: only once")
