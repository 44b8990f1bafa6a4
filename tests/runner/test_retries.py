"""--retries: failed tests run again, alone, in a new process with a new schema."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from ..project import PARALLEL, Mode, Project, each_mode, each_start

# Tests record their start, and the number of rows they find.
SEEING = """
    class Seeing:
        def setUp(self):
            test = f"{type(self).__name__}.{self._testMethodName}"
            record("begins", test=test, authors=Author.objects.count())

"""
TESTS = f"""{SEEING}
    class Passing(Seeing, TransactionTestCase):
        def test_commits(self):
            Author.objects.create(name="left")
            connection.close()

    class ALeaving(Seeing, TestCase):
        def test_leaves_what_is_not_reset(self):
            other = connection.copy()
            with other.cursor() as cursor:
                cursor.execute("INSERT INTO library_author (name) VALUES ('stays')")
            other.close()

    class Failing(Seeing, TestCase):
        def test_now_and_then(self): self.assertGreater(times("now-and-then"), 1, "at first")
        def test_only_here(self): pass
        @schema_runner.retries(3)
        def test_thrice(self):
            if times("thrice") < 4: raise ValueError("not yet")

    class Dying(Seeing, TestCase):
        def test_dies(self):
            if times("dies") == 1: os._exit(7)
        @schema_runner.timeout(0.5)
        def test_sleeps(self):
            if times("sleeps") == 1: time.sleep(30)

    class Unset(Seeing, TestCase):
        @classmethod
        def setUpClass(cls):
            if times("unset") == 1: raise RuntimeError("no set-up")
            super().setUpClass()
        def test_a(self): pass
        def test_b(self): self.assertGreater(times("b"), 1)
"""
COUNTED = ("now-and-then", "thrice", "dies", "sleeps", "unset", "b")
RUNS = {
    **dict.fromkeys(["ALeaving.test_leaves_what_is_not_reset", "Passing.test_commits"], 1),
    **dict.fromkeys(["Failing.test_only_here", "Unset.test_a"], 1),
    **dict.fromkeys(["Failing.test_now_and_then", "Unset.test_b"], 2),
    **dict.fromkeys(["Dying.test_dies", "Dying.test_sleeps"], 2),
    "Failing.test_thrice": 4,
}
FLAKY = {
    "test_now_and_then (Failing.test_now_and_then)": "AssertionError: 1 not greater than 1 : at f",
    "test_thrice (Failing.test_thrice)": "ValueError: not yet",
    "test_dies (Dying.test_dies)": " ended with exit code 7",
    "test_sleeps (Dying.test_sleeps)": "Timed out after 0.5 s.",
    "setUpClass (Unset)": "RuntimeError: no set-up",
    "test_b (Unset.test_b)": "AssertionError: 1 not greater than 1",
}
# A test that fails once, and another test.
ONCE = f"""{SEEING}
    class Failing(Seeing, TestCase):
        def test_it(self): self.assertGreater(times("it"), 1, "at first")

    class Other(TestCase):
        def test_other(self): pass
"""
# Tests that fail every time.
ALWAYS = f"""{SEEING}
    class Failing(Seeing, TestCase):
        def test_it(self): self.fail(f"time {{times('it')}}")

    class Unset(Seeing, TestCase):
        @classmethod
        def setUpClass(cls): raise RuntimeError(f"set-up {{times('unset')}}")
        def test_never(self): pass

    class Dying(Seeing, TestCase):
        def test_dies(self): os._exit(times("dies"))

    # The decorator overrides the option, and that of a test overrides that of its class.
    @schema_runner.retries(1)
    class Marked(Seeing, TestCase):
        def test_once_more(self): self.fail()
        @schema_runner.retries(0)
        def test_never_again(self): self.fail()

    # Its test has passed, so it is not retried.
    class Torn(Seeing, TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            raise RuntimeError("no tear-down")
        def test_it(self): pass
"""


def counts(project: Project) -> dict[str, int]:
    """Count how often each test started."""
    return Counter(one["test"] for one in project.records("begins"))


def line_of(output: str, beginning: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith(beginning)]
    return line.replace("library.test_generated.", "")


@each_start
def test_tests_that_pass_when_run_again_are_flaky(
    project: Project, mode: Mode, method: str
) -> None:
    """Failures, deaths, timeouts and failed class set-ups. Each is reported once, as passed."""
    project.tests(TESTS)
    result = project.run(*mode, "--retries", "2", env={"START_METHOD": method})
    result.passed(f"Ran {len(RUNS)} tests")
    assert "Retrying 5 failures, each alone.\n" in result.stdout
    # The retries' progress has a line of its own.
    assert len(re.findall(r"(?m)^[.s]+$", result.stderr)) == 2
    # Flaky tests show their first failure, before the failed tests.
    shown = result.stderr.partition("\nRan ")[0].split("=" * 70 + "\n")[1:]
    assert len(shown) == 6
    texts = dict(part.replace("library.test_generated.", "").split("\n", 1) for part in shown)
    for name, text in FLAKY.items():
        assert text in texts[f"FLAKY: {name}"]
        assert "\nPassed on a retry. First failure:\n" in texts[f"FLAKY: {name}"]
    line = line_of(result.stdout, "Flaky: passed on a retry (6): ")
    # The list of names is shortened.
    assert line.endswith(" and 1 more")
    assert counts(project) == RUNS
    assert project.databases() == []
    # Each retry runs in a new process with a new schema.
    everything = project.records("begins")
    first, *later = [one for one in everything if one["test"] == "Failing.test_thrice"]
    assert len({one["process"] for one in [first, *later]}) == 4
    for one in later:
        assert one["authors"] == 0
        assert one["worker"] == 1
        assert [other for other in everything if other["process"] == one["process"]] == [one]


@each_mode
def test_tests_that_fail_each_time_have_failed(project: Project, mode: Mode) -> None:
    """The first failure is reported once, and a line lists the tests that failed again."""
    project.tests(ALWAYS)
    result = project.run(*mode, "--retries", "2").failed("FAILED (failures=3, errors=3)")
    told = ("AssertionError: time 1", "RuntimeError: set-up 1", "ended with exit code 1")
    for text in (*told, "RuntimeError: no tear-down"):
        assert result.stderr.count(text) == 1
    assert "time 2" not in result.stderr
    assert (project.folder / "unset").stat().st_size == 3
    assert counts(project) == {
        "Failing.test_it": 3,
        "Dying.test_dies": 3,
        "Marked.test_once_more": 2,
        "Marked.test_never_again": 1,
        "Torn.test_it": 1,
    }
    assert f"Ran {len(counts(project))} tests" in result.stderr
    assert "setUpClass (Unset)" in line_of(result.stdout, "Failed all retries (4): ")
    assert "Flaky" not in result.stdout


@pytest.mark.parametrize(
    ("setting", "options", "code"),
    [
        *[("", "", 1), ("", "--parallel 2", 1), ("1", "", 0), ("1", "--parallel 2", 0)],
        *[("1", "--retries 0", 1), ("", "--retries 1", 0), ("", "--retries 1 -v 0", 0)],
        ("", "--retries 1 --fail-on-flaky", 1),
        ("", "--retries 1 --fail-on-flaky --parallel 2", 1),
        # --failfast waits for retries: only tests that fail again are failures.
        ("", "--retries 1 --failfast", 0),
    ],
)
def test_number_of_retries(project: Project, setting: str, options: str, code: int) -> None:
    """The option overrides the setting. Flaky tests fail a run with --fail-on-flaky only."""
    project.tests(ONCE)
    if setting:
        project.configure(f'SCHEMA_RUNNER = {{"RETRIES": {setting}}}')
    result = project.run(*options.split())
    assert result.code == code, result.output
    assert "Ran 2 tests" in result.stderr
    assert ("so the run fails" in result.stdout) == ("--fail-on-flaky" in options)
    is_shown = "-v" not in options
    is_flaky = counts(project)["Failing.test_it"] > 1
    assert is_flaky == (code == 0 or "--fail-on-flaky" in options)
    assert ("Set-up " in result.stdout) == is_shown
    assert ("Flaky: " in result.stdout) == (is_shown and is_flaky)
    assert ("FLAKY: " in result.stderr) == (is_shown and is_flaky)


@each_mode
def test_failfast_runs_the_tests_after_a_flaky_one(project: Project, mode: Mode) -> None:
    """They are in the same class. A failure without retries ends the class at once."""
    failing = """
    class Failing(Seeing, TestCase):
        def test_a(self): self.assertGreater(times("a"), 1, "at first")
        def test_b(self):
            with self.subTest(): self.assertGreater(times("b"), 1, "at first")
        @schema_runner.retries(0)
        def test_c(self): self.fail("always")
        def test_d(self): pass
    """
    project.tests(SEEING + failing)
    options = ("--retries", "1", "--failfast", *mode)
    result = project.run(*options, "-k", "test_a", "-k", "test_b", "-k", "test_d")
    result.passed("Ran 3 tests")
    assert counts(project) == {"Failing.test_a": 2, "Failing.test_b": 2, "Failing.test_d": 1}
    project.forget()
    project.run(*options).failed("Ran 3 tests", "always")
    assert "Failing.test_d" not in counts(project)


@each_mode
def test_retries_in_clones_and_pools(project: Project, mode: Mode) -> None:
    """Retries get a new clone database, or a clean schema of the pool."""
    project.tests(TESTS)
    for option in ("--isolation=database", "--keepdb", "--keepdb"):
        project.run(*mode, option, "--retries", "2").passed()
        begun = project.records("begins")
        begun = [one for one in begun if one["test"] == "Failing.test_now_and_then"]
        assert begun[1]["authors"] == 0
        for name in COUNTED:
            (project.folder / name).unlink()
        project.forget()
        assert (project.databases() == []) == (option != "--keepdb")
    project.drop_database(project.test_name)


def test_in_the_projects_own_database(occupied: Project) -> None:
    """Nothing is left in the project's own database."""
    occupied.tests(TESTS)
    occupied.run(*PARALLEL, "--host-database", "current", "--retries", "2").passed()


def test_a_debugger_reads_standard_input(project: Project) -> None:
    """The worker of a serial run with retries can read standard input."""
    project.tests("class Stopping(TestCase):\n    def test_it(self):\n        breakpoint()\n")
    result = project.run("--retries", "1", stdin="p 40 + 2\nc\n").passed()
    assert "(Pdb) 42" in result.stdout


def test_a_run_without_standard_input(project: Project) -> None:
    """Standard input may be closed, as in cron jobs and services."""
    project.tests(ONCE)
    command = ["sh", "-c", f"{sys.executable} manage.py test --retries 1 <&-"]
    assert "Flaky" in subprocess.check_output(command, cwd=project.folder, text=True)
