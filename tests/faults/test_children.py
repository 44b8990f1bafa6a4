"""Child processes that tests fork do not hold files of the run, or delay its end."""

import os

import pytest

from ..project import PARALLEL, Mode, Project, fork_and_spawn, wait_for

FORKING = """
    import gc
    import multiprocessing
    import multiprocessing.connection

    import psycopg

    context = multiprocessing.get_context("fork")
    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

    def is_null(one): return os.fstat(one.fileno()).st_rdev == os.stat(os.devnull).st_rdev

    def open_files():
        '''List open pipes and database connections of the run, without Django's connection.'''
        found = gc.get_objects()
        pipes = [one for one in found if isinstance(one, multiprocessing.connection.Connection)]
        sessions = [one for one in found if isinstance(one, psycopg.Connection)
                    and one is not connection.connection and not one.closed and not is_null(one)]
        return [one for one in pipes if not one.closed] + sessions

    def in_child(function):
        '''Call the function in a forked child; return the repr of its result.'''
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try: os.write(writing, repr(function()).encode())
            finally: os._exit(0)
        os.close(writing)
        with open(reading) as said: text = said.read()
        os.waitpid(child, 0)
        return text

    class Forking(TransactionTestCase):
        def test_signals(self):
            ours = [signal.getsignal(number) for number in SIGNALS]
            theirs = in_child(lambda: [getattr(signal.getsignal(number), "__qualname__",
                type(signal.getsignal(number)).__qualname__) for number in SIGNALS])
            interrupt = os.environ["INTERRUPT"]
            self.assertEqual(theirs, repr(["Handlers", interrupt, "Handlers"]))
            self.assertEqual([signal.getsignal(number) for number in SIGNALS], ours)
            self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, []), set())
            mask = in_child(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []))
            self.assertEqual(mask, "set()")

        def test_terminated(self):
            # Also if the signal arrives right after the fork.
            for _ in range(50):
                child = os.fork()
                if not child: time.sleep(60); os._exit(0)
                os.kill(child, signal.SIGTERM)
                self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), -15)
            for number in (signal.SIGTERM, signal.SIGALRM):
                child = context.Process(target=time.sleep, args=(60,))
                child.start()
                os.kill(child.pid, number)
                child.join()
                self.assertEqual(child.exitcode, -number)

        def test_files(self):
            self.assertNotEqual(open_files(), [])
            self.assertEqual(in_child(open_files), "[]")
    class Beside(Forking): pass
"""


@fork_and_spawn
def test_a_forked_child_has_the_state_of_stock_django(
    project: Project, mode: Mode, method: str
) -> None:
    """A forked child has the signal handlers from before the run, and none of the run's files."""
    project.tests(FORKING)
    interrupt = "default_int_handler" if method == "spawn" else "_InterruptHandler"
    env = {"START_METHOD": method, "INTERRUPT": interrupt}
    project.run(*mode, "--test-timeout", "60", env=env).passed("Ran 6 tests")


LEAVING = """
    import multiprocessing

    class Leaving(SimpleTestCase):
        def test_leaves(self):
            child = multiprocessing.Process(target=time.sleep, args=(100,))
            child.start()
            record("left", child=child.pid)
        def test_passes(self): pass
    class Beside(Leaving): pass
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_workers_end_with_them(project: Project, method: str) -> None:
    """Without the runner's intervention, multiprocessing would join them at exit."""
    project.tests(LEAVING)
    project.run(*PARALLEL, env={"START_METHOD": method}).passed("Ran 4 tests")
    children = [line["child"] for line in project.records("left")]
    assert len(children) == 2
    for child in children:
        wait_for(lambda child=child: not os.path.exists(f"/proc/{child}"), "the end of a child")
