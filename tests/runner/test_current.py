"""Schemas in the project's own database (`HOST_DATABASE = "current"`), next to its tables."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from textwrap import dedent
from typing import Any

import pytest

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project, each_mode, wait_for
from .decoys import DECOYS, unchanged
from .test_keepdb import EXTENSION
from .test_run import FAILING

pytestmark = pytest.mark.oldest

SMALL = """
    class Any(TestCase):
        def test_it(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="a")
    class Alike(Any): pass
"""


@pytest.fixture
def project(project: Project) -> Iterator[Project]:
    """A project with HOST_DATABASE "current", whose database has tables of the same names."""
    project.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    project.tests(SMALL)
    project.create_database()
    execute(project, DECOYS)
    yield project
    project.end()
    project.drop_database()


@pytest.fixture
def occupied(project: Project) -> Iterator[Project]:
    """The same project, with a check that nothing outside the runs' schemas changes."""
    with unchanged(project):
        yield project


def execute(project: Project, statements: str) -> list[tuple[Any, ...]]:
    return project.query(statements, database=project.name)


def own_schemas(project: Project) -> set[str]:
    """Return the names of the schemas that runs created."""
    marked = """SELECT nspname FROM pg_namespace
                WHERE obj_description(oid, 'pg_namespace') LIKE '{"schema_runner": 1,%'"""
    return {name for (name,) in execute(project, marked)}


EVERYTHING = """
    from io import StringIO

    from django.contrib.contenttypes.models import ContentType
    from django.core.cache import cache
    from django.core.management import call_command
    from django.db import ProgrammingError

    class Isolated(TestCase):
        fixtures = ["authors"]
        def test_rows(self):
            self.assertEqual([a.name for a in Author.objects.all()], ["of a fixture"])
            Book.objects.create(title="t", author=Author.objects.create(name="mine"))
        def test_content_types(self):
            self.assertEqual(ContentType.objects.filter(app_label="decoy").count(), 0)
            self.assertEqual(ContentType.objects.get_for_model(Book).app_label, "library")
        def test_inspectdb(self):
            call_command("inspectdb", include_views=True, stdout=(output := StringIO()))
            for said in ("class LibraryBook(", "title = "):
                self.assertIn(said, output.getvalue())
            for decoy in ("precious", "eftover"):
                self.assertNotIn(decoy, output.getvalue())

        def test_cache(self):
            self.assertIsNone(cache.get("a"))
            cache.set("a", "b")
            self.assertEqual(cache.get("a"), "b")
        @tag("bare")
        def test_what_migrations_have_not_made(self):
            with self.assertRaises(ProgrammingError):
                query("SELECT n FROM library_leftover")

    class Committing(TransactionTestCase):
        def test_flush(self):
            Author.objects.create(name="a")
            call_command("flush", interactive=False, verbosity=0)
            self.assertEqual(Author.objects.count(), 0)
            self.assertEqual(ContentType.objects.filter(app_label="decoy").count(), 0)

        def test_loaddata(self):
            call_command("loaddata", "authors", verbosity=0)
            self.assertEqual(Author.objects.get().name, "of a fixture")
        def test_createcachetable(self):
            query("DROP TABLE cache_rows")
            call_command("createcachetable", verbosity=0)
            self.assertIsNone(cache.get("a"))
        def test_writes(self):
            Author.objects.create(name="mine").delete()
            Author.objects.all().delete()

    @tag("migrating")
    class Migrating(TransactionTestCase):
        def test_migrate(self):
            call_command("migrate", "library", "zero", verbosity=0)
            self.assertNotIn("library_book", connection.introspection.table_names())
            for reach in (Author.objects.count, Author.objects.all().delete):
                self.assertRaises(ProgrammingError, reach)
            call_command("migrate", "library", verbosity=0)
            self.assertEqual(Author.objects.count(), 0)

    class Where(SimpleTestCase):
        databases = {"default"}
        def test_it(self):
            where = "current_schema(), current_database(), current_setting('search_path')"
            record("where", place=query(f"SELECT {where}")[0])
    class WhereElse(Where): pass
"""


@pytest.fixture
def everything(occupied: Project) -> Project:
    """A project whose tests use every way to reach tables of `public` by name."""
    cache = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache_rows"}
    occupied.configure(f"CACHES = {{'default': {cache}}}")
    row = '[{"model": "library.author", "pk": 1, "fields": {"name": "of a fixture"}}]'
    occupied.write("library/fixtures/authors.json", row)
    # Objects that are invisible to migrations must be invisible to DROP IF EXISTS, too.
    drops = """
        DROP VIEW IF EXISTS leftover_view; DROP TABLE IF EXISTS library_leftover CASCADE;
        DROP TYPE IF EXISTS leftover_mood; DROP FUNCTION IF EXISTS leftover();
        ALTER TABLE IF EXISTS library_leftover ADD COLUMN more int
    """
    drop = f"migrations.RunSQL({drops!r}, migrations.RunSQL.noop)"
    occupied.migration("0002_more", "0001_initial", drop)
    occupied.tests(EVERYTHING)
    return occupied


STARTS = {
    "stock": (WITH_STOCK, "fork"),
    "serial": (SERIAL, "fork"),
    "fork": (PARALLEL, "fork"),
    # Workers started by forkserver receive the same configuration.
    "spawn": (PARALLEL, "spawn"),
    "no-migrations": ((*PARALLEL, "--no-migrations", "--exclude-tag", "migrating"), "fork"),
}


@pytest.mark.parametrize(("mode", "method"), STARTS.values(), ids=STARTS)
def test_public_does_not_change(everything: Project, mode: Mode, method: str) -> None:
    """Tests that use tables by bare name do not change tables of the same names in `public`."""
    result = everything.run(*mode, "--verbosity", "2", env={"START_METHOD": method}).passed()
    if mode == WITH_STOCK:
        return
    places = [one["place"] for one in everything.records("where")]
    assert len(places) == 2
    for schema, database, path in places:
        assert schema.startswith("test_w")
        assert database == everything.name
        assert "public" not in path
    assert "Destroying test schemas for alias 'default' (" in result.output
    assert "Destroying test database" not in result.output
    assert own_schemas(everything) == set()


def test_public_on_the_search_path_does_not_change(everything: Project) -> None:
    """If an extension keeps `public` on the search_path, its tables still cannot be reached."""
    execute(everything, "CREATE EXTENSION hstore")
    (everything.folder / "library/migrations/0002_more.py").unlink()
    everything.run("--exclude-tag", "migrating", "--exclude-tag", "bare").passed()
    ends = [one["place"][2].split(",")[-3:] for one in everything.records("where")]
    assert ends == [["pg_catalog", "test_extensions", "public"]] * 2
    execute(everything, "DROP EXTENSION hstore")


def test_failures(occupied: Project) -> None:
    """A failed test and a failed migration leave as little behind as a run that passes."""
    occupied.tests(FAILING)
    occupied.run(*PARALLEL).failed("FAILED (failures=1, errors=1)")
    assert own_schemas(occupied) == set()
    occupied.migration("0002_broken", "0001_initial", "migrations.RunSQL('SELECT 1/0')")
    occupied.run(*PARALLEL).failed("division by zero")


# Tests that record their schema, and block until a file appears.
WAITING = """
    class First(TestCase):
        def test_it(self):
            # Other runs hold the same key.
            query("SELECT pg_advisory_lock(42)")
            query("SELECT 'a=>1'::hstore -> 'a'")
            record("waits", go=os.environ.get("GO", "go"))
            wait_for(os.environ.get("GO", "go"))
    class Second(First): pass
"""


@pytest.fixture
def waiting(occupied: Project) -> Project:
    """A project whose tests block, and need an extension that a migration creates."""
    occupied.migration("0002_more", "0001_initial", EXTENSION)
    occupied.tests(WAITING)
    return occupied


def wait_until_tests(project: Project, number: int) -> list[tuple[str, str]]:
    """Wait until this many processes are in a test; return the file and the schema of each."""
    what = f"{number} processes in a test"
    wait_for(lambda: len({one["process"] for one in project.records("waits")}) == number, what)
    return [(one["go"], one["schema"]) for one in project.records("waits")]


def extensions(project: Project) -> dict[str, str]:
    """Map each extension to its schema."""
    placed = "SELECT extname, extnamespace::regnamespace::text FROM pg_extension"
    return dict(execute(project, placed))


def test_concurrent_runs(waiting: Project) -> None:
    """Two runs share an extension but no advisory lock, and remove what a killed run left."""
    with waiting.host(waiting.name) as developer:
        developer.execute("SELECT pg_advisory_lock(42)")
        killed = waiting.start(env={"GO": "never"})
        live = waiting.start(*PARALLEL)
        places = wait_until_tests(waiting, 3)
        dead = {schema for go, schema in places if go == "never"}
        alive = {schema for go, schema in places if go == "go"}
        assert extensions(waiting)["hstore"] == "test_extensions"
        killed.kill()
        killed.communicate(timeout=60)
        assert dead | alive < own_schemas(waiting)
        (waiting.folder / "at_once").touch()
        result = waiting.run(env={"GO": "at_once"}).passed()
        assert "stays" not in result.output
        (removed,) = re.findall("Removed .*", result.stdout)
        assert {schema for schema in dead | alive if schema in removed} == dead
        assert alive < own_schemas(waiting)
        assert extensions(waiting)["hstore"] == "test_extensions"
        (waiting.folder / "go").touch()
        stdout, stderr = live.communicate(timeout=60)
        assert live.returncode == 0, stdout + stderr
    assert own_schemas(waiting) == set()


def test_ctrl_c(waiting: Project) -> None:
    """One Ctrl-C ends the run after its running tests, a second one immediately. Both clean up."""
    process = waiting.start()
    wait_until_tests(waiting, 1)
    os.killpg(process.pid, signal.SIGINT)
    (waiting.folder / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, stderr
    assert "Ran 1 test " in stderr
    assert own_schemas(waiting) == set()

    process = waiting.start(*PARALLEL, env={"GO": "never"})
    wait_until_tests(waiting, 3)
    for pause in (1, 30):
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=pause)
            break
    assert own_schemas(waiting) == set()


def test_a_role_that_may_only_create_schemas(project: Project) -> None:
    """The role needs no privilege on `public`, and works without that schema."""
    project.migration("0002_more", "0001_initial", EXTENSION)
    closes, drops = "REVOKE ALL ON SCHEMA public FROM PUBLIC", "DROP SCHEMA public CASCADE"
    with role(project):
        for public, mode in ((closes, PARALLEL), (drops, SERIAL)):
            execute(project, public)
            with unchanged(project):
                project.run(*mode).passed()


def test_a_publication_for_all_tables_is_refused(project: Project) -> None:
    """The run refuses to start, because the publication would replicate the tests' changes."""
    execute(project, "CREATE PUBLICATION feed FOR ALL TABLES")
    with unchanged(project):
        result = project.run(*PARALLEL).refused()
        assert "publication feed is FOR ALL TABLES" in result.stderr
        assert "Use --host-database test" in result.stderr
        project.run(*SERIAL, "--host-database", "test").passed()


def test_a_role_that_may_not_create_schemas(project: Project) -> None:
    """The error contains the GRANT to run, and nothing is created."""
    with role(project, "CONNECT") as name, unchanged(project):
        result = project.run(*PARALLEL).refused()
        assert result.stderr.count(f'GRANT CREATE ON DATABASE "{project.name}" TO "{name}";') == 1
        assert "Warning" not in result.stderr
        assert "Ran " not in result.stderr


def test_a_foreign_schema_with_the_name_of_that_for_extensions(project: Project) -> None:
    """The run refuses to use it and says to rename it."""
    execute(project, "CREATE SCHEMA test_extensions")
    with unchanged(project):
        result = project.run().failed("has a schema test_extensions that no run has created")
        assert "Warning" not in result.stderr


def test_a_search_path_of_the_project(project: Project) -> None:
    """Extensions in the schemas of a configured search_path are found."""
    execute(project, 'CREATE SCHEMA "Extra, own"; CREATE EXTENSION citext SCHEMA "Extra, own"')
    execute(project, 'GRANT USAGE ON SCHEMA "Extra, own" TO PUBLIC')
    path = '"Extra, own", public'
    alters = "ALTER TABLE library_author ALTER name TYPE citext"
    project.migration("0002_more", "0001_initial", f"migrations.RunSQL({alters!r})")
    tests = """
        class Any(TestCase):
            def test_it(self):
                Author.objects.create(name="Capital")
                self.assertTrue(Author.objects.filter(name="CAPITAL").exists())
        class Alike(Any): pass
    """
    project.tests(tests)
    options = "-c search_path=" + path.replace(" ", "\\ ")
    with role(project) as name:
        for mode, owner in ((SERIAL, f"ROLE {name}"), (PARALLEL, f"DATABASE {project.name}")):
            execute(project, f"ALTER {owner} SET search_path = {path}")
            with unchanged(project):
                project.run(*mode).passed()
            execute(project, f"ALTER {owner} RESET search_path")
        project.configure(f'DATABASES["default"]["OPTIONS"] = {{"options": {options!r}}}')
        with unchanged(project):
            project.run(*PARALLEL).passed()


@contextmanager
def role(project: Project, rights: str = "CONNECT, CREATE") -> Iterator[str]:
    """Make the project use a role with these privileges on its database only."""
    name = f"{project.name}_poor"
    project.configure(f'DATABASES["default"]["USER"] = {name!r}')
    closes = f"REVOKE ALL ON DATABASE {project.name} FROM PUBLIC"
    grants = f"GRANT {rights} ON DATABASE {project.name} TO {name}"
    execute(project, f"CREATE ROLE {name} LOGIN; {closes}; {grants}")
    yield name
    execute(project, f"DROP OWNED BY {name}; DROP ROLE {name}")


@each_mode
def test_extensions(project: Project, mode: Mode) -> None:
    """Extensions go to a shared schema, unless `public` has them, and are dropped at the end."""
    project.migration(
        "0002_more",
        "0001_initial",
        """
        __import__("django.contrib.postgres.operations", fromlist=["x"]).HStoreExtension(),
        migrations.RunSQL("CREATE EXTENSION citext"),
        migrations.RunSQL("CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public"),
        migrations.RunSQL("DO $$ BEGIN CREATE EXTENSION cube; END $$"),
        migrations.RunSQL("CREATE EXTENSION earthdistance; CREATE EXTENSION ltree"),
        migrations.RunSQL(
            '''ALTER TABLE library_book ADD tags hstore, ADD code citext, ADD place earth,
                                        ADD path ltree;
               CREATE INDEX trigrams ON library_book USING gin (title gin_trgm_ops)'''
        ),
        # The view must not depend on the worker whose schema was built first.
        migrations.RunSQL("CREATE VIEW busy AS SELECT pg_try_advisory_xact_lock(1) AS mine"),
        """,
    )
    tests = """
        class Any(TestCase):
            def test_it(self):
                found = query("SELECT 'a=>1'::hstore -> 'a', 'A' = 'a'::citext")
                self.assertEqual(found, [("1", True)])
                names = query("SELECT extname, extnamespace::regnamespace FROM pg_extension")
                record("has", extensions=dict(names))
        class Alike(Any): pass
    """
    project.tests(tests)
    execute(project, "CREATE EXTENSION ltree")
    with unchanged(project):
        project.run(*mode).passed()
    shared = ["hstore", "citext", "pg_trgm", "cube", "earthdistance"]
    expected = dict.fromkeys(shared, "test_extensions")
    expected |= {"ltree": "public", "plpgsql": "pg_catalog"}
    assert [one["extensions"] for one in project.records("has")] == [expected, expected]


def test_extensions_that_other_objects_use(project: Project) -> None:
    """They stay while other objects depend on them, and a later run drops them."""
    project.migration("0002_more", "0001_initial", EXTENSION)
    creates = "migrations.RunSQL('CREATE EXTENSION citext; CREATE EXTENSION pg_buffercache')"
    project.migration("0003_more", "0002_more", creates)
    tests = """
        from psycopg import connect

        class Using(TransactionTestCase):
            def test_it(self):
                query("CREATE TABLE IF NOT EXISTS public.precious AS SELECT 'a=>1'::hstore")

        class Looking(SimpleTestCase):
            databases = {"default"}
            def test_it(self):
                where = connection.get_connection_params()
                keys = ("host", "port", "user", "dbname")
                # Stays open until the process ends.
                Looking.developer = connect(**{key: where[key] for key in keys})
                Looking.developer.execute("LOCK TABLE test_extensions.pg_buffercache")
    """
    project.tests(tests)
    expected = {"HOST_DATABASE": "current", "EXPECTED_CHANGES": ["public.precious"]}
    project.configure(f"SCHEMA_RUNNER = {expected}")
    with unchanged(project):
        result = project.run().passed()
        why = "extension hstore stays: column hstore of table public.precious depends on"
        assert why in result.stdout
        assert "extension pg_buffercache stays: " in result.stdout
        shared = dict.fromkeys(["hstore", "pg_buffercache"], "test_extensions")
        assert extensions(project) == {"plpgsql": "pg_catalog", **shared}
        project.run(*PARALLEL).passed()
        rows = execute(project, "SELECT hstore::text FROM precious")
        assert rows == [('"a"=>"1"',)]
        execute(project, "DROP TABLE precious")
        project.tests(SMALL)
        assert "stays" not in project.run().passed().output


def test_reference_data_does_not_change_tables_of_the_project(project: Project) -> None:
    """Unmanaged models may have tables in `public`, which may be on the search_path."""
    execute(project, "CREATE EXTENSION citext; ALTER TABLE library_leftover ADD PRIMARY KEY (n)")
    leftover = """
        class Leftover(models.Model):
            n = models.IntegerField(primary_key=True)

            class Meta:
                managed = False

        def seed(using): Leftover.objects.using(using).create(n=8)
    """
    with (project.folder / "library/models.py").open("a") as models:
        models.write(dedent(leftover))
    row = '[{"model": "library.leftover", "pk": 7, "fields": {}}]'
    project.write("library/fixtures/leftovers.json", row)
    with unchanged(project):
        for key, value in [("FIXTURES", "leftovers"), ("SEEDERS", "library.models.seed")]:
            settings = {"HOST_DATABASE": "current", key: [value]}
            project.configure(f"SCHEMA_RUNNER = {settings}")
            project.run().refused("A fixture or seeder would change the project's own ")


def test_migration_lint(occupied: Project) -> None:
    """The lint lists statements outside the worker schema by file and line before the build."""
    occupied.migration(
        "0002_more",
        "0001_initial",
        """
        migrations.RunSQL("SELECT count(*) FROM public.library_author"),
        migrations.RunPython(
            lambda apps, editor: editor.execute("COMMENT ON TABLE public.library_book IS 'x'")
        ),
        """,
    )
    occupied.migration("0003_more", "0002_more", 'migrations.RunSQL("CREATE SCHEMA audit")')
    looks = """migrations.RunSQL("SELECT FROM pg_class WHERE relname = 'library_book'")"""
    occupied.migration("0004_more", "0003_more", looks)

    def found(name: str, text: str) -> str:
        path = f"library/migrations/{name}_more.py"
        lines = (occupied.folder / path).read_text().splitlines()
        (number,) = (number for number, line in enumerate(lines, 1) if text in line)
        return f"{path}:{number}: "

    result = occupied.run(*PARALLEL).refused()
    lines = [line.strip() for line in result.stderr.splitlines()]
    assert [line for line in lines if line.startswith("library/migrations")] == [
        found("0002", "library_author") + "names the schema public (public.library_author)",
        found("0002", "library_book") + "names the schema public (public.library_book)",
        found("0003", "audit") + "affects the whole database (CREATE SCHEMA)",
    ]
    assert "Creating" not in result.output
    trusted = {"HOST_DATABASE": "current", "TRUSTED_MIGRATIONS": ["library.0002_more"]}
    occupied.configure(f"SCHEMA_RUNNER = {trusted}")
    counts = 'migrations.RunSQL("SELECT count(*) FROM public.library_author")'
    occupied.migration("0002_more", "0001_initial", counts)
    occupied.migration("0003_more", "0002_more", 'migrations.RunSQL("SELECT 1")')
    result = occupied.run(*PARALLEL).passed()
    (warning,) = [line for line in result.stdout.splitlines() if line.startswith("Warning")]
    assert found("0004", "pg_class") + "queries the catalog" in warning
    assert "pg_class" in warning


# Maps what a migration executes to whether it is atomic. Neither names `public` in the source:
# expressions are refused before they run, statements are rolled back.
BY_TEXT = {
    '"DELETE FROM " + ".".join(["pub" + "lic", "library_book"])': True,
    'sql.SQL("DELETE FROM {}").format(sql.Identifier("pub" + "lic", "library_book"))': False,
}
BY_EFFECT = {
    "DELETE FROM library_leftover": False,
    # `"call"` is an alias here, not the CALL statement.
    'UPDATE library_leftover AS "call" SET n = 2': False,
    # Nor do data or comments end the transaction.
    "UPDATE library_leftover SET n = 2 WHERE 'CALL' <> '' -- COMMIT": False,
    "DROP VIEW IF EXISTS leftover_view": True,
    "DROP TYPE IF EXISTS leftover_mood": False,
    "CREATE TABLE t (n int REFERENCES library_leftover)": True,
    # The table name comes from the catalog.
    "DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT '"
    " || conname FROM pg_constraint WHERE conname = 'library_book_author_id_fkey'); END $$": True,
}


def test_write_guard(project: Project) -> None:
    """Statements that the lint cannot see are refused at run time."""
    execute(project, "CREATE EXTENSION citext; ALTER TABLE library_leftover ADD PRIMARY KEY (n)")
    for statement, is_atomic in (BY_TEXT | BY_EFFECT).items():
        by_text = statement in BY_TEXT
        project.write(
            "library/migrations/0002_more.py",
            f"""
            from django.db import migrations
            from psycopg import sql

            def reach(apps, editor):
                with editor.connection.cursor() as cursor:
                    cursor.execute({statement if by_text else repr(statement)})

            class Migration(migrations.Migration):
                atomic = {is_atomic}
                dependencies = [("library", "0001_initial")]
                operations = [migrations.RunPython(reach)]
            """,
        )
        with unchanged(project):
            result = project.run().refused("the project's own ", "use --host-database test")
            assert ("A migration names the schema public" in result.stderr) == by_text, statement


def test_a_second_build_that_differs_from_the_first(occupied: Project) -> None:
    """The run fails and names the difference, because it may not create clone databases."""
    occupied.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current", "STRATEGY": "migrate"}')
    occupied.write(
        "noting.py",
        """
        from helpers import *

        def note(apps, editor):
            Path("second" if times("builds") == 2 else "first").write_text(str(os.getpid()))
        """,
    )
    constrains = """DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'no_empty_name') THEN
            ALTER TABLE library_author ADD CONSTRAINT no_empty_name CHECK (name <> '');
        END IF;
    END $$"""
    note = 'migrations.RunPython(__import__("noting").note)'
    operations = f"{note}, migrations.RunSQL({constrains!r})"
    occupied.migration("0002_more", "0001_initial", operations)
    tests = """
        class Any(TestCase):
            def test_it(self):
                # The other worker's build is the second, and ends that worker.
                wait_for("second")
                wait_until(lambda: not Path("/proc", Path("second").read_text()).exists())

        class Alike(TestCase):
            def test_it(self): pass
    """
    occupied.tests(tests)
    result = occupied.run(*PARALLEL).refused("no_empty_name", "--host-database test")
    assert "--isolation database" not in result.stderr
    assert own_schemas(occupied) == set()


@each_mode
def test_several_aliases(occupied: Project, mode: Mode) -> None:
    """Aliases that share a test database in stock Django share a schema. Others have their own."""
    second = f"{occupied.name}_second"
    occupied.create_database(second)
    settings = f"""
        server = DATABASES["default"]
        DATABASES |= {{
            "again": server,
            "mirror": {{**server, "TEST": {{"MIRROR": "default"}}}},
            "apart": {{**server, "TEST": {{"NAME": "{occupied.test_name}_a"}}}},
            "second": {{**server, "NAME": {second!r}}},
            "small": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "small.sqlite3"}},
        }}
    """
    occupied.configure(settings)
    tests = """
        class Any(TransactionTestCase):
            databases = {"default", "again", "mirror", "apart", "second", "small"}
            def test_it(self):
                Author.objects.create(name="a")
                for alias in ("default", "again", "mirror"):
                    self.assertEqual(Author.objects.using(alias).count(), 1)
                for alias in ("apart", "second", "small"):
                    self.assertEqual(Author.objects.using(alias).count(), 0)
                    Author.objects.using(alias).create(name="b")
        class Alike(Any): pass
    """
    occupied.tests(tests)
    occupied.run(*mode).passed()
    assert own_schemas(occupied) == set()
    left = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_'"
    assert occupied.query(left, database=second) == []
    occupied.drop_database(second)
