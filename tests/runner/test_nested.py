"""A run inside of a test of another run, which afterwards has its own schema back."""

import pytest

from ..project import Mode, Project, each_mode, fork_and_spawn

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
                signal.getsignal(signal.SIGTERM), os.environ.get("PGOPTIONS"))

    def run(*arguments):
        output = io.StringIO()
        # Django allows no second one.
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
            # Each test is isolated from those before.
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
    # Names that discovery does not find.
    project.write("inner/__init__.py", "")
    project.write("inner/tests.py", INNER)
    project.write("inner_failing.py", INNER_FAILING)
    return project


@fork_and_spawn
def test_the_outer_run_has_its_schema_back(nesting: Project, mode: Mode, method: str) -> None:
    """Its tests read and write there, and what the inner run has made is gone."""
    nesting.run("library", *mode, env={"START_METHOD": method}).passed("Ran 8 tests")


@pytest.mark.usefixtures("occupied")
@each_mode
def test_the_project_s_own_tables_keep_their_rows(nesting: Project, mode: Mode) -> None:
    """In `current` mode both runs have their schemas beside them."""
    nesting.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    nesting.run("library", *mode).passed("Ran 8 tests")
