"""Why tests fail: an example of each verdict, found and named, whatever starts the workers."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

import pytest

from ..project import Project, Result

pytestmark = pytest.mark.oldest

SERIAL = pytest.param((), "fork", id="serial")
PARALLEL = [
    pytest.param(("--parallel", "2"), method, id=method)
    for method in ("fork", "spawn", "forkserver")
]
PREFIX = "library.test_generated."

IMPORTS = """
    import os
    import time
    from pathlib import Path

    import schema_runner

    CACHE = {}
    # How long, in seconds, a test is at what another one may meet: it cannot wait for the other,
    # because most of the time it is run alone.
    HOLD = 1.0


    def times(name):
        with open(name, "a") as counted:
            counted.write(".")
        return Path(name).stat().st_size


    def wait_for(path):
        deadline = time.monotonic() + 30
        while not Path(path).exists() and time.monotonic() < deadline:
            time.sleep(0.01)


"""
# Keeps another worker from taking what follows, while this is being run in parallel.
BUSY = """
    class Busy(TestCase):
        def test_busy(self):
            if "DIAGNOSED" in os.environ:
                wait_for("done")


"""
BROKEN = """
    class Broken(TestCase):
        def test_broken(self):
            self.assertEqual(Author.objects.count(), 1)
"""
# What fails in every third run fails first of all: the first run is the one that is diagnosed.
FLAKY = """
    class Flaky(TestCase):
        def test_flaky(self):
            self.assertNotEqual(times("flaky") % 3, 1)
"""
RARE = """
    class Rare(TestCase):
        def test_rare(self):
            self.assertNotEqual(times("rare"), 1)
"""
# In memory, or in the database by way of a test that is not rolled back.
POLLUTED = """
    class Innocent(TestCase):
        def test_1(self):
            pass

        def test_2(self):
            pass


    class Leaving(TestCase):
        def test_3(self):
            pass

        def test_4(self):
            CACHE["author"] = 1

        def test_5(self):
            pass


    class Polluted(TestCase):
        def test_6(self):
            pass

        def test_7(self):
            Path("done").touch()
            self.assertNotIn("author", CACHE)
"""
IN_DATABASE = """
    class Leaving(TestCase):
        def test_4(self):
            with connections["default"].copy().cursor() as cursor:
                cursor.execute("INSERT INTO library_author (name) VALUES ('left')")
                cursor.connection.commit()
                cursor.connection.close()


    class Polluted(TestCase):
        def test_6(self):
            pass

        def test_7(self):
            Path("done").touch()
            self.assertEqual(Author.objects.count(), 0)
"""
TOGETHER = """
    class Leaving(TestCase):
        def test_1(self):
            CACHE["first"] = 1

        def test_2(self):
            pass

        def test_3(self):
            pass

        def test_4(self):
            CACHE["second"] = 1


    class Polluted(TestCase):
        def test_7(self):
            Path("done").touch()
            self.assertNotEqual(set(CACHE), {"first", "second"})
"""
# Each holds a file for itself, which the other one needs too: who comes second fails.
UNSAFE = """
    class Holding:
        def hold(self):
            try:
                os.close(os.open("held", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                Path("met").touch()
                self.fail("somebody else holds it")
            if Path("met").exists():
                time.sleep(HOLD)
            else:
                wait_for("met")
            os.unlink("held")


    class UnsafeHere(Holding, TestCase):
        def test_hold(self):
            self.hold()


    class UnsafeThere(Holding, TestCase):
        def test_hold(self):
            self.hold()
"""
# The one that is there first fails, if it is still at it when the other one begins.
DISTURBED = """
    class Disturbed(TestCase):
        def test_first(self):
            Path("there").touch()
            if Path("known").exists():
                time.sleep(HOLD)
            else:
                wait_for("disturbed")
            Path("there").unlink()
            if Path("disturbed").exists():
                Path("disturbed").unlink()
                Path("known").touch()
                self.fail("somebody else has been there")


    class Disturbing(TestCase):
        def test_second(self):
            if not Path("known").exists():
                wait_for("there")
            if Path("there").exists():
                Path("disturbed").touch()
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What a run has said of a failure."""

    kind: str
    evidence: str
    command: str


def diagnose(project: Project, tests: str, *mode: str, method: str = "fork") -> dict[str, Told]:
    """Return what is told of each failure, by its name."""
    project.tests(IMPORTS + tests)
    env = {"START_METHOD": method, "DIAGNOSED": "1"}
    result = project.run(*mode, "--diagnose", env=env)
    assert result.code == 1, result.output
    assert project.databases() == []
    found = re.findall(r"^(.+) is ([A-Z-]+): (.+)\.\n    (.+)$", result.stdout, re.MULTILINE)
    return {name.replace(PREFIX, ""): Told(*rest) for name, *rest in found}


def run(project: Project, command: str) -> Result:
    """Run a command as it was printed."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(("mode", "method"), [SERIAL, *PARALLEL])
def test_broken(project: Project, mode: tuple[str, ...], method: str) -> None:
    """It fails alone in a fresh schema, each time."""
    told = diagnose(project, BROKEN + FLAKY, *mode, method=method)
    assert told["Broken.test_broken"].kind == "BROKEN"
    assert "alone in a fresh schema, 5 times of 5" in told["Broken.test_broken"].evidence
    command = told["Broken.test_broken"].command
    assert command == f"python manage.py test {PREFIX}Broken.test_broken"
    result = run(project, command)
    assert result.code == 1
    assert "Ran 1 test " in result.stderr


@pytest.mark.parametrize(("mode", "method"), [SERIAL, *PARALLEL])
def test_flaky(project: Project, mode: tuple[str, ...], method: str) -> None:
    """It fails now and then, alone; or else it never fails again."""
    told = diagnose(project, FLAKY + RARE, *mode, method=method)
    assert told["Flaky.test_flaky"].kind == told["Rare.test_rare"].kind == "FLAKY"
    assert re.search("alone in a fresh schema [1-4] times of 5", told["Flaky.test_flaky"].evidence)
    assert "it has not failed again, alone 15 times" in told["Rare.test_rare"].evidence
    assert told["Flaky.test_flaky"].command == f"python manage.py test {PREFIX}Flaky.test_flaky"


@pytest.mark.parametrize(("mode", "method"), [SERIAL, *PARALLEL])
@pytest.mark.parametrize("polluted", [POLLUTED, IN_DATABASE], ids=["memory", "database"])
def test_polluted(project: Project, polluted: str, mode: tuple[str, ...], method: str) -> None:
    """The one test is named that makes it fail, of all that came before it in its worker."""
    told = diagnose(project, BUSY + polluted if mode else polluted, *mode, method=method)
    assert list(told) == ["Polluted.test_7"]
    verdict = told["Polluted.test_7"]
    assert verdict.kind == "POLLUTED"
    assert f"after {PREFIX}Leaving.test_4 in the same worker, 5 times of 5" in verdict.evidence
    labels = f"{PREFIX}Leaving.test_4 {PREFIX}Polluted.test_7"
    assert verdict.command == f"python manage.py test {labels}"
    result = run(project, verdict.command)
    assert result.code == 1
    assert "Ran 2 tests" in result.stderr


def test_polluted_by_several_tests_together(project: Project) -> None:
    """All of them are named, and no other."""
    told = diagnose(project, TOGETHER)
    labels = f"{PREFIX}Leaving.test_1 {PREFIX}Leaving.test_4 {PREFIX}Polluted.test_7"
    assert told["Polluted.test_7"].command == f"python manage.py test {labels}"
    assert run(project, told["Polluted.test_7"].command).code == 1


@pytest.mark.parametrize(("mode", "method"), PARALLEL)
def test_parallel_unsafe(project: Project, mode: tuple[str, ...], method: str) -> None:
    """It fails beside a test of another worker, and never alone."""
    told = diagnose(project, UNSAFE, *mode, method=method)
    ((name, verdict),) = told.items()
    other = {"UnsafeHere": "UnsafeThere", "UnsafeThere": "UnsafeHere"}[name.split(".")[0]]
    assert verdict.kind == "PARALLEL-UNSAFE", verdict.evidence
    assert f"beside {PREFIX}{other}.test_hold" in verdict.evidence
    assert "never alone (10 times)" in verdict.evidence
    labels = f"{PREFIX}{name} {PREFIX}{other}.test_hold"
    assert verdict.command == f"python manage.py test --parallel=2 {labels}"
    (project.folder / "met").unlink()
    assert run(project, verdict.command).code == 1
    assert (project.folder / "met").exists()


def test_parallel_unsafe_to_what_is_there_first(project: Project) -> None:
    """It is found out too if it takes the other one to begin later."""
    told = diagnose(project, DISTURBED, "--parallel", "2")
    assert told["Disturbed.test_first"].kind == "PARALLEL-UNSAFE"


def test_a_class_that_cannot_be_set_up(project: Project) -> None:
    """Its tests are what is run to see it."""
    told = diagnose(
        project,
        """
    class Unset(TestCase):
        @classmethod
        def setUpClass(cls):
            raise RuntimeError("no set-up")

        def test_a(self):
            pass

        def test_b(self):
            pass
    """,
        "--parallel",
        "2",
    )
    verdict = told["setUpClass (Unset)"]
    assert verdict.kind == "BROKEN"
    assert verdict.command == f"python manage.py test {PREFIX}Unset.test_a {PREFIX}Unset.test_b"


TORN = """
    class Before(TestCase):
        def test_it(self):
            CACHE["left"] = 1


    class Torn(TestCase):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            if {condition}:
                {ends}

        def test_a(self):
            pass

        def test_b(self):
            Path("done").touch()
"""


@pytest.mark.parametrize(
    "ends", ["raise RuntimeError('no tear-down')", "os._exit(7)"], ids=["raises", "dies"]
)
@pytest.mark.parametrize("mode", [(), ("--parallel", "2")], ids=["serial", "parallel"])
def test_a_class_that_cannot_be_torn_down(
    project: Project, mode: tuple[str, ...], ends: str
) -> None:
    """All of its tests are run to see it."""
    torn = TORN.format(condition=True, ends=ends)
    verdict = diagnose(project, torn, *mode)["tearDownClass (Torn)"]
    assert verdict.kind == "BROKEN"
    assert verdict.command == f"python manage.py test {PREFIX}Torn.test_a {PREFIX}Torn.test_b"


def test_a_class_that_cannot_be_torn_down_after_a_test(project: Project) -> None:
    """Its own tests are not what it is polluted by."""
    torn = TORN.format(condition="'left' in CACHE", ends="raise RuntimeError('no tear-down')")
    verdict = diagnose(project, torn)["tearDownClass (Torn)"]
    assert verdict.kind == "POLLUTED"
    labels = [f"{PREFIX}{name}" for name in ("Before.test_it", "Torn.test_a", "Torn.test_b")]
    assert verdict.command == f"python manage.py test {' '.join(labels)}"
    assert run(project, verdict.command).code == 1


def test_a_test_of_a_class_that_cannot_be_torn_down(project: Project) -> None:
    """Each has a verdict of its own."""
    torn = TORN.format(condition=True, ends="raise RuntimeError('no tear-down')")
    told = diagnose(project, torn.replace("pass", "self.assertNotEqual(times('rare'), 1)"))
    assert told["tearDownClass (Torn)"].kind == "BROKEN"
    assert told["Torn.test_a"].kind == "FLAKY"


def test_a_test_that_its_worker_dies_with(project: Project) -> None:
    """Dying is a way to fail."""
    dying = "    class Dying(TestCase):\n        def test_it(self):\n            os._exit(7)\n"
    assert diagnose(project, dying)["Dying.test_it"].kind == "BROKEN"


@pytest.mark.parametrize(("mode", "method"), [SERIAL, *PARALLEL[:2]])
def test_a_module_that_cannot_be_imported(
    project: Project, mode: tuple[str, ...], method: str
) -> None:
    """The command names the module."""
    project.write("library/test_other.py", "import nothing_like_it")
    other = "    class Other(TestCase):\n        def test_it(self): pass\n"
    told = diagnose(project, other, *mode, method=method)
    (verdict,) = told.values()
    assert verdict.kind == "BROKEN"
    assert verdict.command == "python manage.py test library.test_other"
    assert "nothing_like_it" in run(project, verdict.command).stderr


def test_options_that_matter_are_in_the_command(project: Project) -> None:
    """Those of the run that decide what a test meets, and no others."""
    project.write("other_settings.py", "from settings import *\n")
    told = diagnose(
        project,
        BROKEN,
        "--settings",
        "other_settings",
        "--no-migrations",
        "--isolation=database",
        "--retries",
        "1",
        "-v",
        "2",
        "-k",
        "broken",
    )
    command = told["Broken.test_broken"].command
    assert command == (
        "python manage.py test --settings=other_settings --isolation=database --no-migrations "
        f"{PREFIX}Broken.test_broken"
    )


def test_nothing_is_told_of_a_suite_that_passes(project: Project) -> None:
    """No failure, no verdict."""
    project.tests("class Passing(TestCase):\n    def test_it(self):\n        pass\n")
    result = project.run("--diagnose").passed()
    assert "Finding out" not in result.stdout
    assert " is " not in result.stdout.split("Set-up")[1]


def test_what_tests_print_meanwhile_is_not_shown(project: Project) -> None:
    """Only what they printed the first time."""
    project.tests(
        "class Broken(TestCase):\n    def test_it(self):\n"
        "        print('printed')\n        self.fail()\n"
    )
    assert project.run("--diagnose").output.count("printed\n") == 1
