"""Tests that commit cost what they have dirtied, and leave what stock Django's flush leaves."""

import pytest

from ..project import STOCK, Project

MODES = [(), ("--parallel", "2")]


@pytest.mark.parametrize("mode", MODES)
def test_committed_rows_are_gone(project: Project, mode: tuple[str, ...]) -> None:
    """After each test, as after stock's flush; what post_migrate makes is there."""
    project.tests(
        """
        from django.contrib.contenttypes.models import ContentType
        from django.contrib.auth.models import Permission


        class Committed(TransactionTestCase):
            def check(self):
                self.assertEqual(Author.objects.count(), 0)
                self.assertEqual(ContentType.objects.get_for_model(Author).pk,
                                 ContentType.objects.get(model="author").pk)
                self.assertEqual(ContentType.objects.count(), 6)
                self.assertEqual(Permission.objects.count(), 24)
                Book.objects.create(title="x", author=Author.objects.create(name="same"))
                Permission.objects.first().delete()

            test_a = test_b = test_c = check


        class Other(Committed):
            pass
        """
    )
    project.run(*mode, "--testrunner", STOCK).passed()
    project.run(*mode).passed()


SEEDED = """
    SCHEMA_RUNNER = {{"FIXTURES": ["authors"], "SEEDERS": ["library.seeds.seed"], "RESET": {!r}}}
"""


@pytest.fixture
def seeded(project: Project) -> Project:
    """A project with rows of a migration, of a fixture and of a seeder; one refers to another."""
    project.migration(
        "0002_rows",
        "0001_initial",
        """
        migrations.RunPython(
            lambda apps, editor: [
                apps.get_model("library", "Author").objects.create(name=name)
                for name in ("migrated", "needed")
            ]
        )
        """,
    )
    project.write(
        "library/fixtures/authors.json",
        '[{"model": "library.author", "pk": 70, "fields": {"name": "from a fixture"}}]',
    )
    project.write(
        "library/seeds.py",
        """
        from library.models import Author, Book


        def seed(using):
            author = Author.objects.using(using).get(name="needed")
            Book.objects.using(using).create(id=20, title="from a seeder", author=author)
        """,
    )
    return project


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("reset", "left"),
    [
        ("selective", ["from a fixture", "needed"]),
        ("reference", ["from a fixture", "migrated", "needed"]),
        ("django", []),
    ],
)
def test_reference_data_survives(
    seeded: Project, mode: tuple[str, ...], reset: str, left: list[str]
) -> None:
    """Rows of FIXTURES and SEEDERS, and those they refer to; with "reference" all there were."""
    seeded.configure(SEEDED.format(reset))
    seeded.tests(
        f"""
        class Committed(TransactionTestCase):
            def check(self):
                if hasattr(type(self), "is_second"):
                    names = sorted(Author.objects.values_list("name", flat=True))
                    self.assertEqual(names, {left!r})
                    titles = list(Book.objects.values_list("title", "author__name"))
                    self.assertEqual(titles, [("from a seeder", "needed")] if names else [])
                type(self).is_second = True
                Author.objects.all().delete()
                Author.objects.create(id=70, name="same key")

            test_a = test_b = test_c = check
        """
    )
    seeded.run(*mode).passed()


def test_an_altered_structure_is_replaced(project: Project) -> None:
    """Before the next class, by a fresh schema of the same name in the state after a flush."""
    project.tests(
        """
        import schema_runner


        class A(TransactionTestCase):
            def test_alter(self):
                Author.objects.create(name="x")
                with connection.schema_editor() as editor:
                    editor.execute("ALTER TABLE library_book RENAME title TO heading")
                type(self).schema = schema_runner.current_worker().schema

            def test_it_stays_within_the_class(self):
                with self.assertRaises(Exception):
                    Book.objects.create(title="x", author=Author.objects.create(name="x"))


        class B(TransactionTestCase):
            def test_fresh(self):
                self.assertEqual(Author.objects.count(), 0)
                Book.objects.create(title="x", author=Author.objects.create(name="x"))
        """
    )
    project.run("--parallel", "2").passed()
    project.run("--keepdb").passed()
    # What is kept is as it should be, too.
    project.run("--keepdb").passed()
    project.drop_database(project.test_name)


def test_a_connection_left_in_a_transaction_is_ended(project: Project) -> None:
    """And the test that left it is named; the run goes on."""
    project.tests(
        """
        import threading
        from library.models import Author

        class A(TransactionTestCase):
            def test_leave(self):
                def insert():
                    connection.set_autocommit(False)
                    Author.objects.create(name="left")
                    kept.append(connection.connection)
                    connection.connection = None

                kept = type(self).kept = []
                thread = threading.Thread(target=insert)
                thread.start()
                thread.join()
                Author.objects.create(name="x")

            def test_next(self):
                self.assertEqual(Author.objects.count(), 0)
                Author.objects.create(name="left")
        """
    )
    for mode in MODES:
        result = project.run(*mode, "library.test_generated.A").passed()
        assert "library.test_generated.A.test_leave left a connection idle" in result.output


FUNCTION = """
    migrations.RunSQL(
        "CREATE FUNCTION insert_author() RETURNS void LANGUAGE sql AS"
        " $$ INSERT INTO library_author (name) VALUES ('x') $$"
    )
"""


@pytest.mark.parametrize("mode", MODES)
def test_it_does_not_matter_who_has_written(project: Project, mode: tuple[str, ...]) -> None:
    """A thread, another process, a function of the server, a test that has flushed by itself."""
    project.migration("0002_function", "0001_initial", FUNCTION)
    project.tests(
        """
        import json
        import subprocess
        import sys
        import threading

        from django.core.management import call_command

        PROGRAM = '''
        import json, sys, psycopg
        with psycopg.connect(**json.loads(sys.argv[1])) as connection:
            connection.execute("INSERT INTO library_author (name) VALUES ('x')")
        '''


        def insert():
            Author.objects.create(name="x")
            connection.close()


        class A(TransactionTestCase):
            def setUp(self):
                self.assertEqual(Author.objects.count(), 0)

            def test_thread(self):
                thread = threading.Thread(target=insert)
                thread.start()
                thread.join()

            def test_process(self):
                parameters = connection.get_connection_params()
                names = ("host", "port", "user", "dbname", "options")
                known = json.dumps({name: parameters.get(name) for name in names})
                program = "\\n".join(line.strip(" ") if "connection.exe" not in line else "  " +
                                    line.strip() for line in PROGRAM.splitlines())
                subprocess.run([sys.executable, "-c", program, known], check=True)

            def test_server(self):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT insert_author()")

            def test_flush(self):
                call_command("flush", interactive=False, verbosity=0)
                insert()

            def test_left_open(self):
                connection.set_autocommit(False)
                insert()

            def test_z(self):
                pass
        """
    )
    project.run(*mode).passed()


APPS = """
    from django.apps import AppConfig
    from django.db.models.signals import post_migrate


    def note(using, **kwargs):
        with open("emitted", "a") as file:
            file.write(f"{using}\\n")


    class Library(AppConfig):
        name = "library"

        def ready(self):
            post_migrate.connect(note, sender=self)
"""


def test_post_migrate_is_emitted_once(project: Project) -> None:
    """At the end of the first test, and where handlers can see something else; not in others."""
    project.write("library/apps.py", APPS)
    project.tests(
        """
        from django.core.management import call_command
        from django.test import override_settings


        class A(TransactionTestCase):
            def test_a(self):
                open("emitted", "w").close()

            def test_b(self):
                self.assertEqual(open("emitted").read(), "default\\n")

            def test_c(self):
                self.assertEqual(open("emitted").read(), "default\\n")


        class B(A):
            test_a = None

            def test_c(self):
                call_command("flush", interactive=False, verbosity=0)
                self.assertEqual(open("emitted").read(), "default\\n" * 2)


        @override_settings(SITE_ID=3)
        class C(TransactionTestCase):
            def test_a(self):
                self.assertEqual(open("emitted").read(), "default\\n" * 2)

            def test_b(self):
                self.assertEqual(open("emitted").read(), "default\\n" * 3)


        class D(TransactionTestCase):
            available_apps = ["library"]

            def test_a(self):
                self.assertEqual(open("emitted").read(), "default\\n" * 4)

            def test_b(self):
                self.assertEqual(open("emitted").read(), "default\\n" * 5)
        """
    )
    project.run().passed()


@pytest.mark.parametrize("reset", ["selective", "reference"])
def test_sequences_are_not_set_below_rows_that_stay(seeded: Project, reset: str) -> None:
    """With reset_sequences the others begin anew, in all teardowns that ask for it."""
    seeded.configure(SEEDED.format(reset))
    seeded.tests(
        """
        from django.contrib.auth.models import Group
        from django.core.management import call_command


        class A(TransactionTestCase):
            reset_sequences = True

            def check(self):
                self.assertEqual(Group.objects.create(name="x").pk, 1)
                self.assertEqual(Author.objects.create(name="x").pk, 71)
                self.assertEqual(Book.objects.create(title="x", author_id=71).pk, 21)

            test_a = test_b = check


        class Own(TransactionTestCase):
            check = A.check
            test_a = A.test_a
            test_b = A.test_b

            def _fixture_teardown(self):
                call_command("flush", interactive=False, verbosity=0, allow_cascade=True)
        """
    )
    seeded.run("library.test_generated.A").passed()
    if reset == "selective":
        seeded.run("library.test_generated.Own").passed()


def test_each_test_starts_as_the_first_did(seeded: Project) -> None:
    """With "reference": rows, sequences, tables without models; nothing is deserialized."""
    seeded.configure(SEEDED.format("reference"))
    seeded.migration(
        "0003_table", "0002_rows", 'migrations.RunSQL("CREATE TABLE plain (n serial, t text)")'
    )
    seeded.tests(
        """
        from unittest import mock

        from django.db.backends.base.creation import BaseDatabaseCreation


        def everything():
            with connection.cursor() as cursor:
                found = {}
                for table in connection.introspection.table_names():
                    cursor.execute(f'SELECT r::text FROM "{table}" r ORDER BY 1')
                    found[table] = cursor.fetchall()
                cursor.execute("SELECT sequencename, last_value FROM pg_sequences"
                               " WHERE schemaname = current_schema() ORDER BY 1")
                return found, cursor.fetchall()


        class A(TransactionTestCase):
            def check(self):
                A.first = getattr(A, "first", None) or everything()
                self.assertEqual(everything(), A.first)
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO plain (t) VALUES ('x')")
                    cursor.execute("DELETE FROM django_migrations")
                Author.objects.create(name="x")
                Author.objects.filter(name="migrated").update(name="y")

            test_a = test_b = check


        class B(A):
            serialized_rollback = True

            def test_c(self):
                self.check()
                with mock.patch.object(
                    BaseDatabaseCreation, "deserialize_db_from_string"
                ) as deserialize:
                    self._fixture_setup()
                deserialize.assert_not_called()


        class C(TransactionTestCase):
            reset_sequences = True

            def test_it(self):
                Author.objects.create(name="z")


        class D(A):
            pass
        """
    )
    seeded.run().passed()


UNMANAGED = """
    migrations.RunSQL("CREATE TABLE legacy (id serial PRIMARY KEY, author bigint)"),
    migrations.CreateModel(
        name="Legacy",
        fields=[("id", models.AutoField(primary_key=True)), ("author", models.BigIntegerField())],
        options={"managed": False, "db_table": "legacy"},
    ),
"""


@pytest.mark.parametrize("reset", ["selective", "reference"])
def test_unmanaged_tables(project: Project, reset: str) -> None:
    """They stay as tests leave them, as under stock Django; unless all is to be as it was."""
    project.migration("0002_legacy", "0001_initial", UNMANAGED)
    project.configure(f'SCHEMA_RUNNER = {{"RESET": {reset!r}}}')
    project.tests(
        f"""
        class A(TransactionTestCase):
            def check(self):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM legacy")
                    (found,) = cursor.fetchone()
                    cursor.execute("INSERT INTO legacy (author) VALUES (1)")
                self.assertEqual(found, 0 if {reset == "reference"} else A.expected)
                A.expected += 1

            expected = 0
            test_a = test_b = test_c = check
        """
    )
    if reset == "selective":
        project.run("--testrunner", STOCK).passed()
    project.run().passed()


PLACES = {
    "clones": ("", "--parallel 2"),
    "current": ("", "--parallel 2 --host-database current"),
    "migrate": ('SCHEMA_RUNNER["STRATEGY"] = "migrate"', "--parallel 2"),
    "snapshot": ('SCHEMA_RUNNER["SNAPSHOT_DIR"] = "kept"', ""),
    "spawn": ("", "--parallel 2"),
}


@pytest.mark.parametrize("reset", ["selective", "reference"])
@pytest.mark.parametrize("place", PLACES)
def test_resets_are_the_same_everywhere(seeded: Project, place: str, reset: str) -> None:
    """In clone databases, in the project's database, in schemas that are built or read."""
    settings, options = PLACES[place]
    seeded.configure(SEEDED.format(reset))
    seeded.configure(settings)
    if place == "clones":
        seeded.migration("0003_schema", "0002_rows", 'migrations.RunSQL("CREATE SCHEMA beside")')
    if place == "current":
        seeded.create_database()
    seeded.tests(
        f"""
        class A(TransactionTestCase):
            def test_a(self):
                Author.objects.all().delete()

            def check(self):
                names = set(Author.objects.values_list("name", flat=True))
                self.assertEqual("migrated" in names, {reset == "reference"})
                self.assertEqual(names - {{"migrated"}}, {{"from a fixture", "needed"}})
                self.assertEqual(Book.objects.get().pk, 20)
                Book.objects.create(title="x", author=Author.objects.create(name="x"))

            test_b = test_c = check


        class B(A):
            pass
        """
    )
    for _ in range(2 if place == "snapshot" else 1):
        method = "spawn" if place == "spawn" else "fork"
        seeded.run(*options.split(), env={"START_METHOD": method}).passed()
    if place == "current":
        seeded.drop_database()
