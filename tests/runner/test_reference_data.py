"""FIXTURES, SEEDERS and WORKER_SETUP."""

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project, fork_and_spawn

pytestmark = pytest.mark.oldest

GIVEN = """
    from helpers.seeds import Given

    class First(Given, TestCase): pass
    class Second(Given, TestCase): pass
    class Third(Given, TestCase): pass

    class Committed(TransactionTestCase):
        serialized_rollback = True
        def test_rows_are_there(self): self.assertEqual(Author.objects.count(), 2)
        test_they_come_back = test_rows_are_there
"""
# Tests that use two databases.
ANY = """
    class Any(TestCase):
        databases = {"default", "small"}
        def test_it(self): pass
    class Other(Any): pass
"""


@fork_and_spawn
def test_every_worker_is_prepared(project: Project, mode: Mode, method: str) -> None:
    """Each schema has the rows of fixtures and seeders, and sequences after them.

    WORKER_SETUP runs once.
    """
    project.seed()
    project.tests(GIVEN)
    project.run(*mode, env={"START_METHOD": method}).passed()


@pytest.mark.parametrize(
    ("mode", "key", "value", "error"),
    [
        (PARALLEL, "SEEDERS", "helpers.seeds.fail_to_seed", "ValueError: no seeds"),
        (SERIAL, "FIXTURES", "nowhere", "CommandError: No fixture named 'nowhere' found."),
        # A worker is not started again and again.
        (SERIAL, "WORKER_SETUP", "helpers.seeds.fail_to_set_up", "cannot start"),
        (PARALLEL, "WORKER_SETUP", "helpers.seeds.fail_to_set_up", "cannot start"),
    ],
)
def test_errors_end_the_run(
    project: Project, mode: Mode, key: str, value: str, error: str
) -> None:
    """The run shows the original exception, or Django's message, and leaves nothing."""
    small = {"ENGINE": "django.db.backends.sqlite3", "NAME": "small.sqlite3"}
    project.configure(f'DATABASES["small"] = {small | {"TEST": {"NAME": "test_small.sqlite3"}}}')
    project.configure(f"SCHEMA_RUNNER = {{{key!r}: [{value!r}]}}")
    project.tests(ANY)
    # Tracebacks end with a note that names the setting.
    note = f'Raised by {value!r} from SCHEMA_RUNNER["{key}"].'
    project.run(*mode).failed(error, *([] if key == "FIXTURES" else [note]))
    assert not list(project.folder.glob("test_small*"))


OTHER = """
    DATABASES["other"] = {{**DATABASES["default"], "NAME": {!r}}}
    SCHEMA_RUNNER = {{"SEEDERS": ["library.seeds.seed"]}}
"""
SEED = """
    from library.models import Author

    def seed(using):
        for alias in {}:
            if not Author.objects.using(alias).filter(name="x"):
                Author.objects.using(alias).create(name="x")
"""
# Changes without an INSERT, and a function that only reads.
RAW = """
    from django.db import connections, transaction
    from library.models import Author

    def seed(using):
        if using == "default":
            with connections["other"].cursor() as cursor:
                {}

    def read():
        for _ in range(2):
            with transaction.atomic("other"), transaction.atomic("other"):
                assert not Author.objects.using("other").exists()
        assert [*Author.objects.using("other").iterator()] == []
"""
CHANGES = [
    """cursor.execute("SELECT setval('library_author_id_seq', 7)")""",
    """with cursor.copy("COPY library_author (name) FROM STDIN") as copy: copy.write_row("x")""",
    """cursor.callproc("setval", ["library_author_id_seq", 7])""",
]

ONE = '[{"model": "library.author", "pk": 1, "fields": {"name": "x"}}]'
HANDLER = """
    from django.db.models.signals import post_save

    def copy(instance, using, **named):
        if type(instance).__name__ == "Author" and using != "other":
            instance.save(using="other")

    post_save.connect(copy)
"""


def test_seeders_cannot_change_the_project_s_own_databases(project: Project) -> None:
    """When the first alias is seeded, the second has no test database."""
    other = f"{project.name}_other"
    project.configure(OTHER.format(other))
    project.tests(ANY.replace("small", "other"))
    project.create_database(other)
    table = "CREATE TABLE library_author (id serial PRIMARY KEY, name text)"
    project.query(table, database=other)
    project.write("library/seeds.py", SEED.format(["default", "other"]))
    project.run().failed("project's own database, because alias 'other' has no test database yet")
    assert project.query("TABLE library_author", database=other) == []
    # The first has one when the second is seeded.
    project.write("library/seeds.py", SEED.format("{using, 'default'}"))
    project.run().passed()
    for change in CHANGES:
        project.write("library/seeds.py", RAW.format(change))
        project.run().failed("alias 'other' has no test database yet")
        found = project.query("SELECT last_value FROM library_author_id_seq", database=other)
        assert found == [(1,)]
    project.write("library/seeds.py", RAW.format("read()"))
    project.run().passed()
    # A signal handler that runs as fixtures are loaded.
    project.write("library/fixtures/one.json", ONE)
    project.write("library/handlers.py", HANDLER)
    project.configure('SCHEMA_RUNNER["FIXTURES"] = ["one"]')
    project.configure('INSTALLED_APPS += ["library.handlers"]')
    project.run().failed("alias 'other' has no test database yet")
    assert project.query("TABLE library_author", database=other) == []
    project.drop_database(other)
