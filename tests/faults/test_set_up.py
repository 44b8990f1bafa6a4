"""Workers that cannot be set up."""

import pytest

from ..observed import RECORDING, Reported, observe, recorded, run
from ..project import Project

pytestmark = pytest.mark.oldest

METHODS = ["fork", "spawn", "forkserver"]
TWO_CLASSES = """
    class First(Recording, TestCase):
        def test_one(self):
            pass


    class Second(First):
        pass
"""


@pytest.fixture
def observed(project: Project) -> Project:
    observe(project)
    project.tests(RECORDING + TWO_CLASSES)
    return project


def run_with_set_up(project: Project, text: str, *, method: str = "fork") -> Reported:
    """Run with a WORKER_SETUP that consists of these statements."""
    project.write("workers.py", RECORDING + f"    def set_up(worker):\n{text}")
    project.configure('SCHEMA_RUNNER = {"WORKER_SETUP": ["workers.set_up"]}')
    return run(project, env={"START_METHOD": method})


@pytest.mark.parametrize("method", METHODS)
def test_set_up_that_raises_ends_the_run(observed: Project, method: str) -> None:
    """Its traceback is told for a worker, no test is run, and the exit code is 1."""
    reported = run_with_set_up(
        observed,
        """
        record("set up")
        raise ValueError("no service for this worker")
    """,
        method=method,
    )
    assert reported.result.code == 1
    assert reported.tests == set()
    assert {"worker 1", "worker 2"} & reported.fixtures.keys()
    assert reported.fixtures.keys() <= {"worker 1", "worker 2"}
    for calls in reported.fixtures.values():
        (call,) = calls
        assert "could not be set up" in call.text
        assert "in set_up\n" in call.text
        assert "ValueError: no service for this worker" in call.text
    assert len(recorded(observed, "set up")) <= 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_set_up_that_kills_its_process_is_given_up(observed: Project, method: str) -> None:
    """After a few times, and then it is told how the process ended."""
    reported = run_with_set_up(
        observed,
        """
        record("set up")
        os._exit(7)
    """,
        method=method,
    )
    assert reported.result.code == 1
    assert reported.tests == set()
    assert reported.fixtures
    for calls in reported.fixtures.values():
        (call,) = calls
        assert "could not be set up: it ended with exit code 7." in call.text
    assert 3 <= len(recorded(observed, "set up")) <= 6


# Tests that go on when the process whose id is in a file is gone, as the run knows.
WAITING = """
    class First(Recording, TestCase):
        def test_one(self):
            Path("one").touch()
            wait_until(Path("failing").exists)
            failing = Path("/proc", Path("failing").read_text())
            wait_until(lambda: not failing.exists())


    class Second(First):
        pass
"""


def test_set_up_that_fails_in_one_worker_ends_the_run(observed: Project) -> None:
    """What the other has under way is finished, and nothing else is begun."""
    observed.tests(RECORDING + WAITING)
    reported = run_with_set_up(
        observed,
        """
        if worker.number == 2:
            wait_until(Path("one").exists)
            Path("writing").write_text(str(os.getpid()))
            Path("writing").rename("failing")
            raise ValueError("no service for worker 2")
    """,
    )
    assert reported.result.code == 1
    assert list(reported.outcomes.values()) == ["passed"]
    ((name, (call,)),) = reported.fixtures.items()
    assert name == "worker 2"
    assert "ValueError: no service for worker 2" in call.text


def test_set_up_that_dies_once_is_done_again(observed: Project) -> None:
    """The run passes with the worker that took its place, and says what became of the first."""
    reported = run_with_set_up(
        observed,
        """
        if worker.number == 2 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        Path(f"set-up-{worker.number}").touch()
        wait_until(lambda: len(list(Path().glob("set-up-*"))) == 2)
    """,
    )
    assert reported.result.code == 0, reported.result.output
    assert set(reported.outcomes.values()) == {"passed"}
    assert len(reported.outcomes) == 2
    told = "Worker 2 was killed by signal 9 (SIGKILL). Another is started."
    assert told in reported.result.stdout


def test_set_up_that_fails_in_a_replacement_is_told_beside_the_death(observed: Project) -> None:
    """The tests that killed the first workers are errors, and so is a worker after them."""
    observed.tests(
        RECORDING
        + """
    class First(Recording, TestCase):
        def test_1(self):
            Path(type(self).__name__).touch()
            wait_until(lambda: Path("First").exists() and Path("Second").exists())
            os._exit(3)

        def test_2(self):
            pass


    class Second(First):
        pass
    """
    )
    reported = run_with_set_up(
        observed,
        """
        mine = Path(f"set-up-{worker.number}")
        if mine.exists():
            raise ValueError("only once")
        mine.touch()
    """,
    )
    assert reported.result.code == 1
    assert reported.outcomes == {
        "test_generated.First.test_1": "crashed",
        "test_generated.Second.test_1": "crashed",
    }
    assert {"worker 1", "worker 2"} & reported.fixtures.keys()
    for name, (call,) in reported.fixtures.items():
        assert name in {"worker 1", "worker 2"}
        assert "ValueError: only once" in call.text


def test_a_migration_that_fails_in_one_worker_ends_the_run(observed: Project) -> None:
    """It is told as that worker's, with what the migration raised."""
    observed.configure('SCHEMA_RUNNER = {"STRATEGY": "migrate"}')
    observed.tests(RECORDING + WAITING)
    observed.write(
        "once.py",
        """
        import os
        from pathlib import Path


        def migrate(apps, editor):
            if Path("one").exists():
                Path("writing").write_text(str(os.getpid()))
                Path("writing").rename("failing")
                raise ValueError("a second time")
            if Path("built").exists():
                while not Path("one").exists():
                    pass
                migrate(apps, editor)
            Path("built").touch()
        """,
    )
    observed.migration(
        "0002_once", "0001_initial", "migrations.RunPython(__import__('once').migrate)"
    )
    reported = run(observed)
    assert reported.result.code == 1
    assert list(reported.outcomes.values()) == ["passed"]
    ((name, (call,)),) = reported.fixtures.items()
    assert name == "worker 2"
    assert "ValueError: a second time" in call.text
