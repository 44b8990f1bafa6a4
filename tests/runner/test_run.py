"""What one run does from start to end, and what it leaves."""

import json
import re

import pytest

from ..digest import digest
from ..project import STOCK, Project

pytestmark = pytest.mark.server

MODES = [(), ("--parallel", "2")]
METHODS = ["fork", "spawn", "forkserver"]

# Writes, as each test runs, where it is: one line of JSON a test.
REPORTING = """
    import json
    import os
    import schema_runner


    def report():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_schema(), current_database(), current_setting('search_path')"
            )
            schema, database, path = cursor.fetchone()
            cursor.execute("SELECT to_regclass('public.library_book') IS NULL")
            worker = schema_runner.current_worker()
            line = {
                "schema": schema, "database": database, "path": path,
                "public_is_empty": cursor.fetchone()[0], "process": os.getpid(),
                "number": worker.number, "worker_schema": worker.schema,
                "schemas": worker.schemas,
            }
        with open("report", "a") as lines:
            lines.write(json.dumps(line) + "\\n")


    class Reporting:
        def test_one(self):
            report()
            self.assertEqual(Author.objects.count(), 0)
            Book.objects.create(title="t", author=Author.objects.create(name="same everywhere"))

        def test_two(self):
            self.test_one()


    class First(Reporting, TestCase):
        pass


    class Second(Reporting, TestCase):
        pass


    class Third(Reporting, TransactionTestCase):
        pass


    class Fourth(Reporting, TransactionTestCase):
        pass
"""


def reported(project: Project) -> list[dict[str, object]]:
    return [json.loads(line) for line in (project.folder / "report").read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
def test_each_worker_has_a_schema_of_its_own(project: Project, mode: tuple[str, ...]) -> None:
    """Named by the worker and the time, in the one host database, first on the path."""
    project.tests(REPORTING)
    project.run(*mode).passed()
    lines = reported(project)
    assert len(lines) == 8
    assert {line["database"] for line in lines} == {project.test_name}
    assert all(line["public_is_empty"] for line in lines)
    for line in lines:
        assert line["schema"] == line["worker_schema"]
        assert str(line["schema"]).startswith(f"test_w{line['number']}_1")
        rest = r",test_shims_\d+,pg_catalog,public" if mode else ",public"
        assert re.fullmatch(f"{line['schema']}{rest}", str(line["path"]))
        assert line["schemas"] == {"default": line["schema"]}
    pairs = {(line["process"], line["schema"]) for line in lines}
    assert len({process for process, _ in pairs}) == len({schema for _, schema in pairs})
    assert len(pairs) <= (2 if mode else 1)


@pytest.mark.parametrize("method", METHODS)
def test_start_methods(project: Project, method: str) -> None:
    """Workers that were spawned know their schema as forked ones do."""
    project.tests(REPORTING)
    project.run("--parallel", "2", env={"START_METHOD": method}).passed()
    assert all(line["schema"] == line["worker_schema"] for line in reported(project))


@pytest.mark.parametrize("mode", MODES)
def test_the_project_s_own_database_is_unchanged(project: Project, mode: tuple[str, ...]) -> None:
    """Tables of the same names, with rows, and rows that say all migrations are applied."""
    project.create_database()
    project.tests(REPORTING)
    with project.host(project.name) as connection:
        connection.execute(
            "CREATE TABLE library_author (id int, name text);"
            "INSERT INTO library_author VALUES (1, 'precious');"
            "CREATE TABLE django_migrations (id serial, app text, name text, applied timestamp);"
            "INSERT INTO django_migrations (app, name) VALUES ('library', '0001_initial')"
        )
        before = digest(connection)
    project.run(*mode).passed()
    with project.host(project.name) as connection:
        assert digest(connection) == before
    assert project.databases() == [project.name]
    project.drop_database()


def test_public_of_the_host_database_is_left_as_it_was(project: Project) -> None:
    """While a run's schemas exist, its `public` has what CREATE DATABASE put there."""
    project.tests(REPORTING)
    project.create_database()
    with project.host(project.name) as connection:
        pristine = digest(connection)
    project.run("--parallel", "2", "--keepdb").passed()
    with project.host() as connection:
        assert digest(connection) == pristine
    project.drop_database()
    project.drop_database(project.test_name)


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_suite_leaves_nothing(project: Project, mode: tuple[str, ...]) -> None:
    """Failures and errors end as in stock Django, and everything is dropped."""
    project.tests(
        """
        class Failing(TransactionTestCase):
            def test_failure(self):
                Author.objects.create(name="left behind")
                self.fail("as planned")


        class Breaking(TestCase):
            def test_error(self):
                1 / 0
        """
    )
    result = project.run(*mode)
    assert result.code == 1
    assert "FAILED (failures=1, errors=1)" in result.stderr
    assert project.databases() == []


def test_a_failing_migration_leaves_nothing(project: Project) -> None:
    """What was made until then is removed, and the error is the migration's own."""
    project.migration("0002_broken", "0001_initial", "migrations.RunSQL('SELECT 1/0')")
    project.tests(REPORTING)
    result = project.run("--parallel", "2")
    assert result.code == 1
    assert "division by zero" in result.stderr
    assert project.databases() == []


def test_schemas_of_the_same_name_do_not_meet_stock_s_databases(project: Project) -> None:
    """A run under stock Django before and after finds what it expects."""
    project.tests(REPORTING.replace("worker = schema_runner.current_worker()", "return"))
    for runner in (STOCK, "schema_runner.SchemaDiscoverRunner", STOCK):
        project.run("--parallel", "2", "--testrunner", runner).passed()
        assert project.databases() == []


@pytest.mark.parametrize("runner", [STOCK, "schema_runner.SchemaDiscoverRunner"])
def test_an_extension_that_cannot_be_created(project: Project, runner: str) -> None:
    """The error is that of the connection that it was created on, and of its savepoint."""
    project.tests(
        """
        from django.db import DatabaseError, transaction


        class Creating(TestCase):
            def create(self, using):
                with self.assertRaises(DatabaseError), using.cursor() as cursor:
                    cursor.execute("CREATE EXTENSION no_such_extension")

            def test_on_a_copy(self):
                other = connection.copy()
                self.addCleanup(other.close)
                self.create(other)
                self.assertTrue(other.get_autocommit())
                self.assertEqual(Author.objects.count(), 0)

            def test_within_a_savepoint(self):
                before = transaction.savepoint()
                self.create(connection)
                transaction.savepoint_rollback(before)
                self.assertEqual(Author.objects.count(), 0)


        class InAnotherWorker(Creating):
            pass
        """
    )
    project.run("--parallel", "2", "--testrunner", runner).passed()


def test_a_runner_of_one_s_own_uses_the_mixin(project: Project) -> None:
    """SchemaRunnerMixin goes before the class that is there already."""
    project.write(
        "runner.py",
        """
        from django.test.runner import DiscoverRunner
        from schema_runner import SchemaRunnerMixin


        class Own(DiscoverRunner):
            @classmethod
            def add_arguments(cls, parser):
                super().add_arguments(parser)
                parser.add_argument("--greet")

            def __init__(self, greet=None, **kwargs):
                super().__init__(**kwargs)
                print("Hello", greet)


        class OwnWithSchemas(SchemaRunnerMixin, Own):
            pass
        """,
    )
    project.configure('TEST_RUNNER = "runner.OwnWithSchemas"')
    project.tests(REPORTING)
    result = project.run("--parallel", "2", "--greet", "there").passed()
    assert "Hello there" in result.stdout
    assert all(line["schema"] == line["worker_schema"] for line in reported(project))
