"""The version of a structure changes only if the structure does: see test_proof."""

from collections.abc import Iterator

import pytest

from schema_runner.postgres.reset.changes import Scope
from schema_runner.postgres.reset.reset import Reset
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.structure import version

from ..project import connect

TABLES = """
    CREATE SCHEMA w; CREATE SCHEMA other; SET search_path = w;
    CREATE TYPE mood AS ENUM ('glad');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE a (id serial PRIMARY KEY, n int DEFAULT 1, m mood, p positive);
    CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
    CREATE VIEW v AS SELECT id FROM a;
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER t BEFORE DELETE ON a FOR EACH ROW EXECUTE FUNCTION f();
    CREATE RULE r AS ON DELETE TO b DO INSTEAD NOTHING;
    CREATE INDEX i ON a (n);
    CREATE TABLE part (id int) PARTITION BY LIST (id);
    CREATE POLICY p ON a
"""
OTHERS = [
    "INSERT INTO a (n) VALUES (1); UPDATE a SET n = 2", "TRUNCATE a, b RESTART IDENTITY",
    "VACUUM a", "ANALYZE", "SELECT nextval('a_id_seq'), setval('a_id_seq', 100)",
    "CREATE TABLE other.t (id int); DROP TABLE other.t", "CREATE TEMPORARY TABLE t (id int)",
    "BEGIN; ALTER TABLE a DROP n; ROLLBACK",
]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(server: Server, module_database: str) -> Iterator[Connection]:
    """The same schema for all tests, as alterations are rolled back."""
    with connect(server, module_database) as connection:
        connection.execute(TABLES)
        yield connection


@pytest.mark.parametrize("statement", OTHERS)
def test_other_changes_keep_the_version(prepared: Connection, statement: str) -> None:
    """Rows, sequences, and the server's own background work do not change it."""
    before = version(prepared, "w")
    prepared.execute(statement)
    assert version(prepared, "w") == before


def test_a_reset_keeps_the_version(prepared: Connection) -> None:
    """A reset disables triggers and rules meanwhile."""
    before = version(prepared, "w")
    prepared.execute("INSERT INTO a (id) VALUES (-1); INSERT INTO b VALUES (1, -1)")
    Reset("w", ["public"]).clear(prepared, Scope(), {})
    assert prepared.execute("SELECT * FROM a, b").fetchall() == []
    assert version(prepared, "w") == before
