"""Time limits: tests that take too long fail, and the rest of the suite runs."""

import re

import pytest

from ..project import Project, Result

# The arguments of a run, and how it starts its workers.
STARTS = [((), "fork"), (("--parallel", "2"), "fork"), (("--parallel", "2"), "spawn")]
IDS = ["serial", "parallel", "spawn"]

IMPORTS = """
    import asyncio
    import collections
    import itertools
    import signal
    import threading
    import time
    import unittest
    from pathlib import Path

    import schema_runner

"""
SLOW = """
    def wait_in_the_second_thread(event):
        event.wait()


    class Usable(TransactionTestCase):
        def assert_usable(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="usable")
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_schema()")
                self.assertTrue(cursor.fetchone()[0].startswith("test_w"))


    @schema_runner.timeout(1)
    class Slow(Usable):
        def test_a_sleeps(self):
            Author.objects.create(name="slow")
            event = threading.Event()
            threading.Thread(target=wait_in_the_second_thread, args=[event]).start()
            self.addCleanup(event.set)
            time.sleep(600)

        def test_b_lock(self):
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()

        def test_c_server(self):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(600)")

        def test_d_usable(self):
            self.assert_usable()


    class InTransaction(TestCase):
        @schema_runner.timeout(1)
        def test_a_server(self):
            Author.objects.create(name="slow")
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(600)")

        @schema_runner.timeout(1)
        def test_b_rows(self):
            for _ in Author.objects.raw("SELECT n id, pg_sleep(1) FROM generate_series(1, 600) n"):
                pass

        def test_c_usable(self):
            Usable.assert_usable(self)


    class SlowSetUp(Usable):
        def setUp(self):
            if "slow" in self.id():
                time.sleep(600)

        @schema_runner.timeout(1)
        def test_a_slow(self):
            Path("never").touch()

        def test_b_usable(self):
            self.assert_usable()


    class SlowTearDown(Usable):
        def tearDown(self):
            if "slow" in self.id():
                time.sleep(600)

        @schema_runner.timeout(1)
        def test_a_slow(self):
            pass

        def test_b_usable(self):
            self.assert_usable()


    class Afterwards(Usable):
        def test_usable(self):
            self.assert_usable()
"""
ASYNC = """
    @schema_runner.timeout(1)
    class Slow(TransactionTestCase):
        async def test_a_sleeps(self):
            await Author.objects.acreate(name="slow")
            await asyncio.sleep(30)
            Path("never").touch()

        async def test_b_usable(self):
            self.assertEqual(await Author.objects.acount(), 0)
            await Author.objects.acreate(name="usable")


    class Isolated(unittest.IsolatedAsyncioTestCase):
        @schema_runner.timeout(1)
        async def test_a_async(self):
            await asyncio.sleep(600)

        async def test_b_goes_on(self):
            await asyncio.sleep(0)
"""
FIXTURES = """
    @schema_runner.timeout(1)
    class SlowClass(TestCase):
        @classmethod
        def setUpClass(cls):
            time.sleep(600)

        def test_never(self):
            Path("never").touch()


    @schema_runner.timeout(1)
    class SlowEnd(SimpleTestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            time.sleep(600)

        def test_passes(self):
            pass
"""
LONG = """
    @schema_runner.timeout(1)
    class Early(SimpleTestCase):
        def test_short(self):
            pass


    @schema_runner.timeout(None)
    class Long(SimpleTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            time.sleep(1.5)

        def test_long(self):
            pass


    @schema_runner.timeout(1)
    class Short(Early):
        pass
"""
STUBBORN = """
    def swallow():
        # In the end it gives up, so that a failure of this test does not take for ever.
        for _ in range(2000):
            try:
                time.sleep(0.01)
            except Exception:
                pass
        Path("never").touch()


    def count():
        collections.deque(itertools.repeat(0), maxlen=0)


    def wait_in_the_second_thread():
        time.sleep(600)


    class Stubborn(TransactionTestCase):
        def test_a_passes(self):
            Author.objects.create(name="a")

        @schema_runner.timeout(1)
        def test_b_stubborn(self):
            Author.objects.create(name="a")
            threading.Thread(target=wait_in_the_second_thread, daemon=True).start()
            {}()

        def test_c_passes(self):
            self.assertEqual(Author.objects.count(), 0)


    class Another(TransactionTestCase):
        def test_passes(self):
            Author.objects.create(name="a")
"""


def reported(result: Result) -> list[str]:
    """List what was reported beside what has passed, with the class and the method of each."""
    found = re.findall(r"^(FAIL|ERROR): (\w+) \((?:\w+\.)*?(\w+)(?:\.\2)?\)$", result.stderr, re.M)
    return sorted(f"{kind} {test_class}.{name}" for kind, name, test_class in found)


@pytest.mark.parametrize(("mode", "method"), STARTS, ids=IDS)
def test_tests_that_take_too_long_fail(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """Whatever they wait for: they show their stacks, and what comes after them can go on."""
    project.tests(IMPORTS + SLOW)
    result = project.run(*mode, env={"START_METHOD": method})
    assert result.code == 1
    assert reported(result) == [
        "FAIL InTransaction.test_a_server",
        "FAIL InTransaction.test_b_rows",
        "FAIL Slow.test_a_sleeps",
        "FAIL Slow.test_b_lock",
        "FAIL Slow.test_c_server",
        "FAIL SlowSetUp.test_a_slow",
        "FAIL SlowTearDown.test_a_slow",
    ]
    assert "Ran 12 tests" in result.stderr
    assert result.stderr.count("TestTimeoutError: It took longer than 1 s. What its threads") == 7
    assert "in wait_in_the_second_thread" in result.stderr
    assert "_wait_and_exit" not in result.stderr
    assert not (project.folder / "never").exists()
    assert project.databases() == []


@pytest.mark.parametrize(("mode", "method"), STARTS[:2], ids=IDS[:2])
def test_async_tests_that_take_too_long_fail(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """Django's and unittest's; nobody waits for the coroutine."""
    project.tests(IMPORTS + ASYNC)
    result = project.run(*mode, env={"START_METHOD": method})
    assert result.code == 1
    assert reported(result) == ["FAIL Isolated.test_a_async", "FAIL Slow.test_a_sleeps"]
    assert "Ran 4 tests" in result.stderr
    assert not (project.folder / "never").exists()
    assert project.databases() == []


@pytest.mark.parametrize(("mode", "method"), STARTS[:2], ids=IDS[:2])
def test_fixtures_of_a_class_that_take_too_long_fail(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """As stock Django reports what goes wrong in them; the limit is that of their class."""
    project.tests(IMPORTS + FIXTURES)
    result = project.run(*mode, "--test-timeout", "5", env={"START_METHOD": method})
    assert result.code == 1
    assert reported(result) == ["ERROR SlowClass.setUpClass", "ERROR SlowEnd.tearDownClass"]
    assert result.stderr.count("TestTimeoutError: It took longer than 1 s.") == 2
    assert "Ran 1 test" in result.stderr
    assert not (project.folder / "never").exists()


@pytest.mark.parametrize(("mode", "method"), STARTS[:2], ids=IDS[:2])
def test_a_class_is_set_up_under_its_own_limit(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """That of the class before it is over."""
    project.tests(IMPORTS + LONG)
    project.run(*mode, env={"START_METHOD": method}).passed()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("what", ["swallow", "count"])
def test_a_worker_that_does_not_heed_a_limit_is_ended(
    project: Project, what: str, method: str
) -> None:
    """The test is reported once, with the stacks; the others of its class are run."""
    project.tests(IMPORTS + STUBBORN.replace("{}", what))
    result = project.run("--parallel", "2", env={"START_METHOD": method})
    assert result.code == 1
    assert [line.split()[1] for line in reported(result)] == ["Stubborn.test_b_stubborn"]
    assert "Ran 4 tests" in result.stderr
    assert f"in {what}" in result.stderr
    assert "in wait_in_the_second_thread" in result.stderr
    assert not (project.folder / "never").exists()
    assert project.databases() == []


@pytest.mark.parametrize("what", ["swallow", "count"])
def test_a_process_that_does_not_heed_a_limit_is_ended(project: Project, what: str) -> None:
    """Without workers that is the run, whose remains the next one removes."""
    project.tests(IMPORTS + STUBBORN.replace("{}", what))
    result = project.run()
    assert result.code == 1
    assert f"in {what}" in result.stderr
    assert "in wait_in_the_second_thread" in result.stderr
    assert not (project.folder / "never").exists()
    project.tests(IMPORTS + STUBBORN.replace("{}", "str"))
    project.run().passed()
    assert project.databases() == []
