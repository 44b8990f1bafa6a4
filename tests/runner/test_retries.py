"""What failed is run again: alone, in a fresh process with a fresh schema."""

import json
import subprocess
import sys
from collections import defaultdict
from typing import Any

import pytest

from ..project import Project

STARTS = [
    pytest.param((), "fork", id="serial"),
    *[
        pytest.param(("--parallel", "2"), method, id=method)
        for method in ("fork", "spawn", "forkserver")
    ],
]
# Tests write down when they begin and end, where, and what they find in the database.
RECORDING = """
    import json
    import os
    import time
    from pathlib import Path

    import schema_runner


    def record(test, what):
        worker = schema_runner.current_worker()
        line = {
            "test": ".".join(test.id().split(".")[-2:]),
            "what": what,
            "process": os.getpid(),
            "worker": worker.number,
            "authors": Author.objects.count(),
        }
        with open("recorded", "a") as lines:
            lines.write(json.dumps(line) + "\\n")


    def times(name):
        with open(name, "a") as counted:
            counted.write(".")
        return Path(name).stat().st_size


    class Recording:
        def setUp(self):
            record(self, "begins")
            self.addCleanup(record, self, "ends")


"""
TESTS = (
    RECORDING
    + """
    class Passing(Recording, TransactionTestCase):
        def test_commits(self):
            Author.objects.create(name="left")
            connection.close()


    class ALeaving(Recording, TestCase):
        def test_leaves_what_is_not_reset(self):
            other = connections["default"].copy()
            with other.cursor() as cursor:
                cursor.execute("INSERT INTO library_author (name) VALUES ('stays')")
            other.close()


    class Failing(Recording, TestCase):
        def test_now_and_then(self):
            self.assertGreater(times("now-and-then"), 1, "at first")

        def test_only_here(self):
            pass

        @schema_runner.retries(3)
        def test_thrice(self):
            if times("thrice") < 4:
                raise ValueError("not yet")


    class Dying(Recording, TestCase):
        def test_dies(self):
            if times("dies") == 1:
                os._exit(7)

        @schema_runner.timeout(0.5)
        def test_sleeps(self):
            if times("sleeps") == 1:
                time.sleep(30)


    class Unset(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            if times("unset") == 1:
                raise RuntimeError("no set-up")
            super().setUpClass()

        def test_a(self):
            pass

        def test_b(self):
            self.assertGreater(times("b"), 1)
"""
)
RUNS = {
    "ALeaving.test_leaves_what_is_not_reset": 1,
    "Passing.test_commits": 1,
    "Failing.test_now_and_then": 2,
    "Failing.test_only_here": 1,
    "Failing.test_thrice": 4,
    "Dying.test_dies": 2,
    "Dying.test_sleeps": 2,
    "Unset.test_a": 1,
    "Unset.test_b": 2,
}
# Each of these fails, and would not the second time.
ONCE = (
    RECORDING
    + """
    class Failing(Recording, TestCase):
        def test_it(self):
            self.assertGreater(times("it"), 1, "at first")


    class Other(Recording, TestCase):
        def test_other(self):
            pass
"""
)


def recorded(project: Project) -> dict[str, list[dict[str, Any]]]:
    """Return what each test has written as it began, in order."""
    found = defaultdict(list)
    for line in (project.folder / "recorded").read_text().splitlines():
        values = json.loads(line)
        if values["what"] == "begins":
            found[values["test"]].append(values)
    return found


def line_of(output: str, beginning: str) -> str:
    (line,) = (line for line in output.splitlines() if line.startswith(beginning))
    return line.replace("library.test_generated.", "")


@pytest.mark.parametrize(("mode", "method"), STARTS)
def test_what_passes_when_run_again_is_flaky(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """Failures, deaths, time limits and set-ups of classes; each is told once, as passed."""
    project.tests(TESTS)
    result = project.run(*mode, "--retries", "2", env={"START_METHOD": method}).passed()
    assert f"Ran {len(RUNS)} tests" in result.stderr
    assert "Running again what failed, alone (5).\n" in result.stdout
    line = line_of(result.stdout, "Flaky: passed when run again (6): ")
    # One screen has not room for all the names there could be.
    assert line.endswith(" and 1 more")
    assert {test: len(begun) for test, begun in recorded(project).items()} == RUNS
    assert project.databases() == []


@pytest.mark.parametrize(("mode", "method"), STARTS)
def test_it_is_run_alone_in_a_fresh_process_with_a_fresh_schema(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """Whatever tests before have left; and as a worker of the same numbers."""
    project.tests(TESTS)
    project.run(*mode, "--retries", "3", env={"START_METHOD": method}).passed()
    first, *later = recorded(project)["Failing.test_thrice"]
    everything = [one for begun in recorded(project).values() for one in begun]
    assert len({one["process"] for one in [first, *later]}) == 4
    for one in later:
        assert one["authors"] == 0
        assert one["worker"] == 1
        sharing = [other for other in everything if other["process"] == one["process"]]
        assert sharing == [one]


@pytest.mark.parametrize("mode", [(), ("--parallel", "2")], ids=["serial", "parallel"])
def test_what_fails_each_time_has_failed(project: Project, mode: tuple[str, ...]) -> None:
    """It is told once, as it was at first, and named with how it went on."""
    project.tests(
        RECORDING
        + """
    class Failing(Recording, TestCase):
        def test_it(self):
            self.fail(f"time {times('it')}")


    class Unset(Recording, TestCase):
        @classmethod
        def setUpClass(cls):
            raise RuntimeError(f"set-up {times('unset')}")

        def test_never(self):
            pass


    class Dying(Recording, TestCase):
        def test_dies(self):
            os._exit(times("dies"))
    """
    )
    result = project.run(*mode, "--retries", "2")
    assert result.code == 1
    assert "FAILED (failures=1, errors=2)" in result.stderr
    assert result.stderr.count("AssertionError: time 1") == 1
    assert result.stderr.count("RuntimeError: set-up 1") == 1
    assert result.stderr.count("ended with exit code 1") == 1
    assert "time 2" not in result.stderr
    assert {name: (project.folder / name).stat().st_size for name in ("it", "unset", "dies")} == {
        "it": 3,
        "unset": 3,
        "dies": 3,
    }
    line = line_of(result.stdout, "Failed again when run again (3): ")
    assert "setUpClass (Unset)" in line
    assert "Flaky" not in result.stdout
    assert project.databases() == []


@pytest.mark.parametrize(
    ("setting", "options", "code"),
    [
        (None, [], 1),
        (1, [], 0),
        (1, ["--retries", "0"], 1),
        (None, ["--retries", "1"], 0),
        (None, ["--retries", "1", "--fail-on-flaky"], 1),
        (None, ["--retries", "1", "-v", "0"], 0),
    ],
)
@pytest.mark.parametrize("mode", [(), ("--parallel", "2")], ids=["serial", "parallel"])
def test_how_often_and_with_what_exit_code(
    project: Project, mode: tuple[str, ...], setting: int | None, options: list[str], code: int
) -> None:
    """The setting holds unless an option is given; flaky tests fail a run only if asked to."""
    project.tests(ONCE)
    if setting is not None:
        project.configure(f'SCHEMA_RUNNER = {{"RETRIES": {setting}}}')
    result = project.run(*mode, *options)
    assert result.code == code, result.output
    assert ("which fails the run" in result.stdout) == ("--fail-on-flaky" in options)
    is_told = "-v" not in options
    assert ("Set-up " in result.stdout) == is_told
    assert ("Flaky: " in result.stdout) == (
        is_told and len(recorded(project)["Failing.test_it"]) > 1
    )


def test_a_mark_wins_over_everything(project: Project) -> None:
    """That of a test over that of its class."""
    project.tests(
        RECORDING
        + """
    @schema_runner.retries(1)
    class Marked(Recording, TestCase):
        def test_once_more(self):
            self.assertGreater(times("more"), 1)

        @schema_runner.retries(0)
        def test_never_again(self):
            self.assertGreater(times("never"), 1, "once only")
    """
    )
    result = project.run("--retries", "5")
    assert result.code == 1
    assert "FAILED (failures=1)" in result.stderr
    assert {test: len(begun) for test, begun in recorded(project).items()} == {
        "Marked.test_once_more": 2,
        "Marked.test_never_again": 1,
    }


def test_what_fails_after_tests_is_not_run_again(project: Project) -> None:
    """The tests of its class have passed, and have each been run once."""
    project.tests(
        RECORDING
        + """
    class Torn(Recording, TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            raise RuntimeError("no tear-down")

        def test_it(self):
            pass
    """
    )
    result = project.run("--retries", "2")
    assert result.code == 1, result.output
    assert "Ran 1 test " in result.stderr
    assert result.stderr.count("RuntimeError: no tear-down") == 1
    assert len(recorded(project)["Torn.test_it"]) == 1


@pytest.mark.parametrize("options", [["--isolation", "database"], ["--keepdb"]], ids=" ".join)
@pytest.mark.parametrize("mode", [(), ("--parallel", "2")], ids=["serial", "parallel"])
def test_whatever_a_worker_has(
    project: Project, mode: tuple[str, ...], options: list[str]
) -> None:
    """A clone database is made anew as a schema is; a pool's schema is clean."""
    project.tests(TESTS)
    for _ in range(2):
        project.run(*mode, *options, "--retries", "2").passed()
        again = recorded(project)["Failing.test_now_and_then"][1]
        assert again["authors"] == 0
        for name in ("now-and-then", "thrice", "dies", "sleeps", "unset", "b", "recorded"):
            (project.folder / name).unlink()
    project.run(*mode, "-k", "only_here").passed()
    assert [name for name in project.databases() if "--keepdb" not in options] == []


def test_in_the_projects_own_database(project: Project) -> None:
    """Nothing stays there."""
    project.create_database()
    project.tests(TESTS)
    project.run("--parallel", "2", "--host-database", "current", "--retries", "2").passed()
    with project.host(project.name) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'")
        assert found.fetchall() == []
    project.drop_database()


def test_a_debugger_can_be_typed_into(project: Project) -> None:
    """The one worker of a serial run that may run something again has what is typed in."""
    project.tests(
        "class Stopping(TestCase):\n    def test_it(self):\n"
        "        breakpoint()\n        Author.objects.create(name='made')\n"
    )
    result = project.run("--retries", "1", stdin="p 40 + 2\nc\n").passed()
    assert "(Pdb) 42" in result.stdout


def test_a_run_without_anything_to_type_into(project: Project) -> None:
    """As one that cron starts, or a service: its standard input may be closed."""
    project.tests(ONCE)
    done = subprocess.run(
        f"{sys.executable} manage.py test --retries 1 <&-",
        cwd=project.folder,
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Flaky" in done.stdout
    assert project.databases() == [], done.stdout + done.stderr


def test_failfast_waits_for_what_may_pass(project: Project) -> None:
    """Only what fails again is a failure."""
    project.tests(ONCE)
    result = project.run("--retries", "1", "--failfast").passed()
    assert "Ran 2 tests" in result.stderr


@pytest.mark.parametrize("value", ["-1", "x", "1.5"])
def test_a_wrong_number_is_one_error(project: Project, value: str) -> None:
    """Before anything is made."""
    result = project.run(f"--retries={value}")
    assert result.code == 2
    assert f"'{value}' is not a whole number, 0 or more" in result.stderr
