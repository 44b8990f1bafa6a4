"""Signals that end a run: SIGTERM, SIGHUP and Ctrl-C, to its process and to all of them."""

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
# How the line begins and ends that says what a signal does.
FINISHING = {
    signal.SIGINT: ("\nFinishing ", "; press Ctrl-C again to stop now.\n"),
    signal.SIGTERM: ("\nSIGTERM: finishing ", "; a second signal stops now.\n"),
}
CLEANING = "\nCleaning up. Another Ctrl-C leaves the rest to the next run.\n"
MORE = """
    class C(TransactionTestCase):
        def test_c(self): pass
"""
# A mode, a start method, and whether signals are sent to the whole group of processes.
Way = tuple[Mode, str, bool]
WAYS = {
    "serial": (SERIAL, "fork", False),
    "process": (PARALLEL, "fork", False),
    # As a terminal sends Ctrl-C. Workers that were not forked have handlers of their own.
    "group": (PARALLEL, "fork", True),
    "group-spawn": (PARALLEL, "spawn", True),
    "group-forkserver": (PARALLEL, "forkserver", True),
}


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with two tests that wait, and one that comes after them."""
    project.tests(WAITING)
    project.tests(MORE, "test_more")
    return project


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_one_ends_the_run_after_the_tests_under_way(suite: Project, number: int, way: Way) -> None:
    """A line says so at once; they are reported, nothing else begins, and it is no success."""
    mode, method, to_group = way
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


def test_a_terminal_that_goes_away_ends_the_run_likewise(suite: Project) -> None:
    """SIGHUP comes to all processes; workers finish their tests, and all is dropped."""
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
def test_a_signal_while_the_database_is_dropped_waits(
    project: Project, number: int, to_group: bool
) -> None:
    """What is being dropped is dropped; the exit code tells of the signal."""
    project.tests(MORE)
    process = project.start()
    with project.maintenance() as connection:
        wait_for(lambda: project.databases() == [project.test_name], "the database")
        # The server waits 5 seconds for whoever is connected.
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
    """Whether the kernel has given a process all signals that were sent to it."""
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
def test_a_signal_while_a_worker_builds_a_database_leaves_no_half_of_it(
    project: Project, flags: Mode, to_group: bool
) -> None:
    """It is not marked ready before it is, and gone afterwards, also with --keepdb."""
    project.write("building.py", BUILDS)
    building = "migrations.RunPython(__import__('building').build)"
    project.migration("0002_build", "0001_initial", building)
    # Migrations that name `public` have workers migrate in a database of their own.
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


ALIKE = [([number] * 2, way) for number in FINISHING for way in WAYS]
FAILING = """
    class Failing(TestCase):
        def test_fails(self): self.fail("as planned")
"""


@pytest.mark.parametrize(
    ("numbers", "way"), [*ALIKE, ([signal.SIGINT, signal.SIGTERM], "group")], ids=str
)
def test_two_end_the_run_at_once(suite: Project, numbers: list[int], way: str) -> None:
    """Though tests never end, the run does: it shows what failed, and drops what it made.

    Ctrl-C and SIGTERM count together. What was going to be run again has failed.
    """
    mode, method, to_group = WAYS[way]
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


def test_ctrl_c_while_what_failed_is_run_again(project: Project) -> None:
    """All that failed has failed, and only what was run again is said to have been."""
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


def test_a_third_ctrl_c_ends_the_cleaning(suite: Project) -> None:
    """A line says what stays; the next run removes it."""
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
    assert f"Schema {schema} stays, for the next run to remove: interrupted\n" in result.stdout
    assert "Interrupted: 3 of 3 tests were not run.\nStopped (1): " in result.stdout
    assert "Removed what an earlier run left" in suite.run("library.test_more").passed().stdout


IMPORTED = """
    import multiprocessing
    if multiprocessing.parent_process() and os.environ["START_METHOD"] != "fork":
        record("imports")
        while not Path("go").exists():
            time.sleep(0.02)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ctrl_c_while_workers_start(suite: Project, method: str) -> None:
    """They import the project, and no traceback of that is shown."""
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


# The second dump, which is of a copy, waits.
SLOW_DUMP = """
    if test "$1" != --version && ! mkdir first 2>&-; then
        touch dumping
        while ! test -e go; do sleep 0.02; done
    fi
    exec {} "$@"
"""


def test_ctrl_c_is_not_for_pg_dump(suite: Project) -> None:
    """It may be at work beside the first tests; nothing is said to be wrong with it."""
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
def test_a_signal_while_tests_are_imported_ends_the_run(suite: Project, number: int) -> None:
    """Though unittest takes what an import raises for an error of the module, and goes on."""
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
def test_a_signal_while_migrating_ends_it_at_once(suite: Project, number: int, mode: Mode) -> None:
    """No test is under way: the build is broken off, and what it had made is dropped."""
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


def test_a_test_that_terminates_the_run_is_finished(project: Project) -> None:
    """Without workers the process is the run's."""
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
    # test_d and test_a have come before it.
    assert "Ran 3 tests" in result.stderr
    assert "OK" in result.stderr


@each_mode
def test_a_handler_of_the_project_s_own_stays(suite: Project, mode: Mode) -> None:
    """It is called, and decides what becomes of the run; at the second Ctrl-C, as in stock."""
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
def test_ctrl_c_in_a_debugger_is_for_the_debugger(project: Project, place: str) -> None:
    """It has another prompt, and the run goes on; the next test can be interrupted."""
    debugged = "class Debugged(SimpleTestCase):\n    def test_it(self): breakpoint()"
    project.tests(debugged if place == "test" else "")
    project.write("stops.py", "def stop(_):\n    breakpoint()\n")
    if place == "set-up":
        project.configure("SCHEMA_RUNNER = {'WORKER_SETUP': ['stops.stop']}")
    project.tests(WAITING, "test_next")
    process = project.start("library.test_generated", "library.test_next.B")
    read_until(process, "(Pdb) ", "stdout")
    # A signal just before it waits for what is typed is seen by Python only afterwards.
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
def test_a_process_that_a_test_starts_has_the_usual_handlers(project: Project, mode: Mode) -> None:
    """What is run by a test is ended by SIGTERM, and by Ctrl-C, as anything is."""
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
