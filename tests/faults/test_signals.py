"""Signals that end a run: SIGTERM and Ctrl-C, to its process and to all of them."""

import os
import signal
import subprocess

import pytest

from ..project import Project, wait_for
from .test_interrupted import PARALLEL, WAITING, end, is_alive, waiting

# The arguments of a run, and how it starts its workers.
STARTS = [((), "fork"), (PARALLEL, "fork"), (PARALLEL, "spawn")]
IDS = ["serial", "fork", "spawn"]
TERMINATED = 128 + signal.SIGTERM
# By the last of several, with everything cleaned up, it is the same to a shell.
TERMINATED_AT_LAST = {TERMINATED, -signal.SIGTERM}

MORE = """
    class C(TransactionTestCase):
        def test_c(self):
            pass
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with two tests that wait, and one that comes after them."""
    project.tests(WAITING)
    project.tests(MORE, "test_more")
    return project


def start(
    suite: Project, mode: tuple[str, ...], method: str
) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a run; return it and the processes that are in a test."""
    process = suite.start(*mode, env={"START_METHOD": method})
    return process, list(waiting(suite, 2 if mode else 1))


def send(process: subprocess.Popen[str], number: int, *, to_group: bool) -> None:
    """Send a signal to the process of a run, or to all of its processes."""
    (os.killpg if to_group else os.kill)(process.pid, number)


def send_twice(process: subprocess.Popen[str], number: int, *, to_group: bool) -> None:
    """Send it twice, and once more only if nothing comes of it: two at once may be one."""
    for pause in (1, 30, 30):
        send(process, number, to_group=to_group)
        try:
            process.wait(timeout=pause)
        except subprocess.TimeoutExpired:
            continue
        break


def is_cleaned_up(suite: Project, workers: list[int]) -> bool:
    wait_for(lambda: not any(map(is_alive, workers)), "the workers to end")
    return suite.databases() == []


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(("mode", "method"), STARTS, ids=IDS)
def test_sigterm_ends_the_run_after_the_tests_under_way(
    suite: Project, mode: tuple[str, ...], method: str, to_group: bool
) -> None:
    """They are reported, nothing else is begun, and the exit code says what it was."""
    process, workers = start(suite, mode, method)
    send(process, signal.SIGTERM, to_group=to_group)
    stdout, stderr = end(suite, process)
    assert process.returncode == TERMINATED, stdout + stderr
    assert f"Ran {len(workers)} test" in stderr
    assert "OK" in stderr
    assert "Traceback" not in stderr
    assert is_cleaned_up(suite, workers)


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(("mode", "method"), STARTS, ids=IDS)
def test_sigterm_twice_ends_the_run_at_once(
    suite: Project, mode: tuple[str, ...], method: str, to_group: bool
) -> None:
    """Though tests never end, the run does, and cleans up."""
    process, workers = start(suite, mode, method)
    send_twice(process, signal.SIGTERM, to_group=to_group)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode in TERMINATED_AT_LAST, stdout + stderr
    assert is_cleaned_up(suite, workers)


@pytest.mark.parametrize("mode", [(), PARALLEL], ids=["serial", "parallel"])
def test_sigterm_while_migrating_ends_the_run_at_once(
    suite: Project, mode: tuple[str, ...]
) -> None:
    """No test is under way: the build is broken off, and what it had made is dropped."""
    suite.migration(
        "0002_slow",
        "0001_initial",
        "migrations.RunSQL('SELECT pg_sleep(600) /* migrating */')",
    )
    process = suite.start(*mode)
    with suite.maintenance() as connection:
        busy = "SELECT FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%migrating%%'"
        wait_for(lambda: connection.execute(busy, [suite.test_name]).fetchall(), "the migration")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == TERMINATED, stdout + stderr
    assert suite.databases() == []


@pytest.mark.parametrize(("mode", "to_group"), [(PARALLEL, False), (PARALLEL, True), ((), False)])
def test_ctrl_c_is_heeded_whoever_gets_it(
    suite: Project, mode: tuple[str, ...], to_group: bool
) -> None:
    """A terminal sends it to all processes, and others to that of the run."""
    process, workers = start(suite, mode, "spawn" if mode else "fork")
    send(process, signal.SIGINT, to_group=to_group)
    stdout, stderr = end(suite, process)
    assert process.returncode == 0, stdout + stderr
    assert f"Ran {len(workers)} test" in stderr
    assert "Traceback" not in stderr
    assert is_cleaned_up(suite, workers)


@pytest.mark.parametrize(("mode", "method"), STARTS, ids=IDS)
def test_ctrl_c_twice_is_heeded_by_the_run_alone(
    suite: Project, mode: tuple[str, ...], method: str
) -> None:
    """Workers that got none end with it."""
    process, workers = start(suite, mode, method)
    send_twice(process, signal.SIGINT, to_group=False)
    process.communicate(timeout=60)
    assert process.returncode not in {0, TERMINATED}
    assert is_cleaned_up(suite, workers)


def test_sigterm_after_ctrl_c_ends_the_run_at_once(suite: Project) -> None:
    """The two count together."""
    process, workers = start(suite, PARALLEL, "fork")
    send(process, signal.SIGINT, to_group=True)
    send_twice(process, signal.SIGTERM, to_group=True)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode in TERMINATED_AT_LAST, stdout + stderr
    assert is_cleaned_up(suite, workers)


KILLING = """
    import os
    import signal
    import time


    class Killing(TestCase):
        def test_a(self):
            Author.objects.create(name="a")

        def test_b_kills(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600 if os.environ.get("FOREVER") else 0)

        def test_c(self):
            Author.objects.create(name="a")


    class Beside(TestCase):
        def test_d(self):
            pass
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_test_that_terminates_its_worker_is_blamed(project: Project, method: str) -> None:
    """The run goes on: it was told nothing."""
    project.tests(KILLING)
    result = project.run(*PARALLEL, env={"START_METHOD": method, "FOREVER": "1"})
    assert result.code == 1
    assert "Ran 4 tests" in result.stderr
    assert "FAILED (errors=1)" in result.stderr
    assert "ERROR: test_b_kills" in result.stderr
    assert "was killed by signal 15 (SIGTERM)" in result.stderr
    assert project.databases() == []


def test_a_test_that_terminates_the_run_is_finished(project: Project) -> None:
    """Without workers the process is the run's."""
    project.tests(KILLING)
    result = project.run()
    assert result.code == TERMINATED
    # test_d and test_a have come before it.
    assert "Ran 3 tests" in result.stderr
    assert "OK" in result.stderr
    assert project.databases() == []


@pytest.mark.parametrize("mode", [(), PARALLEL], ids=["serial", "parallel"])
def test_a_handler_of_the_project_s_own_stays(suite: Project, mode: tuple[str, ...]) -> None:
    """It is called, and what becomes of the run is its affair."""
    suite.configure(
        """
        import signal
        from pathlib import Path

        signal.signal(signal.SIGTERM, lambda *_: Path("handled").touch())
        """
    )
    process, _ = start(suite, mode, "fork")
    send(process, signal.SIGTERM, to_group=False)
    wait_for((suite.folder / "handled").exists, "the handler")
    stdout, stderr = end(suite, process)
    assert process.returncode == 0, stdout + stderr
    assert "Ran 3 tests" in stderr


DYING = """
    import os
    import signal


    class Dying(TestCase):
        pass


    for n in range(6):
        setattr(Dying, f"test_{n}_exits", lambda self: os._exit(7))
        setattr(Dying, f"test_{n}_is_killed", lambda self: os.kill(os.getpid(), signal.SIGKILL))


    class Beside(SimpleTestCase):
        def test_it(self):
            pass
"""


def test_each_death_is_told_as_what_it_was(project: Project) -> None:
    """By exit code or signal: the end of a pipe comes before that can be known."""
    project.tests(DYING)
    result = project.run(*PARALLEL)
    assert result.code == 1
    assert "Ran 13 tests" in result.stderr
    assert result.stderr.count("ended with exit code 7.") == 6
    assert result.stderr.count("was killed by signal 9 (SIGKILL).") == 6


def test_a_process_that_a_test_starts_has_the_usual_handlers(project: Project) -> None:
    """What is run by a test is ended by SIGTERM, and by Ctrl-C, as anything is."""
    project.tests(
        """
        import signal
        import subprocess
        import sys

        READY = "print('ready', flush=True); import time; time.sleep(600)"


        class Starting(SimpleTestCase):
            def test_it(self):
                for number in (signal.SIGTERM, signal.SIGINT):
                    command = [sys.executable, "-c", READY]
                    with subprocess.Popen(
                        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                    ) as child:
                        child.stdout.readline()
                        child.send_signal(number)
                        self.assertEqual(child.wait(60), -number)


        class Beside(Starting):
            pass
        """
    )
    for mode in ((), PARALLEL):
        project.run(*mode).passed()
