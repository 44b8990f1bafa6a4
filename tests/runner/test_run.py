"""What one run does from start to end, and what it leaves."""

import json

import pytest

from ..digest import digest
from ..project import STOCK, Project

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
        assert line["path"] == f"{line['schema']},public"
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


def test_two_aliases_of_one_database_share_its_schema(project: Project) -> None:
    """A second alias and a mirror see what the first has written."""
    project.configure(
        """
        DATABASES["again"] = DATABASES["default"]
        DATABASES["mirror"] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
        """
    )
    project.tests(
        """
        class Shared(TransactionTestCase):
            databases = {"default", "again", "mirror"}

            def test_all_see_one_row(self):
                Author.objects.create(name="a")
                for alias in self.databases:
                    self.assertEqual(Author.objects.using(alias).count(), 1)


        class More(Shared):
            pass
        """
    )
    for mode in MODES:
        project.run(*mode).passed()


def test_an_alias_on_another_backend_keeps_django_s_behaviour(project: Project) -> None:
    """SQLite beside PostgreSQL is created, cloned and destroyed as ever."""
    project.configure(
        'DATABASES["small"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": "small.sqlite3"}'
    )
    project.tests(
        """
        class Both(TestCase):
            databases = {"default", "small"}

            def test_each_has_its_own(self):
                Author.objects.using("small").create(name="a")
                self.assertEqual(Author.objects.count(), 0)


        class More(Both):
            pass
        """
    )
    for mode in MODES:
        project.run(*mode).passed()


@pytest.mark.parametrize("mode", MODES)
def test_one_database_by_two_names_of_its_server(
    project: Project, tmp_path_factory: pytest.TempPathFactory, mode: tuple[str, ...]
) -> None:
    """Django takes them for two databases, so each alias gets schemas of its own."""
    link = tmp_path_factory.mktemp("s") / "s"
    link.symlink_to(project.server.params["host"])
    project.configure(f'DATABASES["again"] = {{**DATABASES["default"], "HOST": {str(link)!r}}}')
    project.tests(
        """
        class Apart(TransactionTestCase):
            databases = {"default", "again"}

            def test_each_sees_its_own(self):
                Author.objects.create(name="a")
                self.assertEqual(Author.objects.using("again").count(), 0)


        class More(Apart):
            pass
        """
    )
    project.run(*mode).passed()


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_pool(project: Project, mode: tuple[str, ...]) -> None:
    """Forked workers use pools of their own, also where the parent has used one."""
    project.configure('DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 3}}')
    project.tests(
        """
        class Pooled(TransactionTestCase):
            serialized_rollback = True

            def test_it(self):
                self.assertEqual(Author.objects.count(), 0)
                Author.objects.create(name="a")

            def test_again(self):
                self.test_it()


        class More(Pooled):
            pass
        """
    )
    project.run(*mode).passed()


@pytest.mark.parametrize("method", METHODS)
def test_creation_can_be_asked_in_a_worker(project: Project, method: str) -> None:
    """Code under test may use what Django's creation class has, as in stock Django."""
    project.tests(
        """
        class Asking(TestCase):
            def test_signature(self):
                self.assertEqual(len(connection.creation.test_db_signature()), 4)


        class More(Asking):
            pass
        """
    )
    project.run("--parallel", "2", env={"START_METHOD": method}).passed()


def test_new_threads_and_live_servers_use_the_worker_s_schema(project: Project) -> None:
    """Connections that are opened anew find the schema without being told."""
    project.write(
        "urls.py",
        """
        from django.http import HttpResponse
        from django.urls import path
        from library.models import Author

        urlpatterns = [path("", lambda request: HttpResponse(Author.objects.get().name))]
        """,
    )
    project.configure('ROOT_URLCONF = "urls"; ALLOWED_HOSTS = ["*"]')
    project.tests(
        """
        import threading
        from urllib.request import urlopen
        from django.test import LiveServerTestCase


        class Live(LiveServerTestCase):
            def test_server_and_thread(self):
                Author.objects.create(name="shared")
                with urlopen(self.live_server_url) as response:
                    self.assertEqual(response.read(), b"shared")
                names = []

                def look():
                    names.extend(Author.objects.values_list("name", flat=True))
                    connection.close()

                thread = threading.Thread(target=look)
                thread.start()
                thread.join()
                self.assertEqual(names, ["shared"])


        class More(Live):
            pass
        """
    )
    for mode in MODES:
        project.run(*mode).passed()
