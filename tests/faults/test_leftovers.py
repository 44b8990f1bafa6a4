"""Side effects of tests: large output, threads, child processes, closed files."""

import os
import signal
from contextlib import suppress

import pytest

from ..observed import OTHER, Reported, finish, run
from ..project import METHODS, PARALLEL, Project

SIZE = 3 * 2**20
# Messages about these classes and their tests are large.
LARGE = """
    class Large(Recording, SimpleTestCase):
        def __init__(self, *args):
            super().__init__(*args)
            self.data = "x" * 2**20
        def test_1(self): self.fail(self.data)
        def test_2(self): self.fail(self.data)

    for number in range(12):
        name = f"Large{number}"
        globals()[name] = type(name, (Large,), {"__module__": __name__, "__qualname__": name})
"""
FORKING = """
    import ctypes

    def leave_child():
        '''Fork a child as C code can: it keeps its parent's files, except its standard streams.'''
        child = ctypes.PyDLL(None).fork()
        if not child:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for output in (0, 1, 2): os.dup2(nowhere, output)
            while True: time.sleep(3600)
        record("forked", child=child)

"""


def run_despite_children(project: Project, text: str, method: str) -> Reported:
    """Run tests that leave child processes, wait for the main process, then kill the children."""
    project.tests(FORKING + text)
    process = project.start(*PARALLEL, env={"START_METHOD": method})
    try:
        process.wait(timeout=60)
    finally:
        for line in project.records("forked"):
            with suppress(ProcessLookupError):
                os.kill(line["child"], signal.SIGKILL)
    reported = finish(project, process)
    reported.result.failed()
    return reported


@pytest.mark.parametrize(("method", "flags"), [("fork", []), ("spawn", ["--buffer"])])
def test_large_outputs(observed: Project, method: str, flags: list[str]) -> None:
    """The length of output and of error messages is not limited."""
    text = f"""
    class Large(Recording, TestCase):
        def test_1_prints(self):
            print("x" * {SIZE})
            print("y" * {SIZE}, file=sys.stderr)
        def test_2_fails(self): self.fail("z" * {SIZE})
        def test_3_prints_and_fails(self):
            print("u" * {SIZE})
            raise ValueError("v" * {SIZE}, threading.Lock())
        def test_4_skips(self): self.skipTest("w" * {SIZE})
        def test_5_passes(self): pass
    class Another(Large): pass
    class AndAnother(Large): pass
    """
    reported = run(observed, text, *flags, method=method)
    outcomes = list(reported.outcomes.values())
    assert outcomes == ["passed", "failed", "error", "skipped", "passed"] * 3
    assert reported.text("Large.test_2_fails").count("z") >= SIZE
    assert reported.text("Another.test_3_prints_and_fails").count("v") >= SIZE
    assert reported.text("AndAnother.test_4_skips") == "w" * SIZE
    # Workers write concurrently, so the output of one may interrupt that of another. With
    # --buffer, the output of tests that pass is not shown.
    output = reported.result.output
    assert (output.count("x") >= 3 * SIZE) is not bool(flags)
    assert output.count("u") >= 3 * SIZE


def test_large_messages_in_both_directions(observed: Project) -> None:
    """The run and its workers do not deadlock when both send more than a pipe can hold."""
    reported = run(observed, LARGE, method="spawn")
    assert list(reported.outcomes.values()) == ["failed"] * 26


@pytest.mark.parametrize("method", METHODS)
def test_threads_that_do_not_end(observed: Project, method: str) -> None:
    """Threads, daemon or not, delay neither the worker nor the run."""
    text = """
    class Leaving(Recording, TransactionTestCase):
        def leave(self, *, daemon):
            threading.Thread(target=time.sleep, args=[3600], daemon=daemon).start()
        def test_1_daemon(self): self.leave(daemon=True)
        def test_2_other(self): self.leave(daemon=False)
        def test_3_passes(self): pass
    class Another(Leaving): pass
    """
    reported = run(observed, text, method=method, code=0)
    assert list(reported.outcomes.values()) == ["passed"] * 6


def test_an_interrupted_worker_does_not_wait_for_threads(observed: Project) -> None:
    """The worker is replaced, although a thread keeps its process alive."""
    text = """
    class Leaving(Recording, TestCase):
        def test_1_leaves(self): threading.Thread(target=time.sleep, args=[3600]).start()
        def test_2_interrupts(self): raise KeyboardInterrupt("from a test")
        def test_3_passes(self): pass
    """
    reported = run(observed, text + OTHER)
    assert list(reported.outcomes.values()) == ["passed", "crashed", "passed", "passed"]
    assert "KeyboardInterrupt: from a test" in reported.text("Leaving.test_2_interrupts")


@pytest.mark.parametrize("method", METHODS)
def test_children_that_keep_pipes_open(observed: Project, method: str) -> None:
    """A worker's end is noticed although a child keeps its pipes open."""
    text = """
    class Leaving(Recording, SimpleTestCase):
        def test_1_leaves(self): leave_child()
        def test_2_dies(self): os.kill(os.getpid(), signal.SIGKILL)
        def test_3_leaves(self): leave_child()
        def test_4_passes(self): pass
    class Another(Leaving): pass
    """
    reported = run_despite_children(observed, text, method)
    assert list(reported.outcomes.values()) == ["passed", "crashed", "passed", "passed"] * 2
    for case in ("Leaving", "Another"):
        assert "was killed by signal 9 (SIGKILL)." in reported.text(f"{case}.test_2_dies")


def test_a_dead_worker_with_unread_messages(observed: Project) -> None:
    """The run does not block on writing to a dead worker whose pipe a child keeps open."""
    text = """
    Large.test_1 = Large.test_2 = lambda self: None
    Large0.test_1 = Large1.test_1 = lambda self: leave_child() or os._exit(3)
    """
    reported = run_despite_children(observed, LARGE + text, "spawn")
    assert sorted(reported.outcomes.values()) == ["crashed"] * 2 + ["passed"] * 24


def test_a_forked_child_that_returns_reports_nothing(observed: Project) -> None:
    """A test whose forked child continues as the worker is reported once."""
    text = """
    class Returning(SimpleTestCase):
        def go_on(self): pass
        def test_1_forks(self):
            child = os.fork()
            if not child: return self.go_on()
            os.waitpid(child, 0)
        def test_2_passes(self): pass

    class Raising(Returning):
        def go_on(self): 1 / 0

    class Exiting(Returning):
        def go_on(self): sys.exit(3)
    """
    reported = run(observed, text + OTHER, code=0)
    assert list(reported.outcomes.values()) == ["passed"] * 7, reported.result.output


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_closing_all_files(observed: Project, method: str) -> None:
    """The worker is ended, as an error of the test.

    Files that the test opens next are not used as pipes.
    """
    text = """
    class Closing(Recording, SimpleTestCase):
        def test_1_before(self): pass
        def test_2_closes(self): os.closerange(3, 1000)
        def test_3_after(self): pass
    class ClosingWithin(Closing, TestCase): pass
    class ClosingBetween(Closing, TransactionTestCase): pass

    class Replacing(Closing):
        def test_2_closes(self):
            super().test_2_closes()
            self.pairs = [os.pipe() for _ in range(100)]
    """
    reported = run(observed, text + OTHER, method=method)
    outcomes = reported.outcomes
    assert outcomes.pop("Other.test_it") == "passed"
    assert list(outcomes.values()) == ["passed", "crashed", "passed"] * 4
    assert reported.fixtures == {}
