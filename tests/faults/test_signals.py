"""SIGTERM, SIGHUP and Ctrl-C, sent to the main process or to the process group."""

import re
import signal
from contextlib import closing
from functools import partial
from pathlib import Path
from textwrap import dedent

import django
import pytest

from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.server import Connection

from ..observed import is_asleep
from ..project import PARALLEL, SERIAL, Mode, Process, Project, each_mode, outcome, wait_for
from ..runner.test_template import use_script
from .waiting import WAITING, end, is_running, read_until, send, wait_for_end, waiting

TERMINATED = 128 + signal.SIGTERM
# The beginning and end of the line that a first signal prints.
FINISHING = {
    signal.SIGINT: ("\nFinishing ", "; press Ctrl-C again to stop now.\n"),
    signal.SIGTERM: ("\nSIGTERM: finishing ", "; a second signal stops now.\n"),
}
CLEANING = "\nCleaning up. Another Ctrl-C leaves the rest to the next run.\n"
MORE = """
    class C(TransactionTestCase):
        def test_c(self): pass
"""
# Mode, start method, and whether signals go to the process group.
SignalCase = tuple[Mode, str, bool]
SIGNAL_CASES = {
    "serial": (SERIAL, "fork", False),
    "process": (PARALLEL, "fork", False),
    # A terminal sends Ctrl-C to the group. Workers that are not forked install their own handlers.
    "group": (PARALLEL, "fork", True),
    "group-spawn": (PARALLEL, "spawn", True),
    "group-forkserver": (PARALLEL, "forkserver", True),
}


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with two tests that block, and one that runs after them."""
    project.tests(WAITING)
    project.tests(MORE, "test_more")
    return project


@pytest.mark.parametrize("case", SIGNAL_CASES.values(), ids=SIGNAL_CASES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_one_signal_ends_the_run_after_its_running_tests(
    suite: Project, number: int, case: SignalCase
) -> None:
    """Running tests finish and are reported, no other test starts, and the exit code says so."""
    mode, method, to_group = case
    process = suite.start(*mode, env={"START_METHOD": method})
    workers = waiting(suite, 2 if mode else 1)
    send(process, number, to_group=to_group)
    begins, ends = FINISHING[signal.Signals(number)]
    tests = "2 tests" if mode else "1 test"
    read_until(process, f"{begins}{tests}{ends}")
    result = end(suite, process)
    assert result.code == 128 + number, result.output
    assert result.stderr.startswith("." * len(workers))
    assert f"Ran {tests} in" in result.stderr
    assert "OK" in result.stderr
    assert (
        f"Interrupted: {'2 of 3 tests were' if len(workers) == 1 else '1 of 3 tests was'} not run."
        in result.stdout
    )
    assert "Stopped" not in result.output
    assert "Traceback" not in result.stderr
    wait_for_end([*workers])


def test_sighup_ends_the_run_after_its_running_tests(suite: Project) -> None:
    """SIGHUP reaches all processes. Workers finish their tests, and everything is dropped."""
    process = suite.start(*PARALLEL)
    workers = waiting(suite, 2)
    send(process, signal.SIGHUP, to_group=True)
    result = end(suite, process)
    assert result.code == 128 + signal.SIGHUP, result.output
    assert "Interrupted: 1 of 3 tests was not run." in result.stdout
    assert "crashed" not in result.output.lower()
    wait_for_end([*workers])


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=str)
def test_a_signal_while_dropping_the_database_is_delayed(
    project: Project, number: int, to_group: bool
) -> None:
    """The drop is completed before the run exits with the code of the signal."""
    project.tests(MORE)
    process = project.start()
    with project.maintenance() as connection:
        wait_for(lambda: project.databases() == [project.test_name], "the database")
        # DROP DATABASE waits up to 5 seconds for other sessions to end.
        with closing(wait_for(lambda: _connected(project), "a connection")):
            wait_for(lambda: _is_dropping(connection, project), "the database to be dropped")
            send(process, number, to_group=to_group)
            wait_for(lambda: _has_no_signal(process.pid), "the signal to be handled")
    result = outcome(process)
    assert result.code == 128 + number, result.output
    assert "Interrupted after all tests had run." in result.stdout
    assert (CLEANING in result.stderr) is (number == signal.SIGINT)
    assert "stays" not in result.output
    assert project.databases() == []


def _connected(project: Project) -> Connection | None:
    try:
        return project.host()
    except SchemaRunnerError:
        return None


def _is_dropping(connection: Connection, project: Project) -> bool:
    rows = connection.execute(
        "SELECT FROM pg_stat_activity WHERE state = 'active' AND query = %s",
        [f'DROP DATABASE IF EXISTS "{project.test_name}"'],
    )
    return bool(rows.fetchall())


def _has_no_signal(process: int) -> bool:
    """Whether the process has no pending signals."""
    status = Path(f"/proc/{process}/status").read_text()
    (pending,) = re.findall(r"^ShdPnd:\s*(\w+)$", status, re.M)
    return int(pending, 16) == 0


BUILDS = """
    import multiprocessing
    from helpers import *

    def build(apps, editor):
        editor.execute("CREATE TABLE public.legacy ()")
        if os.environ.get("SLOW") and multiprocessing.parent_process():
            editor.execute("SELECT pg_sleep(600) /* building */")
"""


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("flags", [(), ("--keepdb",)], ids=["plain", "keepdb"])
def test_a_signal_while_a_worker_builds_a_database_drops_it(
    project: Project, flags: Mode, to_group: bool
) -> None:
    """The database is marked as building until it is complete, and dropped afterwards."""
    project.write("building.py", BUILDS)
    building = "migrations.RunPython(__import__('building').build)"
    project.migration("0002_build", "0001_initial", building)
    # With STRATEGY "migrate", migrations that name `public` make workers migrate a clone database.
    project.configure("SCHEMA_RUNNER = {'STRATEGY': 'migrate'}")
    project.tests(WAITING)
    project.tests(MORE, "test_more")
    process = project.start(*PARALLEL, *flags, env={"SLOW": "1"})
    spare = f"{project.test_name}_0"
    with project.maintenance() as connection:
        query = "SELECT FROM pg_stat_activity WHERE datname = %s AND strpos(query, %s) > 0"
        values = [spare, "/* building */"]
        wait_for(lambda: connection.execute(query, values).fetchall(), "the migration")
        ((comment,),) = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            [spare],
        )
    assert Marker.parse(comment).state is MarkerState.BUILDING
    waiting(project, 1)
    send(process, signal.SIGTERM, to_group=to_group)
    result = end(project, process)
    assert result.code == TERMINATED, result.output
    assert "Interrupted: 2 of 3 tests were not run." in result.stdout
    assert project.databases() == ([project.test_name] if flags else [])
    if flags:
        project.run("library.test_more").passed()


ALIKE = [([number] * 2, case) for number in FINISHING for case in SIGNAL_CASES]
FAILING = """
    class Failing(TestCase):
        def test_fails(self): self.fail("as planned")
"""


@pytest.mark.parametrize(
    ("numbers", "case"), [*ALIKE, ([signal.SIGINT, signal.SIGTERM], "group")], ids=str
)
def test_two_signals_end_the_run_at_once(suite: Project, numbers: list[int], case: str) -> None:
    """A second signal stops the run, which reports failures and drops its databases.

    Ctrl-C and SIGTERM count together. Tests that wait for a retry are reported as failed.
    """
    mode, method, to_group = SIGNAL_CASES[case]
    suite.tests(FAILING, "test_failing")
    retries = ("--retries", "1") if mode else ()
    labels = ("library.test_failing", "library.test_generated", "library.test_more")
    process = suite.start(*mode, *retries, *labels, env={"START_METHOD": method})
    workers = waiting(suite, 2 if mode else 1)
    first, last = numbers
    send(process, first, to_group=to_group)
    said = read_until(process, FINISHING[signal.Signals(first)][1])
    assert "Traceback" not in said, said
    send(process, last, to_group=to_group)
    result = outcome(process)
    assert result.code == 128 + last, result.output
    assert "AssertionError: as planned" in result.stderr
    assert "FAILED (failures=1)" in result.stderr
    assert result.stderr.count("Traceback") == 1, result.stderr
    assert "Ran 1 test in" in result.stderr
    assert "Interrupted: 3 of 4 tests were not run." in result.stdout
    assert f"Stopped ({len(workers)}): library.test_generated." in result.stdout
    wait_for_end([*workers])
    assert suite.databases() == []


FAILING_AGAIN = """
    class Failing(TestCase):
        def test_a(self):
            record("runs")
            if len(Path("recorded").read_text().splitlines()) > 1:
                while not Path("go").exists():
                    time.sleep(0.02)
            self.fail("as planned")
        def test_b(self): self.fail("likewise")
"""


def test_ctrl_c_during_retries(project: Project) -> None:
    """All failures are reported, and only tests that were retried are listed as retried."""
    project.tests(FAILING_AGAIN)
    process = project.start("--retries", "1")
    wait_for(lambda: len(project.records("runs")) == 2, "the second run of a test")
    send(process, signal.SIGINT, to_group=True)
    read_until(process, "\nFinishing 1 test; press Ctrl-C again to stop now.\n")
    result = end(project, process)
    assert result.code == 128 + signal.SIGINT, result.output
    assert "FAILED (failures=2)" in result.stderr
    assert "Interrupted after all tests had run." in result.stdout
    assert "Failed all retries (1): library.test_generated.Failing.test_a" in result.stdout


def test_a_third_ctrl_c_aborts_the_tear_down(suite: Project) -> None:
    """The third Ctrl-C aborts the tear-down and names what is left. The next run drops it."""
    process = suite.start()
    (schema,) = waiting(suite, 1).values()
    with suite.host() as other:
        other.autocommit = False
        other.execute(f'LOCK TABLE "{schema}".library_book IN ACCESS SHARE MODE')
        for text in (FINISHING[signal.SIGINT][1], CLEANING):
            send(process, signal.SIGINT, to_group=True)
            read_until(process, text)
        with suite.maintenance() as connection:
            wait_for(lambda: is_running(connection, suite, "DROP "), "the cleaning")
        send(process, signal.SIGINT, to_group=True)
        result = outcome(process)
    assert result.code == 128 + signal.SIGINT
    assert "Traceback" not in result.stderr
    assert f"Schema {schema} is left for the next run to remove: interrupted\n" in result.stdout
    assert "Interrupted: 3 of 3 tests were not run.\nStopped (1): " in result.stdout
    assert "Removed leftovers of an earlier run" in suite.run("library.test_more").passed().stdout


IMPORTED = """
    import multiprocessing
    if multiprocessing.parent_process() and os.environ["START_METHOD"] != "fork":
        record("imports")
        while not Path("go").exists():
            time.sleep(0.02)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ctrl_c_while_workers_start(suite: Project, method: str) -> None:
    """No traceback of the project's imports is shown."""
    if method == "forkserver" and django.VERSION < (6, 0):
        pytest.skip("with this Django the runner forks")
    suite.write("slow.py", "from helpers import *\n" + dedent(IMPORTED))
    suite.configure("import slow")
    process = suite.start(*PARALLEL, env={"START_METHOD": method})
    wait_for(lambda: len(suite.records("imports")) == 2, "workers to import")
    send(process, signal.SIGINT, to_group=True)
    said = read_until(process, "\nFinishing; press Ctrl-C again to stop now.\n")
    result = end(suite, process)
    assert result.code == 128 + signal.SIGINT, result.output
    said += result.stderr
    assert "Traceback" not in said, said
    assert "Interrupted: 3 of 3 tests were not run." in result.stdout


# The second dump, which is of the first copy, blocks.
SLOW_DUMP = """
    if test "$1" != --version && ! mkdir first 2>&-; then
        touch dumping
        while ! test -e go; do sleep 0.02; done
    fi
    exec {} "$@"
"""


def test_ctrl_c_does_not_reach_pg_dump(suite: Project) -> None:
    """pg_dump ignores Ctrl-C, so the comparison of the first copy succeeds."""
    with suite.maintenance() as connection:
        real = PgDump.find(connection.info.server_version).path
    suite.configure("SCHEMA_RUNNER = {}")
    use_script(suite, dedent(SLOW_DUMP).format(real))
    process = suite.start(*PARALLEL)
    waiting(suite, 1)
    wait_for((suite.folder / "dumping").exists, "the second dump")
    send(process, signal.SIGINT, to_group=True)
    read_until(process, "\nFinishing 1 test; press Ctrl-C again to stop now.\n")
    result = end(suite, process)
    assert result.code == 128 + signal.SIGINT, result.output
    assert "pg_dump" not in result.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_discovery_ends_the_run(suite: Project, number: int) -> None:
    """The run stops, although unittest turns exceptions during imports into failed tests."""
    for module in ("test_late", "test_slow"):
        suite.tests("record('imports')\ntime.sleep(600)", module)
    process = suite.start(*PARALLEL)
    wait_for(lambda: suite.records("imports"), "the import")
    send(process, number, to_group=True)
    result = outcome(process)
    assert result.code == 128 + number, result.output
    assert result.stdout == "Interrupted: no tests were run.\n"
    assert "Traceback" not in result.stderr
    assert len(suite.records("imports")) == 1


@pytest.mark.parametrize(
    ("number", "mode"),
    [(signal.SIGTERM, SERIAL), (signal.SIGTERM, PARALLEL), (signal.SIGINT, SERIAL)],
)
def test_a_signal_during_migrations_ends_the_run_at_once(
    suite: Project, number: int, mode: Mode
) -> None:
    """No test is running, so the build is aborted and what it created is dropped."""
    slow = "migrations.RunSQL('SELECT pg_sleep(600) /* migrating */')"
    suite.migration("0002_slow", "0001_initial", slow)
    process = suite.start(*mode)
    with suite.maintenance() as connection:
        wait_for(lambda: is_running(connection, suite, "migrating"), "the migration")
    send(process, number, to_group=number == signal.SIGINT)
    result = outcome(process)
    assert result.code == 128 + number, result.output
    key = "Another Ctrl-C" if number == signal.SIGINT else "Ctrl-C"
    assert f"Cleaning up. {key} leaves the rest to the next run.\n" in result.stderr
    assert "Interrupted: 3 of 3 tests were not run." in result.stdout
    assert "Traceback" not in result.stderr
    assert suite.databases() == []


def test_a_test_that_sends_sigterm_to_its_run_finishes(project: Project) -> None:
    """Without workers, the test's process is the main process."""
    tests = """
        class Killing(TestCase):
            def test_a(self): Author.objects.create(name="a")
            def test_b_kills(self): os.kill(os.getpid(), signal.SIGTERM)
            def test_c(self): Author.objects.create(name="a")

        class Beside(TestCase):
            def test_d(self): pass
    """
    project.tests(tests)
    result = project.run()
    assert result.code == TERMINATED
    # test_d and test_a ran before it.
    assert "Ran 3 tests" in result.stderr
    assert "OK" in result.stderr


@each_mode
def test_signal_handlers_of_the_project_are_kept(suite: Project, mode: Mode) -> None:
    """The project's handler replaces the runner's. A second Ctrl-C acts as in stock Django."""
    settings = """
        import signal
        from pathlib import Path

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: Path(f"handled-{number}").touch())
    """
    suite.configure(settings)
    for number, ran in [(signal.SIGTERM, "Ran 3 tests"), (signal.SIGINT, "Ran ")]:
        (suite.folder / "go").unlink(missing_ok=True)
        suite.forget()
        process = suite.start(*mode)
        waiting(suite, 2 if mode else 1)
        wait_for(partial(_is_handled, suite, process, number), "the handler")
        assert ran in end(suite, process).passed().stderr


def _is_handled(suite: Project, process: Process, number: int) -> bool:
    """Send a signal; return whether the project's own handler was called."""
    send(process, number, to_group=False)
    return (suite.folder / f"handled-{number}").exists()


@pytest.mark.parametrize("place", ["test", "set-up"])
def test_ctrl_c_in_a_debugger_does_not_end_the_run(project: Project, place: str) -> None:
    """The debugger prompts again and the run goes on. The next test can be interrupted."""
    debugged = "class Debugged(SimpleTestCase):\n    def test_it(self): breakpoint()"
    project.tests(debugged if place == "test" else "")
    project.write("stops.py", "def stop(_):\n    breakpoint()\n")
    if place == "set-up":
        project.configure("SCHEMA_RUNNER = {'WORKER_SETUP': ['stops.stop']}")
    project.tests(WAITING, "test_next")
    process = project.start("library.test_generated", "library.test_next.B")
    read_until(process, "(Pdb) ", "stdout")
    # If the signal arrives just before pdb reads its input, Python handles it only after a line.
    wait_for(lambda: is_asleep(process.pid), "input to be awaited")
    send(process, signal.SIGINT, to_group=True)
    read_until(process, "--KeyboardInterrupt--", "stdout")
    assert process.stdin
    process.stdin.write("continue\n")
    process.stdin.flush()
    waiting(project, 1)
    send(process, signal.SIGINT, to_group=True)
    said = read_until(process, "\nFinishing 1 test; press Ctrl-C again to stop now.\n")
    assert said.count("Finishing") == 1
    result = end(project, process)
    assert result.code == 128 + signal.SIGINT, result.output
    assert "OK" in result.stderr


@each_mode
def test_subprocesses_of_tests_have_default_signal_handlers(project: Project, mode: Mode) -> None:
    """Subprocesses of tests are ended by SIGTERM and by Ctrl-C."""
    tests = """
        import subprocess

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
        class Beside(Starting): pass
    """
    project.tests(tests)
    project.run(*mode).passed()
