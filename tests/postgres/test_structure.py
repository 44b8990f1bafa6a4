"""The version of a structure: another one after what alters it, and after nothing else."""

import pytest

from schema_runner.postgres.occupied import Scope
from schema_runner.postgres.reset import Reset
from schema_runner.postgres.server import Connection
from schema_runner.postgres.structure import version

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
ALTERATIONS = [
    "ALTER TABLE a ADD more int",
    "ALTER TABLE a DROP n",
    "ALTER TABLE a RENAME n TO o",
    "ALTER TABLE a ALTER n TYPE bigint",
    "ALTER TABLE a ALTER n DROP DEFAULT",
    "ALTER TABLE a ALTER n SET DEFAULT 2",
    "ALTER TABLE a ALTER n SET NOT NULL",
    "ALTER TABLE a RENAME TO c",
    "ALTER TABLE a SET (fillfactor = 50)",
    "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE a ADD CHECK (n > 0)",
    "ALTER TABLE b DROP CONSTRAINT b_a_fkey",
    "ALTER TABLE b ALTER CONSTRAINT b_a_fkey DEFERRABLE",
    "ALTER TABLE a DISABLE TRIGGER t",
    "ALTER TABLE b DISABLE RULE r",
    "CREATE TABLE heir () INHERITS (a)",
    "CREATE TABLE part1 PARTITION OF part DEFAULT",
    "CREATE TABLE c (id int)",
    "DROP TABLE b",
    "CREATE INDEX ON a (m)",
    "DROP INDEX i",
    "DROP TRIGGER t ON a",
    "CREATE OR REPLACE TRIGGER t AFTER DELETE ON a FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE OR REPLACE VIEW v AS SELECT id FROM a WHERE id > 0",
    "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TYPE mood ADD VALUE 'sad'",
    "ALTER DOMAIN positive DROP CONSTRAINT positive_check",
    "ALTER SEQUENCE a_id_seq INCREMENT 5",
    "DROP POLICY p ON a",
    "ALTER POLICY p ON a USING (n = 1)",
    "ALTER TABLE a OWNER TO pg_database_owner",
]
OTHERS = [
    "INSERT INTO a (n) VALUES (1); UPDATE a SET n = 2",
    "TRUNCATE a, b RESTART IDENTITY",
    "VACUUM a",
    "ANALYZE",
    "SELECT nextval('a_id_seq'), setval('a_id_seq', 100)",
    "CREATE TABLE other.t (id int); DROP TABLE other.t",
    "CREATE TEMPORARY TABLE t (id int)",
    "BEGIN; ALTER TABLE a DROP n; ROLLBACK",
]


@pytest.fixture
def place(connection: Connection) -> Connection:
    connection.execute(TABLES)
    return connection


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_alteration_makes_another_version(place: Connection, alteration: str) -> None:
    """Of whatever kind."""
    before = version(place, "w")
    place.execute(alteration)
    assert version(place, "w") != before


@pytest.mark.parametrize("statement", OTHERS)
def test_nothing_else_does(place: Connection, statement: str) -> None:
    """Neither rows nor sequences nor what the server does by itself."""
    before = version(place, "w")
    place.execute(statement)
    assert version(place, "w") == before


def test_a_reset_does_not(place: Connection) -> None:
    """Though it takes triggers and rules away for a while."""
    before = version(place, "w")
    place.execute("INSERT INTO a (n) VALUES (1); INSERT INTO b VALUES (1, 1)")
    Reset("w", ["public"]).clear(place, Scope(), {})
    assert place.execute("SELECT * FROM a, b").fetchall() == []
    assert version(place, "w") == before
