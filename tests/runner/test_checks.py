"""System checks of wrong or useless settings, in `manage.py check` and in runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import schema_runner

from ..project import PARALLEL, Mode, Project, Result, each_mode

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
INSTALLED = 'INSTALLED_APPS.append("schema_runner")'
TESTS = """
    @tag("slow")
    class Tagged(TestCase):
        def test_a(self): pass
    class Plain(SimpleTestCase):
        def test_b(self): pass
"""
# A run would fail to call these.
SEEDS = """
    def seed(): pass
    async def seed_later(using): pass
    def isolate(): pass
    def regions(name): pass
"""


def messages(result: Result) -> dict[str, str]:
    """Map the id and the first quoted name of each message to the name that its hint suggests."""
    found = re.findall(
        r"\(schema_runner\.(\w+)\) .*?'(.*?)'.*(?:\n\t(HINT: Did you mean '.*'\?)?)?",
        result.stderr,
    )
    return {f"{one} {named}": hint[20:-2] for one, named, hint in found}


def test_all_problems_are_shown_at_once(project: Project) -> None:
    """With the app installed, `check` also reports the errors that stop a run."""
    settings = {
        "KEEP_DAY": 7,
        "RETRIES": -1,
        "RESET": "selectiv",
        "SEEDERS": ["library.seeds.seed", "library.seeds.seed_later", "nowhere.seed"],
        "WORKER_SETUP": ["library.seeds.isolate"],
        "FINGERPRINT": ["library.seeds.regions"],
        "FIXTURES": ["nowhere"],
        "SERIAL": ["library.test_genrated.Plain", "library.test_generated.Unknown", "slow"],
        "OWN_DATABASE": ["librari.test_generated", "library.test_generated"],
        "TRUSTED_MIGRATIONS": [
            *("library.0001_inital", "library.0001", "library.0001_initial", "auth.0001_initial"),
        ],
        "TRUSTED_MODELS": ["library.book", "library.Author", "Author"],
        "EXPECTED_CHANGES": ["library_book", "public.library_*", "*_book", r"public\.auth_.*"],
        "PG_DUMP": "nowhere/pg_dump",
        "HISTORY_DIR": "manage.py",
        "SNAPSHOT_DIR": "manage.py/snapshots",
    }
    project.configure(f"{INSTALLED}\nSCHEMA_RUNNER = {settings}")
    project.configure("TEST_RUNNER = 'schema_runner.SchemaRunnerMixin'")
    project.configure("MIGRATION_MODULES = {'auth': None}")
    project.configure('DATABASES["default"]["TEST"] = {"NAMES": "x", "OF_A_BACKEND": 1}')
    project.write("library/seeds.py", SEEDS)
    project.write("psycopg2.py", "raise ImportError('not even imported')")
    project.tests("raise ImportError('not even imported')")
    checked = project.check().refused()
    assert messages(checked) == {
        "E002 KEEP_DAY": "KEEP_DAYS",
        "E003 selectiv": "selective",
        "E004 nowhere.seed": "",
        "E005 library.seeds.seed": "",
        "E005 library.seeds.seed_later": "",
        "E005 library.seeds.isolate": "",
        "E005 library.seeds.regions": "",
        "E007 nowhere": "",
        "E008 schema_runner.SchemaRunnerMixin": "",
        "W001 library.test_genrated.Plain": "library.test_generated.Plain",
        "W001 librari.test_generated": "library.test_generated",
        "W002 library.0001_inital": "library.0001_initial",
        "W002 library.0001": "library.0001_initial",
        "W003 library.book": "library.Book",
        "W003 Author": "",
        "W004 library_book": "public.library_book",
        r"W004 public\\.auth_.*": "public.auth_*",
        "W005 nowhere/pg_dump": "",
        "W008 default": "NAME",
    }
    said = checked.stderr
    assert '(schema_runner.E001) SCHEMA_RUNNER["RETRIES"] must be an integer, 0 or greater' in said
    file = f"{project.folder}/manage.py: not a folder."
    unwritten = '(schema_runner.W006) Cannot write to SCHEMA_RUNNER["%s"]%s'
    assert unwritten % ("HISTORY_DIR", f": {file}") in said
    assert unwritten % ("SNAPSHOT_DIR", f" (--snapshot-dir): {file}") in said
    assert "(schema_runner.W007) psycopg2 is installed" in said


@each_mode
def test_a_run_warns_once_before_its_tests(project: Project, mode: Mode) -> None:
    """Unknown tests are reported only if the whole suite was loaded.

    The app need not be installed.
    """
    settings = {
        "SERIAL": ["library.test_generated.Plane", "solw", "slow", "library.test_generated.Plain"],
        "OWN_DATABASE": [
            *("library.test_generated.Tagged.test_b", "library.nothing.Here", "not.here"),
            # Labels of other commands: discovery finds neither, nor folders that are not packages.
            *("elsewhere", "elsewhere.deep.test_it.Any", "library.acceptance.Any"),
        ],
    }
    project.configure(f"SCHEMA_RUNNER = {settings}")
    project.tests(TESTS)
    project.tests("class Any(TestCase): pass", "acceptance")
    project.write("elsewhere/deep/test_it.py", "raise ImportError('not even imported')")
    expected = {
        "W001 library.test_generated.Plane": "library.test_generated.Plain",
        "W001 solw": "slow",
        "W001 library.test_generated.Tagged.test_b": "library.test_generated.Tagged.test_a",
        "W001 library.nothing.Here": "",
        "W001 not.here": "",
    }
    result = project.run(*mode).passed("Ran 2 tests")
    assert messages(result) == expected
    assert result.stderr.count("(schema_runner.") == len(expected)
    assert result.stderr.index("(schema_runner.") < result.stderr.index("Ran 2 tests")
    # Contents of loaded modules are known, and so is which modules exist.
    del expected["W001 solw"], expected["W001 not.here"]
    partial = project.run(*mode, "library.test_generated.Plain").passed("Ran 1 test")
    assert messages(partial) == expected
    assert messages(project.run(*mode, "library.test_other").failed()) == {
        "W001 library.nothing.Here": "",
    }
    project.configure(f"{INSTALLED}\nSILENCED_SYSTEM_CHECKS = ['schema_runner.W001']")
    assert messages(project.run(*mode).passed()) == {}


CLASSES = """
    from django.test.runner import DiscoverRunner
    from schema_runner import SchemaRunnerMixin

    class Other(DiscoverRunner): pass
    class Behind(Other, SchemaRunnerMixin): pass
"""
RUNNERS = {
    "schema_runner.SchemaRunnerMixin": 'TEST_RUNNER = "schema_runner.SchemaDiscoverRunner"',
    "schema_runner.SchemaRunner": "'SchemaRunner'. Did you mean 'SchemaRunnerMixin'?",
    "runners.Behind": "TypeError: SchemaRunnerMixin must come before other runners. Write "
    "class Behind(SchemaRunnerMixin, Other).",
}


@pytest.mark.parametrize("named", RUNNERS)
def test_a_runner_class_that_does_not_work(project: Project, named: str) -> None:
    """Settings and command line are checked alike."""
    project.write("runners.py", CLASSES)
    refused = project.run("--testrunner", named, *PARALLEL)
    assert refused.code != 0
    assert RUNNERS[named] in refused.stderr.splitlines()[-1]
    project.configure(f"{INSTALLED}\nTEST_RUNNER = {named!r}")
    project.check().refused("(schema_runner.E008)", RUNNERS[named])


def test_the_app_is_not_part_of_the_fingerprint(project: Project) -> None:
    """A run with the app uses the pool of a run without it."""
    project.migration(
        "0002_tells",
        "0001_initial",
        "migrations.RunPython(lambda *_: open('told', 'a').write('.'))",
    )
    project.tests(TESTS)
    project.run("--keepdb").passed()
    project.configure(INSTALLED)
    project.run("--keepdb").passed()
    assert (project.folder / "told").read_text() == "."
    project.run("--clear-pools").passed()


def test_the_folder_for_snapshots(project: Project) -> None:
    """Paths are relative to the project's folder, and git ignores folders that a run created."""
    project.tests(TESTS)
    project.configure('SCHEMA_RUNNER = {"SNAPSHOT_DIR": "made/here"}')
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "../manage.py", "test", "library", "-v", "0"]
    subprocess.run(command, cwd=elsewhere, check=True)
    assert list(elsewhere.iterdir()) == []
    here = project.folder / "made" / "here"
    assert (here / ".gitignore").read_text() == "*\n"
    assert len([*here.glob("*.snapshot")]) == 1
    (here / ".gitignore").unlink()
    project.run(*PARALLEL).passed()
    assert not (here / ".gitignore").exists()


def test_all_checks_are_documented() -> None:
    documented = re.findall(r"^\| `schema_runner\.(\w+)` \|", DOCS.read_text(), re.M)
    sources = [path.read_text() for path in Path(schema_runner.__file__).parent.rglob("*.py")]
    found = {one for text in sources for one in re.findall(r'"([EW]\d{3})"', text)}
    assert documented == sorted(found)
