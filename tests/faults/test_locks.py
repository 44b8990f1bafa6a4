"""Locks of others in a worker's schema: a reset waits a little, then names who holds them."""

import re
from pathlib import Path

import pytest

from schema_runner import embedded

from ..project import PARALLEL, SERIAL, Mode, Project, Result, address

VIEW = """migrations.RunSQL(
    "CREATE MATERIALIZED VIEW names AS SELECT name FROM library_author"
)"""
# A test, and what somebody else does with the worker's schema until the end of the class.
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
        '''Keys are adopted by a trigger, in the first reset alone.'''
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


def blamed(result: Result) -> dict[str, str]:
    """Map the classes that have failed to what is said of who is in the way."""
    _, *errors = re.split(r"^=+$", result.stderr, flags=re.M)
    found = {}
    for error in errors:
        (name,) = re.findall(r"^(?:ERROR|FAIL): test_it \(library\.\w+\.(\w+)", error, re.M)
        _, _, found[name] = error.partition("End its transaction:\n")
    return found


@pytest.mark.parametrize("reset", ["selective", "reference"])
def test_whoever_reads_fails_a_reset_and_is_named(project: Project, reset: str) -> None:
    """It is done again before the next class, which finds everything in order."""
    project.migration("0002_view", "0001_initial", VIEW)
    project.configure(f"SCHEMA_RUNNER = {{'RESET': {reset!r}}}")
    # Views are restored from a template.
    cases, mode = (RESTORED, PARALLEL) if reset == "reference" else (REWRITTEN, SERIAL)
    project.tests(HOLDING + cases)
    found = blamed(project.run(*mode).failed())
    names = {"View", "Sequence"} if reset == "reference" else {"AFirst", "Exclusive", "Large"}
    assert found.keys() == names
    assert all(re.match(HOLDER, text) for text in found.values()), found


PREPARED = """
    class Own(Holding):
        '''It is in no other schema, so that nobody but a test can have prepared it.'''
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
            '''Prepare what no reset comes after.'''
            with connection.cursor() as cursor:
                cursor.execute("BEGIN; INSERT INTO library_author (name) VALUES ('x')")
                cursor.execute(f"PREPARE TRANSACTION 'last {os.getpid()}'")
"""


@pytest.mark.parametrize("mode", [SERIAL, (*PARALLEL, "--keepdb")], ids=["serial", "kept"])
def test_prepared_transactions(
    postgresql: embedded.EmbeddedServer, tmp_path: Path, mode: Mode
) -> None:
    """They have no process that could be ended: a test's are rolled back, others' are named."""
    settings = {"max_prepared_transactions": 5, "fsync": False}
    cache = postgresql.data_dir.parent
    other = embedded.start(bin_dir=postgresql.bin_dir, settings=settings, cache_dir=cache)
    try:
        project = Project(tmp_path, address(other), "prepared")
        project.tests(HOLDING + PREPARED)
        result = project.run(*mode).failed("errors=1")
        found = blamed(result)
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
