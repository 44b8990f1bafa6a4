"""Resets after tests that commit: the result is that of stock Django's flush."""

import pytest

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project, each_mode

STATEMENTS = """migrations.RunSQL(
    "CREATE TABLE legacy (id serial PRIMARY KEY, author bigint);"
    " CREATE FUNCTION insert_author() RETURNS void LANGUAGE sql AS"
    " $$ INSERT INTO library_author (name) VALUES ('x') $$"
)"""
COMMITTED = """
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.models import ContentType

    class Committed(TransactionTestCase):
        def check(self):
            self.assertEqual(Author.objects.count(), 0)
            kind = ContentType.objects.get(model="author")
            self.assertEqual(ContentType.objects.get_for_model(Author).pk, kind.pk)
            self.assertEqual(ContentType.objects.count(), 6)
            self.assertEqual(Permission.objects.count(), 24)
            Book.objects.create(title="x", author=Author.objects.create(name="same"))
            Permission.objects.first().delete()

        test_a = test_b = test_c = check
    class Other(Committed): pass

    # Tables without a managed model are not reset.
    class Unmanaged(TransactionTestCase):
        expected = 0
        def check(self):
            self.assertEqual(query("SELECT count(*) FROM legacy"), [(Unmanaged.expected,)])
            query("INSERT INTO legacy (author) VALUES (1)")
            Unmanaged.expected += 1

        test_a = test_b = test_c = check
"""
# Rows written by a thread, another process, a function, a test that flushes, and an open
# transaction; and a connection that is no longer referenced.
WRITTEN = """
    import subprocess

    from django.core.management import call_command
    from helpers.elsewhere import in_a_thread

    def insert():
        Author.objects.create(name="x")
        connection.close()

    class Written(TransactionTestCase):
        def setUp(self): self.assertEqual(Author.objects.count(), 0)
        def test_thread(self): in_a_thread(insert)
        def test_server(self): query("SELECT insert_author()")
        def test_process(self):
            parameters = connection.get_connection_params()
            names = ("host", "port", "user", "dbname", "options")
            known = {name: parameters.get(name) for name in names}
            connecting = f"import psycopg; other = psycopg.connect(**{known}, autocommit=True)"
            inserting = f"{connecting}; other.execute('SELECT insert_author()')"
            subprocess.run([sys.executable, "-c", inserting], check=True)

        def test_flush(self):
            call_command("flush", interactive=False, verbosity=0)
            insert()
        def test_left_open(self):
            connection.set_autocommit(False)
            insert()
        def test_z(self): pass

    class Left(TransactionTestCase):
        def test_leave(self):
            def leave():
                connection.set_autocommit(False)
                Author.objects.create(name="left")
                kept.append(connection.connection)
                connection.connection = None

            kept = type(self).kept = []
            in_a_thread(leave)
            Author.objects.create(name="x")
        def test_next(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="left")
"""


@each_mode
def test_committed_rows_are_gone(project: Project, mode: Mode) -> None:
    """After each test, rows are gone whoever wrote them, and those of post_migrate are back."""
    project.migration("0002_statements", "0001_initial", STATEMENTS)
    project.tests(COMMITTED)
    project.tests(WRITTEN, module="test_written")
    result = project.run(*mode).passed()
    # The run continues without the connection, and names the test.
    assert "library.test_written.Left.test_leave left a connection idle" in result.output
    if mode == SERIAL:
        project.run("library.test_generated", *WITH_STOCK).passed()


SEEDED = """
    SCHEMA_RUNNER = {{"FIXTURES": ["authors"], "SEEDERS": ["library.seeds.seed"], "RESET": {!r}}}
"""
ROWS = "INSERT INTO library_author (name) VALUES ('migrated'), ('needed')"
FIXTURE = '[{"model": "library.author", "pk": 70, "fields": {"name": "from a fixture"}}]'
SEEDS = """
    from library.models import Author, Book

    def seed(using):
        author = Author.objects.using(using).get(name="needed")
        Book.objects.using(using).create(id=20, title="from a seeder", author=author)
"""


@pytest.fixture
def seeded(project: Project) -> Project:
    """A project with rows of a migration, a fixture and a seeder, which refer to each other."""
    project.migration("0002_rows", "0001_initial", f"migrations.RunSQL({ROWS!r})")
    project.write("library/fixtures/authors.json", FIXTURE)
    project.write("library/seeds.py", SEEDS)
    return project


REMAINING = {
    "selective": ["from a fixture", "needed"],
    "reference": ["from a fixture", "migrated", "needed"],
    "django": [],
}
FOUND = """
    class A(TransactionTestCase):
        def check(self):
            if hasattr(type(self), "is_second"):
                names = sorted(Author.objects.values_list("name", flat=True))
                self.assertEqual(names, {!r})
                books = list(Book.objects.values_list("pk", "title", "author__name"))
                self.assertEqual(books, [(20, "from a seeder", "needed")] if names else [])
            type(self).is_second = True
            Author.objects.all().delete()
            Author.objects.create(id=70, name="same key")
            Book.objects.create(title="x", author=Author.objects.create(name="x"))

        test_a = test_b = test_c = check
    class B(A): pass
"""
# In clones, in the project's database, and in schemas from migrations or snapshots.
PLACES = ["serial", "parallel", "clones", "current", "migrate", "snapshot", "spawn"]
SETTINGS = {"migrate": '"STRATEGY": "migrate"', "snapshot": '"SNAPSHOT_DIR": "kept"'}
CASES = [(place, reset) for place in PLACES for reset in ("selective", "reference")]


@pytest.mark.parametrize(
    ("place", "reset"), [*CASES, ("serial", "django"), ("parallel", "django")]
)
def test_reference_data_survives(seeded: Project, place: str, reset: str) -> None:
    """FIXTURES, SEEDERS and the rows they refer to remain; with "reference" all initial rows."""
    mode = SERIAL if place in ("serial", "snapshot") else PARALLEL
    seeded.configure(f"{SEEDED.format(reset)}    SCHEMA_RUNNER |= {{{SETTINGS.get(place, '')}}}")
    if place == "clones":
        seeded.migration("0003_schema", "0002_rows", 'migrations.RunSQL("CREATE SCHEMA beside")')
    if place == "current":
        seeded.create_database()
        mode = (*PARALLEL, "--host-database", "current")
    seeded.tests(FOUND.format(REMAINING[reset]))
    for _ in range(2 if place == "snapshot" else 1):
        method = "spawn" if place == "spawn" else "fork"
        seeded.run(*mode, env={"START_METHOD": method}).passed()
    if place == "current":
        seeded.drop_database()


def test_an_altered_structure_is_replaced(project: Project) -> None:
    """Before the next class, a new schema in the state after a flush replaces it."""
    tests = """
        class A(TransactionTestCase):
            def test_alter(self):
                Author.objects.create(name="x")
                with connection.schema_editor() as editor:
                    editor.execute("ALTER TABLE library_book RENAME title TO heading")
            def test_it_stays_within_the_class(self):
                with self.assertRaises(Exception):
                    Book.objects.create(title="x", author=Author.objects.create(name="x"))

        class B(TransactionTestCase):
            def test_fresh(self):
                self.assertEqual(Author.objects.count(), 0)
                Book.objects.create(title="x", author=Author.objects.create(name="x"))
    """
    project.tests(tests)
    # Schemas in a pool are replaced, too.
    for options in (PARALLEL, ["--keepdb"], ["--keepdb"]):
        project.run(*options).passed()
    project.drop_database(project.test_name)


@pytest.mark.parametrize("reset", ["selective", "reference"])
def test_altered_reference_data_is_replaced(seeded: Project, reset: str) -> None:
    """Only the test fails whose reset cannot restore rows, because their table was altered."""
    tests = """
        class A(TransactionTestCase):
            def test_alter(self):
                Author.objects.all().delete()
                query("ALTER TABLE library_author DROP name")

        class B(TransactionTestCase):
            def test_fresh(self):
                self.assertTrue(Author.objects.filter(name="from a fixture").exists())
        class C(B): pass
    """
    seeded.configure(SEEDED.format(reset))
    seeded.tests(tests)
    result = seeded.run("--keepdb").failed("FAILED (errors=1)")
    assert 'cannot be reset: column "name" does not exist. If a test alters' in result.stderr
    seeded.drop_database(seeded.test_name)


COUNTED = """
    from django.apps import apps
    from django.contrib.auth.models import Permission
    from django.core.management import call_command
    from django.db.models.signals import post_migrate

    def count(execute, statement, *args):
        COUNTED.append('INSERT INTO "django_content_type"' in statement)
        return execute(statement, *args)

    COUNTED, FOUND = [], []
    connection.execute_wrappers.append(count)
    # No handler, one that creates no rows, or one that depends on rows, for the second of 3 apps.
    if handler := {handler}:
        post_migrate.connect(handler, sender=apps.get_app_config("auth"), weak=False)

    class A(TransactionTestCase):
        def check(self): FOUND.append(sum(COUNTED))
        test_a = test_b = test_c = test_d = check

    class B(A):
        def test_c(self):
            self.check()
            call_command("flush", interactive=False, verbosity=0)

    @override_settings(SITE_ID=3)
    class C(A):
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            assert FOUND == {found}, FOUND
"""


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        ("None", [3, 6, 6, 6, 6, 6, 6, 9, 9, 12, 12, 12]),
        ("lambda **named: None", [3, 6, 9, 9, 9, 9, 9, 12, 12, 15, 18, 18]),
        (
            "lambda **named: Permission.objects.first()",
            [3, 6, 9, 10, 11, 12, 13, 17, 18, 21, 24, 25],
        ),
    ],
)
def test_django_s_handlers_are_called_once(
    project: Project, handler: str, found: list[int]
) -> None:
    """Django's handlers are called once for each state, and once more if there are other handlers.

    Handlers after one that depends on them are called each time: here for one of 3 apps.
    """
    project.tests(COUNTED.format(handler=handler, found=found))
    project.run().passed()


SEQUENCES = """
    from django.contrib.auth.models import Group
    from django.core.management import call_command

    class Sequences(TransactionTestCase):
        reset_sequences = True
        def check(self):
            self.assertEqual(Group.objects.create(name="x").pk, 1)
            self.assertEqual(Author.objects.create(name="x").pk, 71)
            self.assertEqual(Book.objects.create(title="x", author_id=71).pk, 21)

        test_a = test_b = check
"""
OWN_TEARDOWN = """
    class Own(Sequences):
        reset_sequences = False
        def _fixture_teardown(self):
            call_command("flush", interactive=False, verbosity=0, allow_cascade=True)
"""


@pytest.mark.parametrize(("reset", "more"), [("selective", OWN_TEARDOWN), ("reference", "")])
def test_sequences_stay_above_rows(seeded: Project, reset: str, more: str) -> None:
    """reset_sequences restarts sequences above existing rows, in any teardown."""
    seeded.configure(SEEDED.format(reset))
    seeded.tests(SEQUENCES + more)
    seeded.run().passed()


def test_each_test_starts_as_the_first_did(seeded: Project) -> None:
    """With "reference": rows, sequences and unmanaged tables; nothing is deserialized."""
    seeded.configure(SEEDED.format("reference"))
    table = "CREATE TABLE plain (n serial, t text)"
    seeded.migration("0003_table", "0002_rows", f"migrations.RunSQL({table!r})")
    tests = """
        from unittest import mock

        from django.db.backends.base.creation import BaseDatabaseCreation

        def everything():
            tables = connection.introspection.table_names()
            return query(
                "SELECT sequencename, last_value FROM pg_sequences"
                " WHERE schemaname = current_schema() ORDER BY 1"
            ), {table: query(f'SELECT r::text FROM "{table}" r ORDER BY 1') for table in tables}

        class A(TransactionTestCase):
            def check(self):
                A.first = getattr(A, "first", None) or everything()
                self.assertEqual(everything(), A.first)
                query("INSERT INTO plain (t) VALUES ('x')")
                query("DELETE FROM django_migrations")
                Author.objects.create(name="x")
                Author.objects.filter(name="migrated").update(name="y")

            test_a = test_b = check

        class B(A):
            serialized_rollback = True
            def test_c(self):
                self.check()
                name = "deserialize_db_from_string"
                with mock.patch.object(BaseDatabaseCreation, name) as deserialize:
                    self._fixture_setup()
                deserialize.assert_not_called()

        class C(TransactionTestCase):
            reset_sequences = True
            def test_it(self): Author.objects.create(name="z")
        class D(A): pass
    """
    seeded.tests(tests)
    seeded.run().passed()
