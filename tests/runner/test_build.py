"""Whatever migrates under stock Django migrates here."""

from textwrap import dedent, indent

import pytest

from ..project import MEETING, STOCK, Project

pytestmark = pytest.mark.versions

MODES = [("--testrunner", STOCK), (), ("--parallel", "2")]
IDS = ["stock", "serial", "parallel"]


# Name, operations of a migration, and the body of a test that needs what it made.
MIGRATIONS = {
    "extension by Django": (
        """
        __import__("django.contrib.postgres.operations", fromlist=["x"]).HStoreExtension(),
        migrations.RunSQL("ALTER TABLE library_book ADD COLUMN tags hstore"),
        """,
        """
        cursor.execute("SELECT 'a=>1'::hstore -> 'a', count(tags) FROM library_book")
        self.assertEqual(cursor.fetchone(), ("1", 0))
        """,
    ),
    "extension by SQL": (
        """
        migrations.RunSQL("CREATE EXTENSION citext"),
        migrations.RunSQL("ALTER TABLE library_author ALTER name TYPE citext"),
        """,
        """
        Author.objects.create(name="Capital")
        self.assertTrue(Author.objects.filter(name="CAPITAL").exists())
        """,
    ),
    "catalog by the name public": (
        """
        migrations.RunSQL(
            '''DO $$ BEGIN
                 ASSERT EXISTS (SELECT FROM pg_indexes WHERE schemaname = 'public'
                                AND tablename = 'library_author');
                 EXECUTE (SELECT 'CREATE TABLE found_' || count(*) || '()' FROM pg_tables
                          WHERE schemaname = 'public' AND tablename LIKE 'library%');
               END $$'''
        ),
        """,
        """
        cursor.execute("SELECT * FROM found_2")
        """,
    ),
    "tables named with public": (
        """
        migrations.RunSQL('CREATE TABLE "public"."extra" (id serial PRIMARY KEY)'),
        migrations.RunSQL("INSERT INTO public.extra DEFAULT VALUES"),
        """,
        """
        cursor.execute("SELECT id FROM extra")
        self.assertEqual(cursor.fetchall(), [(1,)])
        """,
    ),
    "functions and triggers": (
        """
        migrations.RunSQL(
            '''CREATE TABLE log (entry text);
               CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql
               SET search_path = public AS $$
               BEGIN INSERT INTO log VALUES (NEW.name); RETURN NEW; END $$;
               CREATE TRIGGER logs AFTER INSERT ON library_author
               FOR EACH ROW EXECUTE FUNCTION log_it();'''
        ),
        """,
        """
        Author.objects.create(name="logged")
        cursor.execute("SELECT entry FROM log")
        self.assertEqual(cursor.fetchall(), [("logged",)])
        """,
    ),
    "types, ranges and views": (
        """
        migrations.RunSQL(
            '''CREATE TYPE mood AS ENUM ('good'); CREATE TYPE span AS RANGE (subtype = float8);
               CREATE DOMAIN title AS text CHECK (VALUE <> '');
               CREATE VIEW titles AS SELECT title::title FROM library_book;
               CREATE MATERIALIZED VIEW one AS SELECT 1 AS n, 'good'::mood AS m;'''
        ),
        """,
        """
        cursor.execute("SELECT span_multirange(span(1, 2))::text, m::text, n FROM one")
        self.assertEqual(cursor.fetchone(), ("{[1,2)}", "good", 1))
        """,
    ),
    "rows of a migration": (
        """
        migrations.RunPython(
            lambda apps, editor: apps.get_model("library", "Author").objects.create(name="first")
        ),
        """,
        """
        self.assertEqual(Author.objects.get().id, 1)
        self.assertEqual(Author.objects.create(name="second").id > 1, True)
        """,
    ),
}


@pytest.mark.parametrize("mode", MODES, ids=IDS)
@pytest.mark.parametrize("case", MIGRATIONS)
def test_migrations(project: Project, case: str, mode: tuple[str, ...]) -> None:
    """What a migration made can be used in every worker, as under stock Django."""
    operations, body = MIGRATIONS[case]
    project.migration("0002_more", "0001_initial", operations)
    project.tests(
        "class Uses(TestCase):\n    def test_it(self):\n        cursor = connection.cursor()\n"
        + body
        + "\n\nclass Again(Uses):\n    pass\n"
    )
    project.run(*mode).passed()


@pytest.mark.parametrize("mode", MODES[:2], ids=IDS[:2])
def test_a_catalog_query_by_bare_name(project: Project, mode: tuple[str, ...]) -> None:
    """The first build is alone in its database, as under stock Django.

    The later workers' builds of STRATEGY "migrate" see the first one's schema; the docs say so.
    """
    project.migration(
        "0002_drop",
        "0001_initial",
        """
        migrations.RunSQL(
            '''DO $$ BEGIN
                 EXECUTE (SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT '
                                 || conname
                          FROM pg_constraint WHERE conname = 'library_author_name_key');
               END $$'''
        ),
        """,
    )
    project.tests(
        """
        class Dropped(TestCase):
            def test_no_constraint(self):
                Author.objects.create(name="twice")
                Author.objects.create(name="twice")
        """
    )
    project.run(*mode).passed()


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_an_index_built_concurrently(project: Project, mode: tuple[str, ...]) -> None:
    """CREATE INDEX CONCURRENTLY cannot run in a transaction, and does not."""
    project.write(
        "library/migrations/0002_index.py",
        """
        from django.contrib.postgres.operations import AddIndexConcurrently
        from django.db import migrations, models


        class Migration(migrations.Migration):
            atomic = False
            dependencies = [("library", "0001_initial")]
            operations = [
                AddIndexConcurrently("book", models.Index(fields=["title"], name="by_title"))
            ]
        """,
    )
    project.tests(
        """
        class Indexed(TestCase):
            def test_index(self):
                with connection.cursor() as cursor:
                    constraints = connection.introspection.get_constraints(cursor, "library_book")
                self.assertIn("by_title", constraints)


        class Again(Indexed):
            pass
        """
    )
    project.run(*mode).passed()


def test_introspection_sees_the_current_schema_alone(project: Project) -> None:
    """With decoys in `public`, none of them shows, and a flush does not reach them."""
    project.tests(
        """
        from django.db import ProgrammingError


        class Introspection(TransactionTestCase):
            def setUp(self):
                with connection.cursor() as cursor:
                    cursor.execute(
                        "CREATE TABLE public.decoy (id serial PRIMARY KEY,"
                        " other int REFERENCES public.decoy);"
                        "CREATE TABLE public.library_book (id serial PRIMARY KEY, trap text);"
                        "INSERT INTO public.library_book (trap) VALUES ('precious');"
                        "CREATE TABLE public.django_migrations (app text, name text);"
                    )
                self.addCleanup(self.drop)

            def drop(self):
                with connection.cursor() as cursor:
                    cursor.execute(
                        "DROP TABLE public.decoy, public.library_book, public.django_migrations"
                    )

            def test_tables(self):
                names = connection.introspection.table_names()
                self.assertNotIn("decoy", names)
                self.assertEqual(names.count("library_book"), 1)

            def test_details(self):
                see = connection.introspection
                with connection.cursor() as cursor:
                    columns = {c.name for c in see.get_table_description(cursor, "library_book")}
                    self.assertEqual(columns, {"id", "title", "author_id"})
                    self.assertEqual(set(see.get_relations(cursor, "library_book")), {"author_id"})
                    for look in (see.get_sequences, see.get_relations, see.get_constraints):
                        self.assertFalse(look(cursor, "decoy"))

            def test_one_query_each(self):
                with self.assertNumQueries(1), connection.cursor() as cursor:
                    connection.introspection.get_table_list(cursor)

            def test_flush(self):
                from django.core.management import call_command

                call_command("flush", interactive=False, verbosity=0)
                with connection.cursor() as cursor:
                    cursor.execute("SELECT trap FROM public.library_book")
                    self.assertEqual(cursor.fetchall(), [("precious",)])

            def test_migrations_are_those_of_the_schema(self):
                from django.db.migrations.recorder import MigrationRecorder

                applied = MigrationRecorder(connection).applied_migrations()
                self.assertIn(("library", "0001_initial"), applied)
        """
    )
    project.run().passed()


AUDIT = """
    migrations.RunSQL(
        '''CREATE SCHEMA audit;
           CREATE TABLE audit.log (name text);
           CREATE FUNCTION audit.logs() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO audit.log SELECT name FROM public.library_author WHERE id = NEW.id;
            RETURN NULL; END';
           CREATE TRIGGER logs AFTER INSERT ON library_author
           FOR EACH ROW EXECUTE FUNCTION audit.logs()'''
    ),
"""
# What a schema cannot hold: name, operations, the object that is named, the body of a test.
OBSTACLES = {
    "a schema beside public": (
        AUDIT,
        "schema audit",
        """
        Author.objects.create(name="a")
        cursor.execute("SELECT name FROM audit.log")
        self.assertEqual(cursor.fetchall(), [("a",)])
        """,
    ),
    "a body that names public": (
        """
        migrations.RunSQL(
            '''CREATE FUNCTION authors() RETURNS bigint LANGUAGE plpgsql AS
               'BEGIN RETURN (SELECT count(*) FROM public.library_author); END';'''
        ),
        """,
        "function public.authors()",
        """
        Author.objects.create(name="a")
        cursor.execute("SELECT authors()")
        self.assertEqual(cursor.fetchone(), (1,))
        """,
    ),
    "a shell type": (
        "migrations.RunSQL('CREATE TYPE hollow'),",
        "type public.hollow",
        """
        cursor.execute("SELECT FROM pg_type WHERE typname = 'hollow'")
        self.assertEqual(cursor.rowcount, 1)
        """,
    ),
    "an event trigger": (
        """
        migrations.RunSQL(
            '''CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE 'not by %', TG_TAG; END $$;
               CREATE EVENT TRIGGER no_tables ON ddl_command_start
               WHEN TAG IN ('CREATE TABLE AS') EXECUTE FUNCTION forbid()'''
        ),
        """,
        "event trigger no_tables",
        """
        with self.assertRaisesMessage(Exception, "not by CREATE TABLE AS"):
            cursor.execute("CREATE TABLE t AS SELECT 1")
        """,
    ),
    "a publication": (
        "migrations.RunSQL('CREATE PUBLICATION news FOR TABLE library_author'),",
        "publication news",
        """
        cursor.execute("SELECT tablename FROM pg_publication_tables")
        self.assertEqual(cursor.fetchall(), [("library_author",)])
        """,
    ),
    "a cast of built-in types": (
        "migrations.RunSQL('CREATE CAST (text AS cidr) WITH INOUT AS ASSIGNMENT'),",
        "cast (pg_catalog.text AS pg_catalog.cidr)",
        """
        cursor.execute("SELECT FROM pg_cast WHERE oid >= 16384")
        self.assertEqual(cursor.rowcount, 1)
        """,
    ),
    "a foreign server": (
        "migrations.RunSQL('CREATE FOREIGN DATA WRAPPER far; CREATE SERVER there "
        "FOREIGN DATA WRAPPER far'),",
        "far",
        """
        cursor.execute("SELECT srvname FROM pg_foreign_server")
        self.assertEqual(cursor.fetchall(), [("there",)])
        """,
    ),
    "an extension that is dropped": (
        """
        migrations.RunSQL("DROP EXTENSION IF EXISTS hstore CASCADE"),
        migrations.RunSQL("CREATE EXTENSION hstore"),
        migrations.RunSQL("ALTER TABLE library_book ADD COLUMN tags hstore"),
        """,
        "DROP EXTENSION IF EXISTS hstore CASCADE",
        """
        cursor.execute("SELECT count(tags) FROM library_book")
        self.assertEqual(cursor.fetchone(), (0,))
        """,
    ),
    "a search_path of a function that is not in public": (
        AUDIT.replace("AS\n", "SET search_path = audit, public AS\n"),
        "schema audit",
        """
        Author.objects.create(name="b")
        cursor.execute("SELECT count(*) FROM audit.log")
        self.assertEqual(cursor.fetchone(), (1,))
        """,
    ),
}


@pytest.mark.parametrize("mode", MODES, ids=IDS)
@pytest.mark.parametrize("name", OBSTACLES)
def test_what_a_schema_cannot_hold(project: Project, name: str, mode: tuple[str, ...]) -> None:
    """Workers get clone databases, one line names the object, and tests pass as under stock."""
    operations, named, body = OBSTACLES[name]
    project.migration("0002_more", "0001_initial", operations)
    project.tests(
        f"""
        import schema_runner


        class Needs(TestCase):
            def test_what_the_migration_made(self):
                with connection.cursor() as cursor:
{indent(dedent(body), " " * 20)}

            def test_the_worker_knows_where_it_is(self):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT current_database(), current_schema()")
                    where = cursor.fetchone()
                if worker := schema_runner.current_worker():
                    self.assertEqual((worker.database, worker.schema), where)
                    clone = f"_{{worker.number}}" if {"--parallel" in mode} else ""
                    self.assertEqual(where, ({project.test_name!r} + clone, "public"))


        class Again(Needs):
            pass
        """
    )
    result = project.run(*mode).passed()
    assert len(project.databases()) == 0
    lines = [line for line in result.stdout.splitlines() if "uses clone databases" in line]
    if mode[:1] != ("--testrunner",):
        (line,) = lines
        assert named in line
        assert "uses clone databases" not in project.run(*mode, "-v", "0").passed().output


def test_clone_databases_of_killed_runs_are_removed(project: Project) -> None:
    """They are marked, and in use by their own leases."""
    project.migration("0002_audit", "0001_initial", AUDIT)
    project.tests(
        """
        import os
        import signal


        class Dies(TestCase):
            def test_it(self):
                if os.environ.get("DIE"):
                    os.kill(os.getppid(), signal.SIGKILL)


        class Alike(Dies):
            pass
        """
    )
    assert project.run("--parallel", "2", env={"DIE": "1"}).code < 0
    clones = [f"{project.test_name}_{worker}" for worker in (1, 2)]
    assert project.databases() == [project.test_name, *clones]
    result = project.run().passed()
    for name in (project.test_name, *clones):
        assert f"database {name}" in result.stdout
    assert project.databases() == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_clone_databases_of_several_aliases(project: Project, method: str) -> None:
    """Workers find each alias's own clone, and a mirror that of its primary."""
    project.migration("0002_audit", "0001_initial", AUDIT)
    project.configure(
        f"""
        DATABASES["other"] = {{**DATABASES["default"], "NAME": "{project.name}_o"}}
        DATABASES["mirror"] = {{**DATABASES["default"], "TEST": {{"MIRROR": "default"}}}}
        """
    )
    project.tests(
        """
        import schema_runner


        class Apart(TransactionTestCase):
            databases = {"default", "other", "mirror"}

            def test_it(self):
                Author.objects.create(name="a")
                self.assertEqual(Author.objects.using("mirror").count(), 1)
                self.assertEqual(Author.objects.using("other").count(), 0)
                number = schema_runner.current_worker().number
                for alias in self.databases:
                    with connections[alias].cursor() as cursor:
                        cursor.execute("SELECT current_database()")
                        self.assertTrue(cursor.fetchone()[0].endswith(f"_{number}"))


        class Alike(Apart):
            pass
        """
    )
    project.run("--parallel", "2", env={"START_METHOD": method}).passed()
    assert project.databases() == []


def test_clone_databases_of_two_runs_at_once(project: Project) -> None:
    """Each has a host database of its own, so that both can clone it."""
    project.migration("0002_audit", "0001_initial", AUDIT)
    project.tests(
        """
        import os
        import subprocess
        import sys


        class Nested(TestCase):
            def test_it(self):
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO audit.log VALUES ('outer')")
                if not os.environ.get("NESTED"):
                    run = [sys.executable, "manage.py", "test", "--parallel", "2"]
                    env = {**os.environ, "NESTED": "1"}
                    result = subprocess.run(run, capture_output=True, text=True, env=env)
                    self.assertEqual(result.returncode, 0, result.stderr)


        class Alike(TestCase):
            def test_it(self):
                pass
        """
    )
    project.run("--parallel", "2").passed()
    assert project.databases() == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("trusted", [[], ["library.0002_bare"]], ids=["foreseen", "unforeseen"])
def test_a_second_build_that_cannot_be_beside_the_first(
    project: Project, trusted: list[str], method: str
) -> None:
    """What finds the first worker's objects by a bare name: others have databases, as stock's.

    That is seen in the migrations, or else when a build in a schema fails.
    """
    project.migration(
        "0002_bare",
        "0001_initial",
        """
        migrations.RunSQL(
            '''DO $$ BEGIN
                 ASSERT (SELECT count(*) = 1 FROM pg_class WHERE relname = 'library_author');
               END $$;
               CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public
               AS 'SELECT count(*)::int FROM library_author';'''
        ),
        """,
    )
    settings = {"SEEDERS": ["library.seeds.seed"], "TRUSTED_MIGRATIONS": trusted}
    settings["STRATEGY"] = "migrate"
    project.configure(f"SCHEMA_RUNNER = {settings}")
    project.write(
        "library/seeds.py",
        """
        from library.models import Author

        def seed(using):
            Author.objects.using(using).create(name="seeded")
        """,
    )
    project.tests(
        MEETING
        + """
        class Any(Meeting, TestCase):
            def test_it(self):
                self.meet()
                Author.objects.create(name="another")
                with connection.cursor() as cursor:
                    cursor.execute("SELECT f(), current_schema(), current_database()")
                    count, schema, database = cursor.fetchone()
                self.assertEqual(count, 2)
                number = schema_runner.current_worker().number
                if number == 1:
                    self.assertTrue(schema.startswith("test_w1_"))
                else:
                    self.assertEqual(schema, "public")
                    self.assertTrue(database.endswith(f"_{number}"))


        class Alike(Any):
            pass
        """
    )
    result = project.run("--parallel", "2", env={"START_METHOD": method}).passed()
    if trusted:
        assert "because a schema cannot be made beside others: " in result.stdout
    else:
        assert "schemas cannot keep a second build apart: library/migrations" in result.stdout
    assert project.databases() == []


def test_a_second_build_that_comes_out_different(project: Project) -> None:
    """Silently half a structure would be worse than a slower start."""
    settings = {"STRATEGY": "migrate", "TRUSTED_MIGRATIONS": ["library.0002_bare"]}
    project.configure(f"SCHEMA_RUNNER = {settings}")
    project.migration(
        "0002_bare",
        "0001_initial",
        """
        migrations.RunSQL(
            '''DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'no_empty_name') THEN
                     ALTER TABLE library_author ADD CONSTRAINT no_empty_name CHECK (name <> '');
                 END IF;
               END $$'''
        ),
        """,
    )
    project.tests(
        MEETING
        + """
        class Any(Meeting, TestCase):
            def test_it(self):
                self.meet()
                with self.assertRaisesMessage(Exception, "no_empty_name"):
                    Author.objects.create(name="")


        class Alike(Any):
            pass
        """
    )
    result = project.run("--parallel", "2").passed()
    assert "no_empty_name" in result.stdout
    assert project.databases() == []


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_a_search_path_of_the_project_s_own(project: Project, mode: tuple[str, ...]) -> None:
    """Tables are made where it says, which a worker schema cannot be."""
    project.configure('DATABASES["default"]["OPTIONS"] = {"options": "-c search_path=app,public"}')
    project.write(
        "library/migrations/0000_schema.py",
        """
        from django.db import migrations


        class Migration(migrations.Migration):
            operations = [migrations.RunSQL("CREATE SCHEMA app")]
        """,
    )
    initial = (project.folder / "library/migrations/0001_initial.py").read_text()
    project.write(
        "library/migrations/0001_initial.py",
        initial.replace("dependencies = []", 'dependencies = [("library", "0000_schema")]'),
    )
    project.tests(
        """
        class Any(TestCase):
            def test_it(self):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM app.library_author")


        class Alike(Any):
            pass
        """
    )
    result = project.run(*mode).passed()
    assert ("search_path" in result.stdout) == (mode[:1] != ("--testrunner",))
    assert project.databases() == []


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_a_template_with_objects_of_its_own(project: Project, mode: tuple[str, ...]) -> None:
    """What a new database has in `public` from the start is there for every worker."""
    template = f"{project.name}_template"
    project.create_database(template)
    with project.host(template) as connection:
        connection.execute("CREATE TABLE prepared (n int); INSERT INTO prepared VALUES (7)")
    project.configure(f'DATABASES["default"]["TEST"] = {{"TEMPLATE": {template!r}}}')
    project.tests(
        """
        class Any(TestCase):
            def test_it(self):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT n FROM prepared")
                    self.assertEqual(cursor.fetchall(), [(7,)])


        class Alike(Any):
            pass
        """
    )
    result = project.run(*mode).passed()
    assert ("table public.prepared" in result.stdout) == (mode[:1] != ("--testrunner",))
    assert project.databases() == [template]
    project.drop_database(template)


def test_grants_on_public_hold_in_a_worker_s_schema(project: Project) -> None:
    """A second role may look where it may look under stock Django."""
    project.tests(
        """
        class Granted(TestCase):
            def test_usage(self):
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT has_schema_privilege('pg_monitor', current_schema(), 'USAGE')"
                    )
                    self.assertEqual(cursor.fetchone(), (True,))
        """
    )
    project.run().passed()
