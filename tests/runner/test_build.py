"""Whatever migrates under stock Django migrates here."""

import pytest

from ..project import STOCK, Project

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


def test_a_body_that_names_public_is_reported(project: Project) -> None:
    """Text in a body cannot be mended, so the run names the function."""
    project.migration(
        "0002_function",
        "0001_initial",
        "migrations.RunSQL('''CREATE FUNCTION authors() RETURNS bigint LANGUAGE plpgsql AS"
        " 'BEGIN RETURN (SELECT count(*) FROM public.library_author); END' ''')",
    )
    project.tests("class Any(TestCase):\n    def test_it(self):\n        pass\n")
    result = project.run().passed()
    assert "authors() names the schema public" in result.stdout
    assert "names the schema public" not in project.run("-v", "0").output


def test_what_cannot_be_moved_ends_the_run(project: Project) -> None:
    """A run is never half isolated: the object is named."""
    project.migration("0002_shell", "0001_initial", "migrations.RunSQL('CREATE TYPE hollow')")
    project.tests("class Any(TestCase):\n    def test_it(self):\n        pass\n")
    result = project.run()
    assert result.code == 1
    assert "type public.hollow" in result.stderr
    assert "Traceback" not in result.stderr
    assert project.databases() == []


AUDIT = "migrations.RunSQL('CREATE SCHEMA audit; CREATE TABLE audit.log ()')"
TWO_CLASSES = """
    class A(TestCase):
        def test_it(self):
            pass


    class B(A):
        pass
"""


def test_a_schema_beside_public_is_refused_for_several_workers(project: Project) -> None:
    """It cannot be made twice in one database; one worker can use it, run after run."""
    project.migration("0002_audit", "0001_initial", AUDIT)
    project.tests(TWO_CLASSES)
    for _ in range(3):
        project.run("--keepdb").passed()
    result = project.run("--parallel", "2")
    assert result.code == 1
    assert "audit" in result.stderr
    assert "Traceback" not in result.stderr
    assert project.databases() == []


def test_a_schema_beside_public_is_refused_beside_another_run(project: Project) -> None:
    """Two runs would share it, each with one worker."""
    project.migration(
        "0002_audit", "0001_initial", AUDIT.replace("SCHEMA", "SCHEMA IF NOT EXISTS")
    )
    project.tests(
        """
        import subprocess
        import sys


        class Nested(TestCase):
            def test_it(self):
                if "nested" not in sys.argv[-1]:
                    run = [sys.executable, "manage.py", "test", "-k", "nested"]
                    result = subprocess.run(run, capture_output=True, text=True)
                    self.assertIn("audit", result.stderr)
                    self.assertEqual(result.returncode, 1)

            def test_nested(self):
                pass
        """
    )
    project.run().passed()


def test_a_search_path_of_the_project_s_own(project: Project) -> None:
    """Tables would be made where the worker schema does not have them: refused, and named."""
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
    project.tests(TWO_CLASSES)
    result = project.run()
    assert result.code == 1
    assert "current schema of alias 'default' is app" in result.stderr
    assert "Leave search_path out" in result.stderr
    assert project.databases() == []


def test_a_migration_that_drops_an_extension(project: Project) -> None:
    """With one worker it runs; with two it would take the first one's columns along."""
    project.migration(
        "0002_hstore",
        "0001_initial",
        """
        migrations.RunSQL("DROP EXTENSION IF EXISTS hstore CASCADE"),
        migrations.RunSQL("CREATE EXTENSION hstore"),
        migrations.RunSQL("ALTER TABLE library_book ADD COLUMN tags hstore"),
        """,
    )
    project.tests(TWO_CLASSES)
    project.run().passed()
    result = project.run("--parallel", "2")
    assert result.code == 1
    assert "A migration drops an extension" in result.stderr
    assert "Traceback" not in result.stderr
    assert project.databases() == []


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
