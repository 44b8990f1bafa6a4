"""Without options of the runner, output and exit codes are those of stock Django's runner."""

import re
import sys
from typing import Any

import pytest

from ..project import (
    PARALLEL,
    SERIAL,
    STOCK,
    WITH_STOCK,
    Mode,
    Project,
    Result,
    each_mode,
    fork_and_spawn,
)

OURS = "schema_runner.SchemaDiscoverRunner"

TESTS = """
    @tag("slow")
    class Slow(TestCase):
        def test_slow(self): Author.objects.create(name="slow")
        @tag("core")
        def test_slow_and_core(self): print("printed by a test that passes")

    class Mixed(TestCase):
        @classmethod
        def setUpTestData(cls): cls.author = Author.objects.create(name="shared")
        def test_passes(self): Book.objects.create(title="t", author=self.author)
        @unittest.skip("not today")
        def test_skipped(self): pass
        @unittest.expectedFailure
        def test_expected(self): self.assertEqual(1, 2)
        def test_subtests(self):
            for number in range(3):
                with self.subTest(number=number): self.assertLess(number, 3)

    class Committed(TransactionTestCase):
        def test_commits(self): Author.objects.create(name="committed")
        def test_is_flushed(self): self.assertEqual(Author.objects.count(), 0)

    class WithoutDatabase(SimpleTestCase):
        databases = set()
        def test_simple(self): pass
"""
FAILING = """

    class Failing(TestCase):
        def test_failure(self):
            Author.objects.create(name="a")
            self.assertEqual(Author.objects.count(), 2)
        def test_error(self):
            print("printed by a test that fails")
            raise KeyError("missing")
        @unittest.expectedFailure
        def test_unexpected_success(self): pass
        def test_failing_subtests(self):
            for number in range(3):
                with self.subTest(number=number): self.assertEqual(number, 1)
"""
NO_SET_UP = """

    class NoSetUp(TestCase):
        @classmethod
        def setUpClass(cls): raise ValueError("class set-up")
        def test_never(self): pass
"""

# Options that affect workers are compared in both modes, those that select tests in one.
IN_BOTH = [
    *("", "library --noinput --debug-mode --no-faulthandler", "--reverse -v 2 --timing"),
    *("--shuffle 4711 -v 3", "-v 0", "no.such.module", "--pattern nothing*.py"),
]
SERIALLY = [
    "library.test_generated.Mixed",
    "library.test_generated.Mixed.test_passes library.test_generated.Slow",
    *("--tag slow", "--tag nothing-has-it"),
]
IN_PARALLEL = ["-k passes -k commits", "--exclude-tag slow", "--tag core --exclude-tag nothing"]
FLAGS = [
    *((mode, flags) for flags in IN_BOTH for mode in (SERIAL, PARALLEL)),
    *((SERIAL, flags) for flags in SERIALLY),
    *((PARALLEL, flags) for flags in IN_PARALLEL),
]

OWN_LINES = re.compile(
    "((Built|Kept|Dropped) schema test_w|[0-9]+ workers[,.] |Set-up |Resets: |"
    "[0-9]+ schemas? created, |Destroying test database for alias '[a-z]+' \\('CLONE'\\)).*\n"
)
# Lines about the end of databases.
ENDS = re.compile("(?m)^(?:Destroying test|Preserving|Dropped|Kept) .*$")


def normalized(text: str) -> list[str]:
    """Return the sorted lines of an output, without parts that differ between runs."""
    text = re.sub(r"[0-9]+\.[0-9]+(e-[0-9]+)?s?\b", "0", text)
    text = re.sub(r"0x[0-9a-f]+|s[0-9]+_x[0-9]+|pid [0-9]+", "ID", text)
    text = re.sub(r"'test_p[0-9]+_[0-9]'|'test_w[0-9]+_[0-9]+'", "'CLONE'", text)
    # Lines about schemas and the summary are the runner's own.
    lines = OWN_LINES.sub("", text).splitlines()
    # Stock Django prints this line for each clone.
    destroying = {line for line in lines if ENDS.fullmatch(line)}
    lines = [line for line in lines if line not in destroying] + [*destroying]
    # The workers of stock Django replace unittest's marker for a missing message.
    lines = [line.replace(" [<object object at ID>]", "") for line in lines]
    # Workers report in random order.
    progress = re.compile(r"[.FEsxu]+")
    return sorted("".join(sorted(x)) if progress.fullmatch(x) else x for x in lines)


def run_both(project: Project, *arguments: str, **options: Any) -> Result:
    """Run with both runners, compare the results, and return that of this package."""
    results = []
    for runner in (STOCK, OURS):
        results.append(project.run(*arguments, "--testrunner", runner, **options))
        for name in project.databases():
            project.drop_database(name)
    stock, ours = results
    assert ours.code == stock.code, ours.output
    assert normalized(ours.stdout) == normalized(stock.stdout)
    assert normalized(ours.stderr) == normalized(stock.stderr)
    return ours


@pytest.mark.versions
@pytest.mark.parametrize(
    ("mode", "flags"), FLAGS, ids=[f"{flags}{'-parallel' * bool(mode)}" for mode, flags in FLAGS]
)
def test_flags_of_a_passing_suite(project: Project, mode: Mode, flags: str) -> None:
    """Output and exit code are those of stock Django."""
    project.tests(TESTS)
    run_both(project, *flags.split(), *mode)


@pytest.mark.versions
@each_mode
@pytest.mark.parametrize("flags", ["", "--failfast", "--buffer -v 2"])
def test_flags_of_a_failing_suite(project: Project, flags: str, mode: Mode) -> None:
    """So are tracebacks, captured output and the last lines, compared to a serial run."""
    # With --failfast, other workers may finish any number of tests, so the suite has one class.
    passing = "" if mode and flags == "--failfast" else TESTS
    # A parallel run may print an error of setUpClass anywhere, and with --buffer stock Django 5.2
    # fails on it: see the separate test below.
    project.tests(passing + FAILING + ("" if mode else NO_SET_UP))
    stock = project.run(*flags.split(), *WITH_STOCK)
    ours = project.run(*flags.split(), *mode).failed("FAILED (")
    assert ours.code == stock.code
    cloning = re.compile("Cloning test database .*\n")
    assert normalized(ours.stdout) == normalized(stock.stdout)
    assert normalized(cloning.sub("", ours.stderr)) == normalized(stock.stderr)


@pytest.mark.versions
@fork_and_spawn
def test_debug_sql(project: Project, mode: Mode, method: str) -> None:
    """Failures show the same SQL as in a serial run, unlike in stock Django's workers."""
    project.tests(TESTS + FAILING)
    flags, labels = ["--debug-sql", "-v"], ["library.test_generated"]
    env = {"START_METHOD": method}
    for verbosity in ("0", "2"):
        stock = project.run(*flags, verbosity, *labels, *WITH_STOCK)
        ours = project.run(*flags, verbosity, *labels, *mode, env=env)
        assert sql_of(ours.failed().stderr) == sql_of(stock.failed().stderr) != []
    # An error in setUpClass shows the SQL of that class only.
    set_up = NO_SET_UP.replace("raise", "query('SELECT 1 AS in_set_up'); raise")
    project.tests(TESTS + set_up)
    if mode:
        failed = project.run(*flags, "0", *mode, env=env).failed().stderr
        assert [line for line in sql_of(failed) if "in_set_up" in line] == sql_of(failed) != []


def sql_of(text: str) -> list[str]:
    """Return the lines of SQL statements, without numbers: sequences differ between workers."""
    # A statement may be printed on several lines.
    keyword = re.compile(r"\b(SELECT|INSERT|SAVEPOINT|FROM|VALUES|RELEASE)\b")
    return [line for line in normalized(re.sub("[0-9]+", "1", text)) if keyword.search(line)]


@pytest.mark.versions
def test_buffer_with_an_error_in_class_set_up(project: Project) -> None:
    """Everything is reported. Stock Django 5.2 fails here."""
    project.tests(TESTS + FAILING + NO_SET_UP)
    expected = "FAILED (failures=3, errors=2, skipped=1, expected failures=1"
    project.run("--buffer", *PARALLEL).failed(expected)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="unittest has it from Python 3.12 on")
def test_durations(project: Project) -> None:
    """The slowest tests are listed as in stock Django."""
    tests = """
        class Slow(SimpleTestCase):
            def test_slow(self): time.sleep(0.2)
            def test_slower(self): time.sleep(0.5)
            def test_fast(self): pass
    """
    project.tests(tests)
    run_both(project, "--durations", "2")


def test_tests_can_set_the_start_method(project: Project) -> None:
    """The runner does not set the start method of multiprocessing."""
    choosing = "__import__('multiprocessing').set_start_method('spawn')"
    project.tests(f"class Choosing(SimpleTestCase):\n    def test_it(self): {choosing}\n")
    project.run().passed()


def test_tests_can_close_standard_output(project: Project) -> None:
    """The run passes, without a summary."""
    project.tests("class Closing(TestCase):\n    def test_it(self): sys.stdout.close()\n")
    run_both(project).passed()


def test_parallel_auto_and_its_variable(project: Project) -> None:
    """DJANGO_TEST_PROCESSES sets the number of workers, and of "Cloning" lines."""
    project.tests(TESTS)
    result = run_both(project, "--parallel", env={"DJANGO_TEST_PROCESSES": "3"})
    assert result.stderr.count("Cloning test database") == 3
    for arguments in (["--parallel"], ["--parallel", "auto"]):
        for runner in (STOCK, OURS):
            wrong = {"DJANGO_TEST_PROCESSES": "many"}
            result = project.run(*arguments, "--testrunner", runner, env=wrong)
            error = "ValueError: invalid literal for int() with base 10: 'many'"
            assert result.failed().stderr.splitlines()[-1] == error


def test_pdb_opens_at_a_failure(project: Project) -> None:
    """A serial run stops in the debugger, and `c` continues it."""
    project.tests("class Failing(TestCase):\n    def test_it(self): 1 / 0\n")
    result = run_both(project, "--pdb", stdin="p 40 + 2\nc\n")
    assert "Opening PDB: ZeroDivisionError" in result.stdout
    assert "42" in result.stdout


def test_pdb_with_parallel_is_refused(project: Project) -> None:
    """The message is Django's, without its traceback."""
    project.tests(TESTS)
    arguments = ("--pdb", *PARALLEL, "--testrunner")
    stock, ours = (project.run(*arguments, runner) for runner in (STOCK, OURS))
    assert ours.code == stock.code == 1
    (line,) = ours.stderr.splitlines()
    assert line == stock.stderr.splitlines()[-1].replace("ValueError", "CommandError")
    assert "You cannot use --pdb with parallel tests" in line


@pytest.mark.versions
@each_mode
def test_tables_without_migrations(project: Project, mode: Mode) -> None:
    """With TEST["MIGRATE"] = False and --no-migrations, tables come from the models."""
    rows = "INSERT INTO library_author (id, name) VALUES (1, 'migrated')"
    project.migration("0002_rows", "0001_initial", f'migrations.RunSQL("{rows}")')
    tests = """
        class NotMigrated(TestCase):
            def test_it(self): self.assertEqual(Author.objects.count(), 0)
        class NorThere(NotMigrated): pass
    """
    project.tests(tests)
    project.run("--no-migrations", *mode).passed()
    project.run(*mode).failed()
    project.configure('DATABASES["default"]["TEST"] = {"MIGRATE": False}')
    run_both(project, *mode).passed()


ISOLATIONS: dict[str, tuple[str, ...]] = {
    "schema": (),
    "database": ("--isolation", "database"),
    "current": ("--host-database", "current"),
    "clones": (),
}


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_end_of_databases_is_shown_once(project: Project, isolation: str) -> None:
    """At verbosity 1 each alias has one line. At 2 the lines name databases that existed."""
    project.tests(TESTS)
    if isolation == "current":
        project.create_database()
    if isolation == "clones":
        project.migration("0002_schema", "0001_initial", "migrations.RunSQL('CREATE SCHEMA mine')")
    flags = (*PARALLEL, *ISOLATIONS[isolation])
    alias = f"test {'schemas' if isolation == 'current' else 'database'} for alias 'default'"
    assert ENDS.findall(project.run(*flags).passed().stderr) == [f"Destroying {alias}..."]

    told = ENDS.findall(project.run(*flags, "--keepdb", "-v", "2").passed().stderr)
    host = project.name if isolation == "current" else project.test_name
    shown = f"schemas in '{host}'" if isolation == "current" else f"'{host}'"
    assert told.count(f"Preserving {alias} ({shown})...") == 1
    names = re.findall(
        "\\((?:schemas in )?'(.*)'\\)|schema (.*) in|database '(.*)'\\.", "\n".join(told)
    )
    kept = {*project.databases(), *worker_schemas(project, host)}
    assert set(map("".join, names)) <= kept
    assert 1 < len(told) <= 3
    for name in project.databases():
        project.drop_database(name)


def worker_schemas(project: Project, host: str | None = None) -> dict[str, str]:
    """Map worker schemas to the states in their markers."""
    found = project.schemas(host).items()
    return {name: marker.state for name, marker in found if marker and name.startswith("test_w")}


def test_keepdb_leaves_the_schemas_and_lists_them(project: Project) -> None:
    """Kept schemas are marked as such, at most one for each class. --clear-pools removes them."""
    project.tests(TESTS)
    result = project.run("--parallel", "16", "--keepdb", "-v", "2").passed()
    kept = worker_schemas(project)
    assert [*kept.values()] == ["kept"] * 4
    for name in kept:
        assert f"Kept schema {name} in database '{project.test_name}'." in result.stderr
    project.run("--keepdb").passed("Using the schemas from a moment ago for alias 'default'...")
    result = project.run("--clear-pools", "library.test_generated.WithoutDatabase").passed()
    assert "No pools removed: these tests use no database." in result.stdout
    assert worker_schemas(project) == kept
    result = project.run("--clear-pools").passed()
    assert "Removed 1 pool (4 schemas, 1 database)." in result.stdout
