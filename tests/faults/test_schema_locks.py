"""Sessions that hold locks in a worker's schema: a reset waits briefly, then names them."""

import re
from pathlib import Path

import pytest

from schema_runner import embedded

from ..project import PARALLEL, SERIAL, Mode, Project, Result, address

VIEW = """migrations.RunSQL(
    "CREATE MATERIALIZED VIEW names AS SELECT name FROM library_author"
)"""
# After the test, `statements` run in another session, which ends with the class.
HOLDING = """
    import psycopg

    class Holding(TransactionTestCase):
        statements = ()

        def test_it(self):
            params = connection.get_connection_params()
            params = {name: params[name] for name in ("host", "port", "user", "dbname")}
            other = psycopg.connect(**params, application_name="onlooker")
            type(self).addClassCleanup(other.close)
            ((schema,),) = query("SELECT current_schema()")
            self.write()
            for statement in self.statements:
                other.execute(statement.replace("SCHEMA", schema))
            connection.close()

        def write(self): Author.objects.create(name="same")

    class Passing(TransactionTestCase):
        def test_it(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="same")
"""
REWRITTEN = """
    class AFirst(Holding):
        '''Only the first reset adopts the keys of rows that post_migrate creates.'''
        statements = ["SELECT FROM SCHEMA.auth_permission"]

    class Exclusive(Holding):
        statements = ["LOCK TABLE SCHEMA.library_book"]

    class Large(Holding):
        statements = ["SELECT FROM SCHEMA.library_author"]
        def write(self):
            query("INSERT INTO library_author (name) SELECT repeat('x', 90) || n"
                  " FROM generate_series(1, 9000) n")
"""
RESTORED = """
    class View(Holding):
        statements = ["SELECT FROM SCHEMA.names"]
        def write(self):
            super().write()
            query("REFRESH MATERIALIZED VIEW names")

    class Sequence(Holding):
        statements = ["ALTER SEQUENCE SCHEMA.library_author_id_seq CACHE 2"]
"""


HOLDER = "process \\d+ of \\w+ \\(onlooker\\), which is idle in transaction: "


def lock_holders_by_class(result: Result) -> dict[str, str]:
    """Map each failed class to the lock holders that its error names."""
    _, *errors = re.split(r"^=+$", result.stderr, flags=re.M)
    found = {}
    for error in errors:
        (name,) = re.findall(r"^(?:ERROR|FAIL): test_it \(library\.\w+\.(\w+)", error, re.M)
        _, _, found[name] = error.partition("End its transaction:\n")
    return found


@pytest.mark.parametrize("reset", ["selective", "reference"])
def test_a_lock_holder_fails_a_reset_and_is_named(project: Project, reset: str) -> None:
    """The next class starts with a new reset, and finds the schema in order."""
    project.migration("0002_view", "0001_initial", VIEW)
    project.configure(f"SCHEMA_RUNNER = {{'RESET': {reset!r}}}")
    # Materialized views are restored from a template only.
    cases, mode = (RESTORED, PARALLEL) if reset == "reference" else (REWRITTEN, SERIAL)
    project.tests(HOLDING + cases)
    found = lock_holders_by_class(project.run(*mode).failed())
    names = {"View", "Sequence"} if reset == "reference" else {"AFirst", "Exclusive", "Large"}
    assert found.keys() == names
    assert all(re.match(HOLDER, text) for text in found.values()), found


PREPARED = """
    class Own(Holding):
        '''It locks this schema only, so a test must have prepared it.'''
        statements = ["LOCK TABLE SCHEMA.library_author", "PREPARE TRANSACTION 'own SCHEMA'"]

    class Others(Holding):
        statements = ["LOCK TABLE SCHEMA.library_author",
                      "SELECT FROM information_schema.sql_features",
                      "PREPARE TRANSACTION 'other''s'"]
        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            query("ROLLBACK PREPARED 'other''s'")

    class ZLast(SimpleTestCase):
        databases = {"default"}
        def test_it(self):
            '''Prepare a transaction after which there is no reset.'''
            with connection.cursor() as cursor:
                cursor.execute("BEGIN; INSERT INTO library_author (name) VALUES ('x')")
                cursor.execute(f"PREPARE TRANSACTION 'last {os.getpid()}'")
"""


@pytest.mark.parametrize("mode", [SERIAL, (*PARALLEL, "--keepdb")], ids=["serial", "kept"])
def test_prepared_transactions(
    postgresql: embedded.EmbeddedServer, tmp_path: Path, mode: Mode
) -> None:
    """A test's prepared transactions are rolled back.

    Those of others are reported, as no session can be ended.
    """
    settings = {"max_prepared_transactions": 5, "fsync": False}
    cache = postgresql.data_dir.parent
    other = embedded.start(bin_dir=postgresql.bin_dir, settings=settings, cache_dir=cache)
    try:
        project = Project(tmp_path, address(other), "prepared")
        project.tests(HOLDING + PREPARED)
        result = project.run(*mode).failed("errors=1")
        found = lock_holders_by_class(result)
        assert found.keys() == {"Others"}
        assert "transaction 'other''s', which postgres prepared at " in found["Others"]
        assert "ROLLBACK PREPARED 'other''s'" in found["Others"]
        left = (
            r"Own.test_it left 'own test_w\d_\d+' as a prepared transaction, which was rolled back"
        )
        assert re.search(left, result.output)
        assert "stays" not in result.output
        with project.maintenance() as connection:
            query = "SELECT gid FROM pg_prepared_xacts"
            assert connection.execute(query).fetchall() == []
        project.run("--clear-pools", "library.test_generated.Passing").passed()
        assert project.databases() == []
    finally:
        project.end()
        embedded.stop(other)
