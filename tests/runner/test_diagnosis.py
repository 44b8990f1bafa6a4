"""Why tests fail: an example of each verdict, found and named, whatever starts the workers."""

import re
from textwrap import dedent

import pytest

from ..project import METHODS, PARALLEL, SERIAL, Mode, Project, Result

pytestmark = pytest.mark.oldest

PREFIX = "library.test_generated."
# What is told of a failure: its kind, the evidence, and the tests of the command.
Told = tuple[str, str, str]

ALONE = """
    class Broken(TestCase):
        def test_it(self):
            print("printed", flush=True)
            self.assertEqual(Author.objects.count(), 1)

    class Dying(TestCase):
        def test_it(self): os._exit(7)

    # What fails in every third run fails first of all: the first run is the one that is diagnosed.
    class Flaky(TestCase):
        def test_it(self): self.assertNotEqual(times("flaky") % 3, 1)

    class Rare(TestCase):
        def test_it(self): self.assertNotEqual(times("rare"), 1)

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
# Keeps another worker from taking what follows, while the whole suite is run in parallel.
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
# Few tests, for what starts its workers slowly.
FEW = """
    class Leaving(TestCase):
        def test_3(self): pass
        def test_4(self): CACHE.add("second")
"""
BY_SEVERAL = """
    class Polluted(TestCase):
        def test_it(self): self.assertNotEqual(CACHE, {"first", "second"})
"""
# Two tests may meet in the first run, which nothing is known of, and where there are two workers:
# all of a probe have their schemas before a test begins.
MEETING = """
    class Meeting:
        def may_meet(self):
            other = "SELECT 1 FROM pg_namespace WHERE starts_with(nspname, 'test_w2_')"
            return not Path("known").exists() or query(other)
        def may_meet_as(self, number):
            is_it = schema_runner.current_worker().number == number
            return not Path("known").exists() or is_it and self.may_meet()
"""
# Each holds a file for itself, which the other one needs too: what comes second fails.
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
# What is there first fails, if it is still at it when the other one begins. In a probe they meet
# where the first worker is at it, and has not been at the other one before.
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


def broken(*tests: str) -> Told:
    return "BROKEN", "it fails alone in a fresh schema, 5 times of 5", " ".join(tests)


def flaky(test: str, evidence: str) -> Told:
    return "FLAKY", evidence, test


def polluted(by: list[str], *tests: str) -> Told:
    names = ", ".join(PREFIX + test for test in by)
    evidence = f"after {names} in the same worker, 5 times of 5, and never alone in a fresh schema"
    return "POLLUTED", f"it fails {evidence}", " ".join([*by, *tests])


def unsafe(test: str, other: str) -> Told:
    evidence = f"beside {PREFIX}{other}, some times of 5, and never alone (10 times)"
    return "PARALLEL-UNSAFE", f"it fails {evidence}", f"--parallel=2 {test} {other}"


NOW_AND_THEN = "it fails alone in a fresh schema some times of 5"
NEVER_AGAIN = "it has not failed again, alone 15 times and among the same tests"
OF_MODULE = {"library.test_other": broken("library.test_other")}
OF_MEMORY = {"PollutedMemory.test_2": polluted(["Leaving.test_4"], "PollutedMemory.test_2")}
OF_ALONE = {
    "Broken.test_it": broken("Broken.test_it"),
    "Dying.test_it": broken("Dying.test_it"),
    "Flaky.test_it": flaky("Flaky.test_it", NOW_AND_THEN),
    "Rare.test_it": flaky("Rare.test_it", NEVER_AGAIN),
    "Torn.test_a": flaky("Torn.test_a", NEVER_AGAIN),
    "tearDownClass (Torn)": broken("Torn.test_a", "Torn.test_b"),
    "tearDownClass (TornByDeath)": broken("TornByDeath.test_a", "TornByDeath.test_b"),
    "setUpClass (Unset)": broken("Unset.test_a", "Unset.test_b"),
}
# The tests of a class are not what its end is polluted by.
END = polluted(["Leaving.test_4"], "PollutedEnd.test_a", "PollutedEnd.test_b")
OF_AFTER = {
    **OF_MODULE,
    "PollutedDatabase.test_2": polluted(["Leaving.test_3"], "PollutedDatabase.test_2"),
    "tearDownClass (PollutedEnd)": END,
    **OF_MEMORY,
}
SEVERAL = polluted(["Leaving.test_1", "Leaving.test_4"], "Polluted.test_it")
SUITES: dict[str, tuple[str, dict[str, Told]]] = {
    "alone": (ALONE, OF_ALONE),
    "after": (LEAVING + IN_DATABASE + AT_ITS_END + IN_MEMORY, OF_AFTER),
    "few": (FEW + IN_MEMORY, OF_MODULE | OF_MEMORY),
    "several": (LEAVING + BY_SEVERAL, {"Polluted.test_it": SEVERAL}),
}


def diagnose(project: Project, text: str, *mode: str, method: str = "fork") -> dict[str, Told]:
    """Return what is told of each failure, by its name."""
    project.tests("CACHE = set()\n" + dedent(text))
    env = {"START_METHOD": method, "DIAGNOSED": "1"}
    result = project.run(*mode, "--diagnose", env=env).failed()
    assert project.databases() == []
    # What tests print is shown the first time alone.
    assert result.output.count("printed\n") == text.count("print(")
    lines = r"^(.+) is ([A-Z-]+): (.+)\.\n    python manage\.py test (.+)$"
    return {
        name.replace(PREFIX, "").removeprefix("unittest.loader._FailedTest."): (
            kind,
            re.sub("[1-4] times of 5", "some times of 5", evidence),
            tests.replace(PREFIX, ""),
        )
        for name, kind, evidence, tests in re.findall(lines, result.stdout, re.MULTILINE)
    }


def run_again(project: Project, tests: str) -> Result:
    """Run the command that was printed with these tests; `diagnose` has shortened it."""
    named = [one if one.startswith(("-", "library.")) else PREFIX + one for one in tests.split()]
    return project.run(*named)


@pytest.mark.parametrize(
    ("suite", "mode", "method"),
    [
        *((suite, SERIAL, "fork") for suite in ("alone", "after", "several")),
        *((suite, PARALLEL, "fork") for suite in ("alone", "after")),
        *(("few", PARALLEL, method) for method in METHODS[1:]),
    ],
    ids=lambda value: value if isinstance(value, str) else ("parallel" if value else "serial"),
)
def test_each_failure_has_a_verdict(project: Project, suite: str, mode: Mode, method: str) -> None:
    """And a command that shows it again: the fewest tests of all that came before it."""
    text, expected = SUITES[suite]
    if "library.test_other" in expected:
        project.write("library/test_other.py", "import nothing_like_it")
    busy = BUSY if mode and suite != "alone" else ""
    assert diagnose(project, busy + text, *mode, method=method) == expected
    if mode:
        return
    for name, (kind, _, tests) in expected.items():
        if kind == "POLLUTED" or name in ("Broken.test_it", "library.test_other"):
            count = len(tests.split())
            result = run_again(project, tests).failed(f"Ran {count} test{'s' * (count > 1)} ")
            assert name != "library.test_other" or "nothing_like_it" in result.stderr


@pytest.mark.parametrize("method", METHODS)
def test_parallel_unsafe(project: Project, method: str) -> None:
    """It fails beside a test of another worker, and never alone."""
    told = diagnose(project, MEETING + UNSAFE, *PARALLEL, method=method)
    ((name, verdict),) = told.items()
    other = {"UnsafeHere": "UnsafeThere", "UnsafeThere": "UnsafeHere"}[name.split(".")[0]]
    assert verdict == unsafe(name, f"{other}.test_hold")
    if method == "fork":
        (project.folder / "known").unlink()
        run_again(project, verdict[2]).failed("the other test holds it")


def test_parallel_unsafe_to_what_is_there_first(project: Project) -> None:
    """It is found out too if it takes the other one to begin later."""
    told = diagnose(project, MEETING + DISTURBED, *PARALLEL)
    assert told["Disturbed.test_it"][0] == "PARALLEL-UNSAFE"


def test_options_that_matter_are_in_the_command(project: Project) -> None:
    """Those of the run that decide what a test meets, and no others."""
    project.write("other_settings.py", "from settings import *\n")
    options = "--settings other_settings --no-migrations --isolation=database --retries 1 -v 2"
    tests = "class Broken(TestCase):\n    def test_it(self): self.fail()\n"
    told = diagnose(project, tests, *options.split(), "-k", "Broken")
    kept = "--settings=other_settings --isolation=database --no-migrations"
    assert told["Broken.test_it"][2] == f"{kept} Broken.test_it"


def test_nothing_is_told_of_a_suite_that_passes(project: Project) -> None:
    """No failure, no verdict."""
    project.tests("class Passing(TestCase):\n    def test_it(self): pass\n")
    result = project.run("--diagnose").passed()
    assert "Finding out" not in result.stdout
    assert " is " not in result.stdout.split("Set-up")[1]
