"""What tests leave behind: outputs, threads, processes, closed files."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ..observed import OTHER, RECORDING, Reported, finish, recorded, run
from ..project import Project

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def forking(observed: Project) -> Iterator[Project]:
    """A project whose tests record processes that they leave, which are killed in the end."""
    yield observed
    kill_left(observed)


def kill_left(project: Project) -> None:
    for line in recorded(project, "forked"):
        with suppress(ProcessLookupError):
            os.kill(line["child"], signal.SIGKILL)


def finish_despite_children(project: Project, process: subprocess.Popen[str]) -> Reported:
    """Wait for the end of a run whose tests have left processes, and end those."""
    process.wait(timeout=60)
    kill_left(project)
    return finish(project, process)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flags", [(), ("--buffer",)], ids=["direct", "buffer"])
def test_large_outputs(observed: Project, method: str, flags: tuple[str, ...]) -> None:
    """What a test prints, and what its error says, may be as long as they like."""
    observed.tests(
        RECORDING
        + """
    SIZE = 3 * 2**20


    class Large(Recording, TestCase):
        def test_1_prints(self):
            print("x" * SIZE)
            print("y" * SIZE, file=sys.stderr)

        def test_2_fails(self):
            self.fail("z" * SIZE)

        def test_3_prints_and_fails(self):
            print("u" * SIZE)
            raise ValueError("v" * SIZE, threading.Lock())

        def test_4_skips(self):
            self.skipTest("w" * SIZE)

        def test_5_passes(self):
            pass


    class Another(Large):
        pass


    class AndAnother(Large):
        pass
    """
    )
    reported = run(observed, "--parallel", "2", *flags, env={"START_METHOD": method})
    assert reported.result.code == 1
    outcomes = list(reported.outcomes.values())
    assert outcomes == ["passed", "failed", "error", "skipped", "passed"] * 3
    size = 3 * 2**20
    assert reported.text("test_generated.Large.test_2_fails").count("z") >= size
    assert reported.text("test_generated.Another.test_3_prints_and_fails").count("v") >= size
    assert reported.text("test_generated.AndAnother.test_4_skips") == "w" * size
    # Workers write at once: what one has printed may be in the middle of what another has. With
    # --buffer, that of tests which pass is not shown.
    output = reported.result.output
    assert (output.count("x") >= 3 * size) is not bool(flags)
    assert output.count("u") >= 3 * size


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_orders_and_reports_that_are_large_at_once(observed: Project, method: str) -> None:
    """Neither the run nor a worker waits for the other to read: more fits into no pipe."""
    observed.tests(
        RECORDING
        + """
    class Large(Recording, SimpleTestCase):
        def __init__(self, *args):
            super().__init__(*args)
            self.data = "x" * 2**20

        def test_1(self):
            self.fail(self.data)

        def test_2(self):
            self.fail(self.data)


    for number in range(40):
        globals()[f"Large{number}"] = type(
            f"Large{number}", (Large,), {"__module__": __name__, "__qualname__": f"Large{number}"}
        )
    """
    )
    reported = run(observed, env={"START_METHOD": method})
    assert reported.result.code == 1
    assert list(reported.outcomes.values()) == ["failed"] * 82


@pytest.mark.parametrize("method", METHODS)
def test_threads_that_never_end(observed: Project, method: str) -> None:
    """Daemons or not, they keep neither a worker nor the run."""
    observed.tests(
        RECORDING
        + """
    class Leaving(Recording, TransactionTestCase):
        def leave(self, *, daemon):
            threading.Thread(target=time.sleep, args=[3600], daemon=daemon).start()

        def test_1_daemon(self):
            self.leave(daemon=True)

        def test_2_other(self):
            self.leave(daemon=False)

        def test_3_passes(self):
            pass


    class Another(Leaving):
        pass
    """
    )
    reported = run(observed, env={"START_METHOD": method})
    assert reported.result.code == 0, reported.result.output
    assert list(reported.outcomes.values()) == ["passed"] * 6


def test_a_worker_that_breaks_off_does_not_wait_for_threads(observed: Project) -> None:
    """It is replaced, though a thread that never ends keeps its process."""
    observed.tests(
        RECORDING
        + """
    class Leaving(Recording, TestCase):
        def test_1_leaves(self):
            threading.Thread(target=time.sleep, args=[3600]).start()

        def test_2_interrupts(self):
            raise KeyboardInterrupt("from a test")

        def test_3_passes(self):
            pass
    """
        + OTHER
    )
    reported = run(observed)
    assert reported.result.code == 1
    assert list(reported.outcomes.values()) == ["passed", "crashed", "passed", "passed"]
    told = reported.text("test_generated.Leaving.test_2_interrupts")
    assert "KeyboardInterrupt: from a test" in told


FORKING = """
    def leave_child():
        '''Leave a process that has all files of its parent but its outputs.'''
        child = os.fork()
        if not child:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for output in (0, 1, 2):
                os.dup2(nowhere, output)
            while True:
                time.sleep(3600)
        record("forked", child=child)


"""


@pytest.mark.parametrize("method", METHODS)
def test_children_that_keep_pipes_open(forking: Project, method: str) -> None:
    """A worker's end shows though its pipes stay open, whether it dies or has finished."""
    forking.tests(
        RECORDING
        + FORKING
        + """
    class Leaving(Recording, SimpleTestCase):
        def test_1_leaves(self):
            leave_child()

        def test_2_dies(self):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_3_leaves(self):
            leave_child()

        def test_4_passes(self):
            pass


    class Another(Leaving):
        pass
    """
    )
    process = forking.start("--parallel", "2", env={"START_METHOD": method})
    reported = finish_despite_children(forking, process)
    assert reported.result.code == 1
    outcomes = list(reported.outcomes.values())
    assert outcomes == ["passed", "crashed", "passed", "passed"] * 2
    for test in ("Leaving", "Another"):
        told = reported.text(f"test_generated.{test}.test_2_dies")
        assert "was killed by signal 9 (SIGKILL)." in told


def test_a_dead_worker_with_orders_that_nobody_reads(forking: Project) -> None:
    """A child of it that keeps its orders open does not keep the run."""
    forking.tests(
        RECORDING
        + FORKING
        + """
    class Large(Recording, SimpleTestCase):
        def __init__(self, *args):
            super().__init__(*args)
            self.data = "x" * 2**20

        def test_1(self):
            leave_child()
            os._exit(3)

        def test_2(self):
            pass


    for number in range(20):
        globals()[f"Large{number}"] = type(
            f"Large{number}", (Large,), {"__module__": __name__, "__qualname__": f"Large{number}"}
        )
    Large.test_1 = Large.test_2
    Large0.test_1 = Large1.test_1 = lambda self: leave_child() or os._exit(3)
    """
    )
    process = forking.start("--parallel", "2", env={"START_METHOD": "spawn"})
    reported = finish_despite_children(forking, process)
    assert reported.result.code == 1
    outcomes = list(reported.outcomes.values())
    assert sorted(outcomes) == ["crashed"] * 2 + ["passed"] * 40


@pytest.mark.parametrize("way", ["returns", "raises", "exits"])
def test_a_child_that_goes_on_as_its_parent_is_not_heard(observed: Project, way: str) -> None:
    """A test that forks and forgets to end the child is still told once, and so is the rest."""
    statement = {"returns": "return", "raises": "1 / 0", "exits": "sys.exit(3)"}[way]
    observed.tests(
        RECORDING
        + f"""
    class Forking(SimpleTestCase):
        def test_1_forks(self):
            child = os.fork()
            if not child:
                {statement}
            os.waitpid(child, 0)

        def test_2_passes(self):
            pass
    """
        + OTHER
    )
    reported = run(observed)
    assert list(reported.outcomes.values()) == ["passed"] * 3, reported.result.output
    assert reported.result.code == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("base", ["SimpleTestCase", "TestCase", "TransactionTestCase"])
def test_closing_all_files(observed: Project, base: str, method: str) -> None:
    """A worker that can tell nothing any more is ended, as an error of the test that did it."""
    observed.tests(
        RECORDING
        + f"""
    class Closing(Recording, {base}):
        def test_1_before(self):
            pass

        def test_2_closes(self):
            os.closerange(3, 1000)

        def test_3_after(self):
            pass
    """
        + OTHER
    )
    reported = run(observed, env={"START_METHOD": method})
    assert reported.result.code == 1
    assert list(reported.outcomes.values()) == ["passed", "crashed", "passed", "passed"]
    assert reported.fixtures == {}


def test_files_that_take_the_place_of_the_pipes(observed: Project) -> None:
    """What a test opens once it has closed all files is not taken for the pipes to the run."""
    observed.tests(
        RECORDING
        + """
    class Replacing(Recording, SimpleTestCase):
        def test_1_replaces(self):
            os.closerange(3, 1000)
            self.pairs = [os.pipe() for _ in range(100)]

        def test_2_after(self):
            pass
    """
        + OTHER
    )
    reported = run(observed)
    assert reported.result.code == 1
    assert list(reported.outcomes.values()) == ["passed", "crashed", "passed"]
