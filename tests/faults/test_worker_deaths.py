"""Tests that kill their worker: every test is reported exactly once."""

import os
import signal

import pytest

from ..observed import OTHER, children, finish, is_asleep, run
from ..project import METHODS, PARALLEL, Project, wait_for

# Statements that end a worker, and the message that reports its end.
KILL, TERMINATE = (f"os.kill(os.getpid(), signal.SIG{name})" for name in ("KILL", "TERM"))
IN_THREAD = "threading.Thread(target=os._exit, args=[4]).start(); time.sleep(60)"
DEATHS = {
    "Exit": ("os._exit(3)", "ended with exit code 3."),
    "ExitWithSuccess": ("os._exit(0)", "ended with exit code 0."),
    "Kill": (KILL, "was killed by signal 9 (SIGKILL)."),
    "Terminate": (TERMINATE, "was killed by signal 15 (SIGTERM)."),
    "TerminateAndStay": (f"{TERMINATE}; time.sleep(600)", "was killed by signal 15 (SIGTERM)."),
    "Segfault": ("ctypes.string_at(0)", "was killed by signal 11 (SIGSEGV)."),
    "Abort": ("os.abort()", "was killed by signal 6 (SIGABRT)."),
    "Interrupt": ("raise KeyboardInterrupt('from a test')", "KeyboardInterrupt: from a test"),
    "OfAThread": (IN_THREAD, "ended with exit code 4."),
}
# Errors that look like a death, but leave the worker alive.
ERRORS = {
    "ExitByException": ("raise SystemExit(5)", "SystemExit: 5"),
    "Memory": ("allocate_too_much(self)", "MemoryError"),
}
DYING = """
    class {name}(Recording, {base}):
        def test_1_before(self): self.assertEqual(Author.objects.count(), 0)
        def test_2_dies(self):
            Author.objects.create(name="left behind")
            {statement}
        def test_3_after(self): self.assertEqual(Author.objects.count(), 0)

"""
ALLOCATING = """
    import ctypes
    import resource

    def allocate_too_much(test):
        before = resource.getrlimit(resource.RLIMIT_AS)
        test.addCleanup(resource.setrlimit, resource.RLIMIT_AS, before)
        resource.setrlimit(resource.RLIMIT_AS, (2**32, before[1]))
        bytearray(2**33)

"""


def classes(ways: dict[str, tuple[str, str]]) -> str:
    """Return a class for each of these deaths, a TestCase and a TransactionTestCase in turn."""
    bases = ["TestCase", "TransactionTestCase"] * len(ways)
    return ALLOCATING + "".join(
        DYING.format(name=name, base=base, statement=statement)
        for (name, (statement, _)), base in zip(ways.items(), bases, strict=False)
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_death_of_a_worker_is_the_error_of_one_test(observed: Project, method: str) -> None:
    """The error says how the worker died. The other tests of the class pass."""
    # With the other start methods, the deaths that are left out are handled by the same code.
    deaths = [*DEATHS] if method == "fork" else ["Exit", "Kill", "TerminateAndStay", "Interrupt"]
    ways = {name: way for name, way in (DEATHS | ERRORS).items() if name in {*deaths, *ERRORS}}
    reported = run(observed, classes(ways), method=method)
    ends = ["crashed" if name in deaths else "error" for name in sorted(ways)]
    expected = [outcome for end in ends for outcome in ("passed", end, "passed")]
    assert list(reported.outcomes.values()) == expected
    assert reported.fixtures == {}
    for name, (_, message) in ways.items():
        assert message in reported.text(f"{name}.test_2_dies")
        processes = reported.processes("sets up", name)
        assert len(processes) == len(set(processes)) == (2 if name in deaths else 1)
    assert f"Ran {3 * len(ways)} tests" in reported.result.stderr
    assert f"FAILED (errors={len(ways)})" in reported.result.stderr


def test_the_rest_of_a_class_runs_in_a_fresh_schema(observed: Project) -> None:
    """The replacement of a dead worker gets a new schema, and the old schema is dropped."""
    text = """
    class First(Recording, TransactionTestCase):
        def test_1_dies(self):
            meet("dying", 2)
            Author.objects.create(name="left behind")
            os._exit(3)
        def test_2_after(self):
            meet("after", 2)
            self.assertEqual(Author.objects.count(), 0)
            rows = query("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_w' ORDER BY 1")
            record("schemas", all=[name for (name,) in rows])
    class Second(First): pass
    """
    reported = run(observed, text)
    assert set(reported.outcomes.values()) == {"crashed", "passed"}
    begun = observed.records("begins")
    old, new = (
        {line["schema"]: line["worker"] for line in begun if line["test"] == test}
        for test in ("test_1_dies", "test_2_after")
    )
    assert sorted(old.values()) == sorted(new.values()) == [1, 2]
    assert not old.keys() & new.keys()
    # The first schema of worker 1 stays, because the copies are compared with it.
    dropped = {schema for schema, worker in old.items() if worker != 1}
    for line in observed.records("schemas"):
        assert set(new) <= set(line["all"])
        assert not dropped & set(line["all"])


def test_several_tests_of_a_class_die(observed: Project) -> None:
    """Each test gets its own cause of death, although pipes close before exit codes are known."""
    text = f"""
    class Dying(Recording, TestCase): pass
    for n in range(1, 7):
        setattr(Dying, f"test_{{n}}_exits", lambda self, n=n: os._exit(n))
        setattr(Dying, f"test_{{n}}_is_killed", lambda self: {KILL})
        setattr(Dying, f"test_{{n}}_passes", lambda self: None)
    """
    reported = run(observed, text + OTHER)
    outcomes = list(reported.outcomes.values())
    assert outcomes == ["crashed", "crashed", "passed"] * 6 + ["passed"]
    for n in range(1, 7):
        assert f"ended with exit code {n}." in reported.text(f"Dying.test_{n}_exits")
        assert DEATHS["Kill"][1] in reported.text(f"Dying.test_{n}_is_killed")
    assert len(reported.processes("sets up", "Dying")) == 13
    assert "Ran 19 tests" in reported.result.stderr


def test_a_death_with_failfast_stops_the_run(observed: Project) -> None:
    """A dead worker counts as an error for --failfast."""
    text = classes({"Exit": DEATHS["Exit"], "Kill": DEATHS["Kill"]})
    outcomes = run(observed, text, "--failfast").outcomes
    assert "crashed" in outcomes.values()
    assert len(outcomes) < 6


def test_the_death_of_an_idle_worker_loses_nothing(observed: Project) -> None:
    """A worker that is killed while it is idle is reported, and the run passes."""
    tests = """
        class Waiting(Recording, TestCase):
            def test_1_waits(self):
                record("waits")
                Path("waits").touch()
                wait_for("go")

        class Soon(Recording, TestCase):
            def test_it(self): wait_for("waits")

        def tearDownModule(): record("over")
    """
    observed.tests(tests)
    process = observed.start(*PARALLEL)
    (idle,) = wait_for(lambda: observed.records("over"), "one of the classes to be over")
    (waiting,) = observed.records("waits")
    assert idle["process"] != waiting["process"]
    wait_for(lambda: is_asleep(idle["process"]), "its worker to wait for orders")
    os.kill(idle["process"], signal.SIGKILL)
    wait_for(lambda: len({*children(process.pid)} - {idle["process"]}) == 2, "another worker")
    (observed.folder / "go").touch()
    reported = finish(observed, process)
    reported.result.passed()
    assert set(reported.outcomes.values()) == {"passed"}
    told = f"Worker {idle['worker']} was killed by signal 9 (SIGKILL)."
    assert reported.result.stdout.count(told) == 1
