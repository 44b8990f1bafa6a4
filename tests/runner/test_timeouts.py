"""Test timeouts: tests that take too long fail, and the rest of the suite runs."""

import re

import pytest

from ..project import PARALLEL, Mode, Project, Result, fork_and_spawn

IMPORTS = """
    import asyncio
    import collections
    import faulthandler
    import itertools

    soon = schema_runner.timeout(1)
    # For tests whose clean-up is quick on any machine.
    sooner = schema_runner.timeout(0.5)

"""
SLOW = """
    def wait_in_the_second_thread(event): event.wait()

    class Usable(TransactionTestCase):
        def assert_usable(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="usable")
            ((schema,),) = query("SELECT current_schema()")
            self.assertTrue(schema.startswith("test_w"))

        def test_z_usable(self): self.assert_usable()

    class Slow(Usable):
        @soon
        def test_a_sleeps(self):
            Author.objects.create(name="slow")
            event = threading.Event()
            threading.Thread(target=wait_in_the_second_thread, args=[event]).start()
            self.addCleanup(event.set)
            time.sleep(600)

        @soon
        def test_b_lock(self):
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        @soon
        def test_c_server(self): query("SELECT pg_sleep(600)")

    class InTransaction(TestCase):
        @soon
        def test_a_server(self):
            Author.objects.create(name="slow")
            query("SELECT pg_sleep(600)")
        @soon
        def test_b_rows(self):
            list(Author.objects.raw("SELECT n id, pg_sleep(1) FROM generate_series(1, 600) n"))
        def test_c_usable(self): Usable.assert_usable(self)

    class SlowSetUp(Usable):
        def setUp(self):
            if "slow" in self.id(): time.sleep(600)
        @soon
        def test_a_slow(self): Path("never").touch()

    class SlowTearDown(Usable):
        def tearDown(self):
            if "slow" in self.id(): time.sleep(600)
        @soon
        def test_a_slow(self): pass

    class Catching(SimpleTestCase):
        @sooner
        def test_a_raises(self):
            with self.assertRaises(AssertionError): time.sleep(600)
        def test_b_passes(self): pass

    class Async(TransactionTestCase):
        @soon
        async def test_a_sleeps(self):
            await Author.objects.acreate(name="slow")
            await asyncio.sleep(30)
            Path("never").touch()
        async def test_b_usable(self):
            self.assertEqual(await Author.objects.acount(), 0)
            await Author.objects.acreate(name="usable")

    @soon
    class Early(SimpleTestCase):
        def test_short(self): pass

    # Its set-up must not be subject to the timeout of the class before it.
    @schema_runner.timeout(None)
    class Long(SimpleTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            time.sleep(1.5)
        def test_long(self): pass
    class Other(Early): pass

    @tag("no-spawn")
    class Isolated(unittest.IsolatedAsyncioTestCase):
        @sooner
        async def test_a_async(self): await asyncio.sleep(600)
        async def test_b_goes_on(self): await asyncio.sleep(0)

    @sooner
    class SlowClass(TestCase):
        @classmethod
        def setUpClass(cls): time.sleep(600)
        def test_never(self): Path("never").touch()

    @sooner
    class SlowEnd(SimpleTestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            time.sleep(600)
        def test_passes(self): pass
"""
OVER_TIME = [
    *("ERROR SlowClass.setUpClass", "ERROR SlowEnd.tearDownClass"),
    *("FAIL Async.test_a_sleeps", "FAIL Catching.test_a_raises"),
    *("FAIL InTransaction.test_a_server", "FAIL InTransaction.test_b_rows"),
    *("FAIL Isolated.test_a_async", "FAIL Slow.test_a_sleeps", "FAIL Slow.test_b_lock"),
    *("FAIL Slow.test_c_server", "FAIL SlowSetUp.test_a_slow", "FAIL SlowTearDown.test_a_slow"),
]
STUBBORN = """
    def swallow():
        # Ends after a while, in case the timeout does not work.
        for _ in range(2000):
            try: time.sleep(0.01)
            except Exception: pass
        Path("never").touch()

    def fork():
        '''Fork a child that ends at once, without its parent's timeout.'''
        if not (child := os.fork()):
            faulthandler.cancel_dump_traceback_later()
            os._exit(0)
        os.waitpid(child, 0)

    def count(): collections.deque(itertools.repeat(0), maxlen=0)
    def wait_in_the_second_thread(): time.sleep(600)

    class Stubborn:
        def test_a_passes(self): Author.objects.create(name="a")
        @soon
        def test_b_stubborn(self):
            Author.objects.create(name="a")
            fork()
            threading.Thread(target=wait_in_the_second_thread, daemon=True).start()
            self.wait()
        def test_c_passes(self): self.assertEqual(Author.objects.count(), 0)

    class Swallowing(Stubborn, TransactionTestCase):
        def wait(self): swallow()

    class Counting(Stubborn, TransactionTestCase):
        def wait(self): count()

    class Tidying(SimpleTestCase):
        def tearDown(self):
            # Longer than the grace period of a test that is stuck.
            time.sleep(3.2)
            Path("tidied").touch()
        @schema_runner.timeout(3.5)
        def test_it(self): time.sleep(600)
"""


def reported(result: Result) -> list[str]:
    """List the kind, class and method of each reported failure and error."""
    found = re.findall(r"^(FAIL|ERROR): (\w+) \((?:\w+\.)*?(\w+)(?:\.\2)?\)$", result.stderr, re.M)
    return sorted(f"{kind} {test_class}.{name}" for kind, name, test_class in found)


@fork_and_spawn
def test_tests_that_take_too_long_fail(project: Project, mode: Mode, method: str) -> None:
    """The report shows the stacks, and later tests run.

    Fixtures have the timeout of their class.
    """
    project.tests(IMPORTS + SLOW)
    has_all = method == "fork"
    over_time = [line for line in OVER_TIME if has_all or "Isolated" not in line]
    flags = ["--test-timeout", "60", *([] if has_all else ["--exclude-tag", "no-spawn"])]
    result = project.run(*mode, *flags, env={"START_METHOD": method})
    result.failed(f"Ran {22 if has_all else 20} tests", "in wait_in_the_second_thread")
    assert reported(result) == over_time
    texts = re.findall(r"TestTimeoutError: Timed out after (.*) s\. Stacks", result.stderr)
    assert len(texts) == len(over_time)
    assert set(texts) == {"0.5", "1"}
    assert "_wait_and_exit" not in result.stderr
    assert not (project.folder / "never").exists()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_ignores_its_timeout_is_ended(project: Project, method: str) -> None:
    """The test is reported once, with the stacks. Clean-up may take as long as the test."""
    project.tests(IMPORTS + STUBBORN)
    result = project.run(*PARALLEL, env={"START_METHOD": method})
    result.failed("Timed out after 3.5 s.", "Ran 7 tests", "in swallow", "in count")
    names = ["Counting.test_b_stubborn", "Swallowing.test_b_stubborn", "Tidying.test_it"]
    assert sorted(line.split()[1] for line in reported(result)) == names
    assert "FAIL Tidying.test_it" in reported(result)
    assert result.stderr.count("in wait_in_the_second_thread") == 2
    assert (project.folder / "tidied").exists()
    assert not (project.folder / "never").exists()


def test_a_main_process_that_ignores_its_timeout_is_ended(project: Project) -> None:
    """Without workers, the main process ends, and the next run removes what it left."""
    project.tests(IMPORTS + STUBBORN)
    for test_class, function in [("Swallowing", "swallow"), ("Counting", "count")]:
        result = project.run(f"library.test_generated.{test_class}")
        result.failed(f"in {function}", "in wait_in_the_second_thread")
        assert not (project.folder / "never").exists()
    project.run("library.test_generated", "-k", "passes").passed()


STOPPED = """
    class Stopped(TransactionTestCase):
        def test_a_passes(self): Author.objects.create(name="a")
        @sooner
        def test_b_stops(self):
            Author.objects.create(name="a")
            os.kill(os.getpid(), signal.SIGSTOP)
            Path("never").touch()
        def test_c_passes(self): self.assertEqual(Author.objects.count(), 0)

    @sooner
    class StoppedSetUp(SimpleTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            os.kill(os.getpid(), signal.SIGSTOP)
        def test_never(self): Path("never").touch()
"""


def test_a_stopped_worker_is_ended(project: Project) -> None:
    """The main process enforces the timeout, and another worker runs the rest."""
    project.tests(IMPORTS + STOPPED)
    result = project.run(*PARALLEL, env={"START_METHOD": "spawn"}).failed(
        "Ran 3 tests", "errors=2"
    )
    assert reported(result) == ["ERROR Stopped.test_b_stops", "ERROR StoppedSetUp.setUpClass"]
    assert result.stderr.count("ignored its timeout and was killed.") == 2
    assert "Timed out (1): library.test_generated.Stopped.test_b_stops" in result.stdout
    assert not (project.folder / "never").exists()
