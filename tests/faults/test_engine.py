"""Tests with which their worker dies: every test is reported exactly once, whatever happens."""

import os
import signal

import pytest

from ..observed import RECORDING, children, finish, is_asleep, recorded, run
from ..project import Project, wait_for

METHODS = ["fork", "spawn", "forkserver"]

# How a test may take its worker with it, and what is told of that.
DEATHS = {
    "Exit": ("os._exit(3)", "ended with exit code 3."),
    "ExitWithSuccess": ("os._exit(0)", "ended with exit code 0."),
    "Kill": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9 (SIGKILL)."),
    "Terminate": ("os.kill(os.getpid(), signal.SIGTERM)", "was killed by signal 15 (SIGTERM)."),
    "Segfault": ("ctypes.string_at(0)", "was killed by signal 11 (SIGSEGV)."),
    "Abort": ("os.abort()", "was killed by signal 6 (SIGABRT)."),
    "Interrupt": ("raise KeyboardInterrupt('from a test')", "KeyboardInterrupt: from a test"),
    "OfAThread": (
        "threading.Thread(target=os._exit, args=[4]).start(); time.sleep(60)",
        "ended with exit code 4.",
    ),
}
# What looks like a death and is an error as any other.
ERRORS = {
    "ExitByException": ("raise SystemExit(5)", "SystemExit: 5"),
    "Memory": ("allocate_too_much(self)", "MemoryError"),
}
DYING = """
    class {name}(Recording, {base}):
        def test_1_before(self):
            self.assertEqual(Author.objects.count(), 0)

        def test_2_dies(self):
            Author.objects.create(name="left behind")
            {statement}

        def test_3_after(self):
            self.assertEqual(Author.objects.count(), 0)


"""
ALLOCATING = """
    import resource


    def allocate_too_much(test):
        before = resource.getrlimit(resource.RLIMIT_AS)
        test.addCleanup(resource.setrlimit, resource.RLIMIT_AS, before)
        resource.setrlimit(resource.RLIMIT_AS, (2**32, before[1]))
        bytearray(2**33)


"""


def classes(ways: dict[str, tuple[str, str]]) -> str:
    """Return tests that die in these ways, with a TestCase and a TransactionTestCase in turns."""
    bases = ["TestCase", "TransactionTestCase"] * len(ways)
    return "".join(
        DYING.format(name=name, base=base, statement=statement)
        for (name, (statement, _)), base in zip(ways.items(), bases, strict=False)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_death_is_the_error_of_one_test(observed: Project, method: str) -> None:
    """It is told how the worker died; what its class has before and after passes."""
    observed.tests(RECORDING + ALLOCATING + classes(DEATHS | ERRORS))
    reported = run(observed, env={"START_METHOD": method})
    assert reported.result.code == 1
    expected = {}
    for name in DEATHS | ERRORS:
        outcome = "crashed" if name in DEATHS else "error"
        expected[f"test_generated.{name}.test_1_before"] = "passed"
        expected[f"test_generated.{name}.test_2_dies"] = outcome
        expected[f"test_generated.{name}.test_3_after"] = "passed"
    assert reported.outcomes == dict(sorted(expected.items()))
    assert reported.fixtures == {}
    for name, (_, told) in (DEATHS | ERRORS).items():
        assert told in reported.text(f"test_generated.{name}.test_2_dies")
        processes = [line["process"] for line in recorded(observed, f"setUpClass {name}")]
        assert len(processes) == len(set(processes)) == (2 if name in DEATHS else 1)
    number = len(DEATHS | ERRORS)
    assert f"Ran {3 * number} tests" in reported.result.stderr
    assert f"FAILED (errors={number})" in reported.result.stderr


def test_the_rest_of_a_class_runs_in_a_fresh_schema(observed: Project) -> None:
    """Whichever worker dies, what took its place has a new schema, and the old one is gone."""
    observed.tests(
        RECORDING
        + """
    class First(Recording, TransactionTestCase):
        def meet(self, what):
            Path(f"{what}-{type(self).__name__}").touch()
            wait_until(lambda: len(list(Path().glob(f"{what}-*"))) == 2)

        def test_1_dies(self):
            self.meet("dying")
            Author.objects.create(name="left behind")
            os._exit(3)

        def test_2_after(self):
            self.meet("after")
            self.assertEqual(Author.objects.count(), 0)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_w' ORDER BY 1"
                )
                record("schemas", all=[name for (name,) in cursor])


    class Second(First):
        pass
    """
    )
    reported = run(observed)
    assert reported.result.code == 1
    assert set(reported.outcomes.values()) == {"crashed", "passed"}
    old, new = (
        {
            line["schema"]: line["worker"]
            for name in ("First", "Second")
            for line in recorded(observed, f"test_generated.{name}.{test}")
        }
        for test in ("test_1_dies", "test_2_after")
    )
    assert sorted(old.values()) == sorted(new.values()) == [1, 2]
    assert not old.keys() & new.keys()
    # What worker 1 had first is what all the others are compared with: it stays.
    dropped = {schema for schema, worker in old.items() if worker != 1}
    for line in recorded(observed, "schemas"):
        assert set(new) <= set(line["all"])
        assert not dropped & set(line["all"])


def test_several_tests_of_a_class_die(observed: Project) -> None:
    """Each is told, and what lies between them passes."""
    observed.tests(
        RECORDING
        + """
    class Dying(Recording, TestCase):
        def test_1(self):
            os._exit(1)

        def test_2(self):
            os._exit(2)

        def test_3(self):
            pass

        def test_4(self):
            os._exit(4)


    class Other(Recording, TestCase):
        def test_it(self):
            pass
    """
    )
    reported = run(observed)
    assert reported.result.code == 1
    dying = [reported.outcomes[f"test_generated.Dying.test_{n}"] for n in range(1, 5)]
    assert dying == ["crashed", "crashed", "passed", "crashed"]
    assert reported.outcomes["test_generated.Other.test_it"] == "passed"
    for code in (1, 2, 4):
        told = reported.text(f"test_generated.Dying.test_{code}")
        assert f"ended with exit code {code}." in told
    assert len(recorded(observed, "setUpClass Dying")) == 3


def test_a_death_with_failfast_stops_the_run(observed: Project) -> None:
    """As any other error does."""
    observed.tests(RECORDING + classes({"Exit": DEATHS["Exit"], "Kill": DEATHS["Kill"]}))
    reported = run(observed, "--parallel", "2", "--failfast")
    assert reported.result.code == 1
    outcomes = reported.outcomes
    assert "crashed" in outcomes.values()
    assert len(outcomes) < 6


def test_the_death_of_an_idle_worker_loses_nothing(observed: Project) -> None:
    """Killed from outside while it waits for orders, it is told of, and the run passes."""
    observed.tests(
        RECORDING
        + """
    class Waiting(Recording, TestCase):
        def test_1_waits(self):
            wait_until(Path("go").exists)


    class Soon(Recording, TestCase):
        def test_it(self):
            wait_until(lambda: "Waiting.test_1_waits" in Path("recorded").read_text())


    def tearDownModule():
        record("over")
    """
    )
    process = observed.start("--parallel", "2")
    (idle,) = wait_for(lambda: recorded(observed, "over"), "one of the classes to be over")
    (waiting,) = recorded(observed, "test_generated.Waiting.test_1_waits")
    assert idle["process"] != waiting["process"]
    wait_for(lambda: is_asleep(idle["process"]), "its worker to wait for orders")
    os.kill(idle["process"], signal.SIGKILL)
    wait_for(lambda: len({*children(process.pid)} - {idle["process"]}) == 2, "another worker")
    (observed.folder / "go").touch()
    reported = finish(observed, process)
    assert reported.result.code == 0, reported.result.output
    assert set(reported.outcomes.values()) == {"passed"}
    told = f"Worker {idle['worker']} was killed by signal 9 (SIGKILL)."
    assert reported.result.stdout.count(told) == 1
