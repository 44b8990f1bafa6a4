"""--diagnose: an example of each verdict, with each start method."""

import re
from collections.abc import Iterable
from textwrap import dedent

import pytest

from ..project import METHODS, PARALLEL, SERIAL, Mode, Project, Result, each_mode, outcome

pytestmark = pytest.mark.oldest

PREFIX = "library.test_generated."
# What the report says about a failure: verdict, evidence, and arguments of the command.
Verdict = tuple[str, str, str]

ALONE = """
    class Broken(TestCase):
        def test_it(self):
            print("printed", flush=True)
            self.assertEqual(Author.objects.count(), 1)

    class Dying(TestCase):
        def test_it(self): os._exit(7)

    # These fail in the first run, because only failures of the first run are diagnosed.
    class Flaky(TestCase):
        def test_it(self): self.assertNotEqual(times("flaky") % 3, 1)

    class Rare(TestCase):
        def test_it(self): self.assertNotEqual(times("rare"), 1)

    class WorkerOnly(TestCase):
        def test_it(self):
            self.assertEqual(Author.objects.count(), 0)
            # The state of a run without workers.
            self.assertIsNone(multiprocessing.parent_process())
            self.assertEqual(multiprocessing.current_process().name, "MainProcess")
            self.assertEqual(sys.stdin.fileno(), 0)
            self.assertEqual(threading.active_count(), 1)

    class Two:
        def test_a(self): pass
        def test_b(self): pass

    class Torn(Two, TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            raise RuntimeError("no tear-down")
        def test_a(self): self.assertNotEqual(times("torn"), 1)

    class TornByDeath(Two, TestCase):
        @classmethod
        def tearDownClass(cls): os._exit(7)

    class Unset(Two, TestCase):
        @classmethod
        def setUpClass(cls): raise RuntimeError("no set-up")
"""
# Keeps the other worker busy during the first run, so that it does not take the next class.
BUSY = """
    class Busy(TestCase):
        def test_it(self):
            if "DIAGNOSED" in os.environ: wait_for("done")
"""
LEAVING = """
    class Innocent(TestCase):
        def test_1(self): pass
        def test_2(self): pass

    class Leaving(TestCase):
        def test_1(self): CACHE.add("first")
        def test_2(self): pass
        def test_3(self):
            other = connection.copy()
            with other.cursor() as cursor:
                cursor.execute("INSERT INTO library_author (name) VALUES ('left')")
            other.close()

        def test_4(self): CACHE.add("second")
        def test_5(self): pass
"""
IN_DATABASE = """
    class PollutedDatabase(TestCase):
        def test_1(self): pass
        def test_2(self): self.assertEqual(Author.objects.count(), 0)
"""
AT_ITS_END = """
    class PollutedEnd(TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            assert "second" not in CACHE
        def test_a(self): pass
        def test_b(self): pass
"""
IN_MEMORY = """
    class PollutedMemory(TestCase):
        def test_1(self): pass
        def test_2(self):
            Path("done").touch()
            self.assertNotIn("second", CACHE)
"""
# Few tests, for slow start methods, and one that cannot be sent to a worker.
FEW = """
    class Unsent(TestCase):
        def __init__(self, *args):
            super().__init__(*args)
            self.unpicklable = lambda: self.assertEqual(Author.objects.count(), 0)
        def test_it(self): self.unpicklable()

    class Leaving(TestCase):
        def test_3(self): pass
        def test_4(self): CACHE.add("second")
"""
BY_SEVERAL = """
    class Polluted(TestCase):
        def test_it(self): self.assertNotEqual(CACHE, {"first", "second"})
"""
# Tests may meet in the first run, and in probes with two workers, whose schemas exist before any
# test starts.
MEETING = """
    class Meeting:
        def may_meet(self):
            other = "SELECT 1 FROM pg_namespace WHERE starts_with(nspname, 'test_w2_')"
            return not Path("known").exists() or query(other)
        def may_meet_as(self, number):
            is_it = schema_runner.current_worker().number == number
            return not Path("known").exists() or is_it and self.may_meet()
"""
# Each test holds a file that the other needs too, so the second one fails.
UNSAFE = """
    class Holding(Meeting):
        def test_hold(self):
            try:
                os.close(os.open("held", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                Path("known").touch()
                Path("met").touch()
                self.fail("the other test holds it")
            if self.may_meet():
                wait_for("met")
                Path("met").unlink()
            Path("held").unlink()
    class UnsafeHere(Holding, TestCase): pass
    class UnsafeThere(Holding, TestCase): pass
"""
# The first test fails if the second starts while it runs. In a probe they meet only if worker 1
# runs the first test and has not run the second before.
DISTURBED = """
    class Disturbed(Meeting, TestCase):
        def test_it(self):
            Path("there").touch()
            if "through" not in CACHE and self.may_meet_as(1):
                wait_for("through")
                Path("through").unlink()
            Path("there").unlink()
            if Path("disturbed").exists():
                Path("disturbed").unlink()
                Path("known").touch()
                self.fail("the other test has been there")

    class Disturbing(Meeting, TestCase):
        def test_it(self):
            CACHE.add("through")
            if not Path("known").exists(): wait_for("there")
            if self.may_meet_as(2):
                if Path("there").exists(): Path("disturbed").touch()
                Path("through").touch()
"""


def broken(*tests: str) -> Verdict:
    return "BROKEN", "it fails alone in a fresh schema, 5 of 5 times", " ".join(tests)


def worker_only(test: str) -> Verdict:
    evidence = (
        "it fails in a worker process and passes outside of one, as without --parallel (5 of 5 "
        "times each)"
    )
    return "WORKER-ONLY", evidence, f"{test} --parallel=2 --retries=1"


def flaky(test: str, evidence: str) -> Verdict:
    return "FLAKY", evidence, test


def polluted(by: list[str], *tests: str) -> Verdict:
    names = ", ".join(PREFIX + test for test in by)
    evidence = f"after {names} in the same worker, 5 of 5 times, and never alone in a fresh schema"
    return "POLLUTED", f"it fails {evidence}", " ".join([*by, *tests])


def unsafe(test: str, other: str) -> Verdict:
    evidence = f"{PREFIX}{other}, some of 5 times, and never alone in a fresh schema"
    return (
        "PARALLEL-UNSAFE",
        f"it fails while another worker runs {evidence}",
        f"{test} {other} --parallel=2",
    )


NOW_AND_THEN = "it fails alone in a fresh schema, some of 5 times"
NEVER_AGAIN = "it did not fail again, neither alone (15 times) nor with other tests"
OF_MODULE = {"library.test_other": broken("library.test_other")}
OF_MEMORY = {"PollutedMemory.test_2": polluted(["Leaving.test_4"], "PollutedMemory.test_2")}
OF_ALONE = {
    "Broken.test_it": broken("Broken.test_it"),
    "Dying.test_it": broken("Dying.test_it"),
    "Flaky.test_it": flaky("Flaky.test_it", NOW_AND_THEN),
    "Rare.test_it": flaky("Rare.test_it", NEVER_AGAIN),
    "Torn.test_a": flaky("Torn.test_a", NEVER_AGAIN),
    "WorkerOnly.test_it": worker_only("WorkerOnly.test_it"),
    "tearDownClass (Torn)": broken("Torn.test_a", "Torn.test_b"),
    "tearDownClass (TornByDeath)": broken("TornByDeath.test_a", "TornByDeath.test_b"),
    "setUpClass (Unset)": broken("Unset.test_a", "Unset.test_b"),
}
# The tests of a class do not count as polluters of its tear-down.
END = polluted(["Leaving.test_4"], "PollutedEnd.test_a", "PollutedEnd.test_b")
OF_AFTER = {
    **OF_MODULE,
    "PollutedDatabase.test_2": polluted(["Leaving.test_3"], "PollutedDatabase.test_2"),
    "tearDownClass (PollutedEnd)": END,
    **OF_MEMORY,
}
OF_UNSENT = {"tests of Unsent": worker_only("Unsent.test_it")}
SEVERAL = polluted(["Leaving.test_1", "Leaving.test_4"], "Polluted.test_it")
SUITES: dict[str, tuple[str, dict[str, Verdict]]] = {
    "alone": (ALONE, OF_ALONE),
    "after": (LEAVING + IN_DATABASE + AT_ITS_END + IN_MEMORY, OF_AFTER),
    "few": (FEW + IN_MEMORY, OF_MODULE | OF_MEMORY | OF_UNSENT),
    "several": (LEAVING + BY_SEVERAL, {"Polluted.test_it": SEVERAL}),
}


def diagnose(project: Project, text: str, *mode: str, method: str = "fork") -> dict[str, Verdict]:
    """Map each failure to its verdict."""
    project.tests("import multiprocessing\nCACHE = set()\n" + dedent(text))
    env = {"START_METHOD": method, "DIAGNOSED": "1"}
    result = project.run(*mode, "--diagnose", env=env).failed()
    assert project.databases() == []
    # Output of tests is shown in the first run only.
    assert result.output.count("printed\n") == text.count("print(")
    lines = r"^(.+) is ([A-Z-]+): (.+)\.\n    .+ manage\.py test (.+)$"
    return {
        name.replace(PREFIX, "").removeprefix("unittest.loader._FailedTest."): (
            kind,
            re.sub("[1-4] of 5 times", "some of 5 times", evidence),
            tests.replace(PREFIX, ""),
        )
        for name, kind, evidence, tests in re.findall(lines, result.stdout, re.MULTILINE)
    }


def run_again(project: Project, tests: str, method: str = "fork") -> Result:
    """Run the printed command, whose labels `diagnose` has shortened."""
    named = [one if one.startswith(("-", "library.")) else PREFIX + one for one in tests.split()]
    count = sum(not one.startswith("-") for one in named)
    result = project.run(*named, env={"START_METHOD": method}).failed()
    assert "tests of" in result.stderr or f"Ran {count} test{'s' * (count > 1)} " in result.stderr
    return result


@pytest.mark.parametrize(
    ("suite", "mode", "method"),
    [
        *((suite, SERIAL, "fork") for suite in ("alone", "after", "several")),
        *((suite, PARALLEL, "fork") for suite in ("alone", "after")),
        ("few", PARALLEL, "spawn"),
    ],
    ids=lambda value: value if isinstance(value, str) else ("parallel" if value else "serial"),
)
def test_each_failure_has_a_verdict(project: Project, suite: str, mode: Mode, method: str) -> None:
    """The command has the fewest tests that reproduce the failure."""
    text, expected = SUITES[suite]
    if "library.test_other" in expected:
        project.write("library/test_other.py", "import nothing_like_it")
    busy = BUSY if mode and suite != "alone" else ""
    assert diagnose(project, busy + text, *mode, method=method) == expected
    for name, (kind, _, tests) in expected.items():
        is_shown = kind == "POLLUTED" or name in ("Broken.test_it", "library.test_other")
        if kind == "WORKER-ONLY" or (is_shown and not mode):
            result = run_again(project, tests, method)
            assert name != "library.test_other" or "nothing_like_it" in result.stderr


@pytest.mark.parametrize("method", METHODS)
def test_parallel_unsafe(project: Project, method: str) -> None:
    """The test fails next to a test of another worker, and never alone."""
    verdicts = diagnose(project, MEETING + UNSAFE, *PARALLEL, method=method)
    ((name, verdict),) = verdicts.items()
    other = {"UnsafeHere": "UnsafeThere", "UnsafeThere": "UnsafeHere"}[name.split(".")[0]]
    assert verdict == unsafe(name, f"{other}.test_hold")
    if method == "fork":
        (project.folder / "known").unlink()
        run_again(project, verdict[2]).failed("the other test holds it")


def test_parallel_unsafe_for_the_test_that_starts_first(project: Project) -> None:
    """The failure is found too if the other test must start second."""
    verdicts = diagnose(project, MEETING + DISTURBED, *PARALLEL)
    assert verdicts["Disturbed.test_it"][0] == "PARALLEL-UNSAFE"


# A script with its own options that passes the others to `test`.
SCRIPT = """
    import sys
    import manage
    from django.core.management import execute_from_command_line

    if "--quick" in sys.argv: sys.argv.remove("--quick")
    execute_from_command_line([sys.argv[0], "test", *sys.argv[1:]])
"""
# A script that ignores its command line, and one with its own argument parser, as Django's.
CALLING = """
    import django
    django.setup()
    from django.core.management import call_command
    call_command("test", "library", diagnose=True, no_migrations=True)
"""
PARSING = """
    import argparse
    import django
    from django.conf import settings
    from django.test.utils import get_runner

    parser = argparse.ArgumentParser()
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--start-at")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--browser")
    options = parser.parse_args()
    assert not (options.modules and options.start_at)
    django.setup()
    runner = get_runner(settings)(parallel=options.parallel, diagnose=True)
    raise SystemExit(bool(runner.run_tests(options.modules or ["library"])))
"""
UNIT = """
    from django.core.management.commands.test import Command as Test

    class Command(Test):
        def add_arguments(self, parser):
            parser.add_argument("--suite")
            super().add_arguments(parser)
"""
# Runs another script, as coverage does.
RUNNING = "import runpy, sys; sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], {}, '__main__')"
COMMANDS = {
    # An option without its value, an abbreviated option, and a value that is also a label.
    "python -X dev manage.py test -k It library --tag library --parallel --diag -v 2 --shuf 7": (
        "python -X dev manage.py test IT --tag=library -v 2"
    ),
    "./manage.py test --settings other --diagnose ./library/ --order=suite --isolation database": (
        "./manage.py test IT --settings=other --isolation=database"
    ),
    "python -m django test --diagnose --pattern='test_[g]*.py' --retries=1": (
        "python -m django test IT '--pattern=test_[g]*.py'"
    ),
    "django-admin test --pythonpath . --diagnose": "django-admin test IT --pythonpath=.",
    "python -m running run manage.py test library --diagnose": (
        "python -m running run manage.py test IT"
    ),
    "python manage.py unit --suite library --diagnose library": (
        "python manage.py unit IT --suite=library"
    ),
    "python script.py --quick --diagnose --reverse": "python script.py IT --quick",
    "python calling.py": "python -m django test IT --no-migrations --settings=other",
    "python parsing.py --browser x --start-at=a --parallel 2": (
        "python parsing.py IT --parallel=1 --browser x"
    ),
}


def test_the_command_keeps_what_was_typed(project: Project) -> None:
    """Labels replace options that select, order or repeat tests. A shell can run the command."""
    tests = """
        @tag("library")
        class It(SimpleTestCase):
            def test_it(self): self.fail("as typed")
    """
    project.tests(tests)
    project.write("other.py", "from settings import *\n")
    scripts = {"script": SCRIPT, "calling": CALLING, "parsing": PARSING, "running": RUNNING}
    for name, text in scripts.items():
        project.write(f"{name}.py", text)
    project.write("library/management/commands/unit.py", UNIT)
    script = project.folder / "manage.py"
    script.write_text(f"#!/usr/bin/env python\n{script.read_text()}")
    script.chmod(0o755)

    def run_all(lines: Iterable[str]) -> list[str]:
        runs = [project.shell(line, DJANGO_SETTINGS_MODULE="other") for line in lines]
        return [outcome(run).failed("as typed").stdout for run in runs]

    commands = [re.findall("^    (.+)$", out, re.MULTILINE)[-1] for out in run_all(COMMANDS)]
    it = f"{PREFIX}It.test_it"
    assert commands == [line.replace("IT", it) for line in COMMANDS.values()]
    for out in run_all(commands):
        assert "Found 1 test(s)" in out


@each_mode
def test_the_first_failure_has_a_verdict(project: Project, mode: Mode) -> None:
    """--failfast stops at the first failure, and -v 0 shows its verdict."""
    project.tests(ALONE)
    result = project.run(*mode, "--diagnose", "--failfast", "-v0", "-k", "Broken").failed()
    named = f"{PREFIX}Broken.test_it"
    verdict = f"{named} is BROKEN: it fails alone in a fresh schema, 5 of 5 times."
    assert re.search(rf"printed\n{verdict}\n    .+ test {named} -v 0\n$", result.stdout)


def test_a_suite_that_passes_has_no_verdict(project: Project) -> None:
    """Without a failure there is no verdict."""
    project.tests("class Passing(TestCase):\n    def test_it(self): pass\n")
    result = project.run("--diagnose").passed()
    assert "Diagnosing" not in result.stdout
    assert " is " not in result.stdout.split("Set-up")[1]
