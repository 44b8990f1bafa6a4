"""A run inside a test of another run, which gets its own schema back afterwards."""

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project, each_mode, fork_and_spawn

TESTS = """
    import io
    from contextlib import redirect_stderr, redirect_stdout

    from django.conf import settings
    from django.core.management import call_command
    from django.test.utils import setup_test_environment, teardown_test_environment
    from schema_runner import SchemaDiscoverRunner, current_worker

    def place(): return query("SELECT current_schema(), current_database()")[0]

    def state():
        return (place(), current_worker(), settings.DATABASES["default"]["NAME"],
                connection.settings_dict["NAME"], connection.settings_dict["OPTIONS"],
                [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
                os.environ.get("PGOPTIONS"))

    def run(*arguments):
        output = io.StringIO()
        # Django allows only one test environment at a time.
        teardown_test_environment()
        try:
            with redirect_stdout(output), redirect_stderr(output):
                call_command("test", *arguments, "--noinput")
        except SystemExit as error:
            return output.getvalue(), error.code
        finally:
            setup_test_environment()
        return output.getvalue(), 0

    class Nesting:
        def setUp(self):
            self.before = state()
            # Each test is isolated from earlier ones.
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="outer")

        def assert_restored(self):
            self.assertEqual(state(), self.before)
            Author.objects.create(name="later")
            names = set(Author.objects.values_list("name", flat=True))
            self.assertEqual(names, {"outer", "later"})
            Author.objects.filter(name="later").delete()

        def test_a_set_up_and_teardown(self):
            for parallel in (1, 2):
                runner = SchemaDiscoverRunner(verbosity=0, interactive=False, parallel=parallel)
                config = runner.setup_databases()
                try:
                    self.assertNotEqual(place(), self.before[0])
                    self.assertEqual(Author.objects.count(), 0)
                    Author.objects.create(name="inner")
                finally:
                    runner.teardown_databases(config)
                self.assert_restored()

        def test_b_a_run_by_the_command(self):
            # Workers start workers too, unlike those of stock Django.
            for extra in [], ["--parallel", "2"]:
                output, code = run("inner", *extra)
                self.assertEqual(code, 0, output)
                self.assertIn("Ran 2 tests", output)
                self.assert_restored()

        def test_c_a_run_that_fails(self):
            output, code = run("inner_failing")
            self.assertEqual(code, 1, output)
            self.assertIn("as planned", output)
            self.assert_restored()

        def test_d_is_isolated_as_before(self): self.assert_restored()
    class First(Nesting, TransactionTestCase): pass
    class Second(Nesting, TransactionTestCase): pass
"""
INNER = """
    from helpers import *
    from library.models import Author

    class Inner(TestCase):
        def test_inner(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="inner")
    class InnerToo(Inner): pass
"""
INNER_FAILING = """
    from helpers import *

    class Failing(TestCase):
        def test_failing(self): self.fail("as planned")
"""


@pytest.fixture
def nesting(project: Project) -> Project:
    project.tests(TESTS)
    # Discovery does not find these names.
    project.write("inner/__init__.py", "")
    project.write("inner/tests.py", INNER)
    project.write("inner_failing.py", INNER_FAILING)
    return project


@fork_and_spawn
def test_the_outer_run_gets_its_schema_back(nesting: Project, mode: Mode, method: str) -> None:
    """Tests of the outer run use its schema, and nothing of the inner run is left."""
    nesting.run("library", *mode, env={"START_METHOD": method}).passed("Ran 8 tests")


@pytest.mark.usefixtures("occupied")
@each_mode
def test_tables_of_the_project_keep_their_rows(nesting: Project, mode: Mode) -> None:
    """In `current` mode, the schemas of both runs are in the same database."""
    nesting.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    nesting.run("library", *mode).passed("Ran 8 tests")


BORROWING = """
    from django.test.runner import partition_suite_by_case
    from schema_runner import SchemaParallelTestSuite
    from schema_runner.errors import SchemaRunnerError

    def inner(names):
        tests = unittest.defaultTestLoader.loadTestsFromName(names)
        return SchemaParallelTestSuite(partition_suite_by_case(tests), 2)

    class Borrowing(TransactionTestCase):
        def test_a_databases_of_others(self):
            with self.assertRaisesMessage(SchemaRunnerError, "setup_databases() first"):
                inner("inner.tests").run(unittest.TestResult())
        def test_b_no_databases(self):
            Author.objects.create(name="outer")
            suite, result = inner("inner_simple"), unittest.TestResult()
            suite.used_aliases = set()
            suite.run(result)
            self.assertEqual((result.testsRun, result.errors, result.failures), (2, [], []))
            self.assertEqual(Author.objects.count(), 1)
    class BorrowingToo(Borrowing): pass
"""
INNER_SIMPLE = """
    from helpers import *

    class Simple(SimpleTestCase):
        def test_simple(self): pass
    class SimpleToo(Simple): pass
"""


def test_inner_workers_use_nothing_of_the_outer_run(project: Project) -> None:
    """Inner workers drop no schema of the outer run, and are refused the use of one."""
    project.tests(BORROWING)
    project.write("inner/__init__.py", "")
    project.write("inner/tests.py", INNER)
    project.write("inner_simple.py", INNER_SIMPLE)
    project.run("library", *PARALLEL).passed("Ran 4 tests")


STARTING = """
    import subprocess
    from django.conf import settings

    class Starting(TestCase):
        def setUp(self):
            # As tests of tools do: OPTIONS contain the application_name of this run.
            text = f"from settings import *; DATABASES = {settings.DATABASES!r}"
            name = f"settings_{os.getpid()}"
            Path(f"{name}.py").write_text(text)
            self.assertIn("django-schema-runner", text)
            self.settings = name
            Author.objects.create(name="outer")

        def start(self, place):
            command = [sys.executable, "manage.py", "test", "inner", "--host-database", place]
            command += ["--settings", self.settings, "--noinput", "--parallel", "2"]
            environment = {**os.environ, "PGAPPNAME": "django-schema-runner 1"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("Ran 2 tests", done.stderr)
            self.assertNotIn("stays", done.stdout + done.stderr)
            self.assertNotIn("Removed", done.stdout)
            self.assertEqual(Author.objects.get().name, "outer")

        def test_a_current(self): self.start("current")
        def test_b_test(self): self.start("test")
    class StartingToo(Starting): pass
"""


@pytest.mark.parametrize(
    ("mode", "place"),
    [(SERIAL, "test"), (PARALLEL, "current"), (PARALLEL, "clones"), (PARALLEL, "own")],
)
def test_a_run_that_a_test_starts_as_a_subprocess(
    project: Project, mode: Mode, place: str
) -> None:
    """Whatever the application_name, it ends no sessions of its own or of the outer run."""
    project.tests(STARTING)
    project.write("inner/__init__.py", "")
    project.write("inner/tests.py", INNER)
    project.create_database()
    if place == "current":
        project.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    elif place == "own":
        project.configure('SCHEMA_RUNNER = {"OWN_DATABASE": ["library"]}')
    elif place == "clones":
        # For the outer run only: in the project's own database, the inner run may not create it.
        operation = "migrations.RunPython(__import__('making').make)"
        project.migration("0002_making", "0001_initial", operation)
        project.write(
            "making.py",
            """
            from django.conf import settings

            def make(apps, editor):
                if settings.SETTINGS_MODULE == "settings":
                    editor.execute("CREATE SCHEMA extra")
            """,
        )
    project.run("library", *mode).passed("Ran 4 tests")
    assert project.schemas(project.name) == {}
    project.drop_database(project.name)
