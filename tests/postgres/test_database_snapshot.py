"""Snapshots of whole databases: a faithful copy, or no snapshot."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from schema_runner.postgres import databases
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.snapshot import Snapshot
from schema_runner.postgres.structure_script import CopyError

from .test_move import EVERYTHING

# Objects that a schema cannot hold, and rows that look like separators between statements.
BESIDE = r"""
    CREATE SCHEMA mine;
    CREATE TABLE mine.kinds (
        id int GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 5) PRIMARY KEY, note text,
        data bytea DEFAULT '\x00ff', at timestamptz DEFAULT now(), moods public.mood[],
        doubled numeric GENERATED ALWAYS AS (0.1 * 2) STORED, relation regclass,
        self int REFERENCES mine.kinds DEFERRABLE INITIALLY DEFERRED
    );
    INSERT INTO mine.kinds (note, moods, relation, self)
    SELECT E'it''s; \\ "%s"\n\n--\n-- PostgreSQL database dump\n--\n', '{good,bad}', 'parent', 5
    FROM generate_series(1, 2500);
    SET CONSTRAINTS ALL IMMEDIATE;
    INSERT INTO part VALUES (3), (4);
    CREATE MATERIALIZED VIEW mine.counted AS SELECT count(*) FROM mine.kinds;
    SELECT nextval('free'), nextval('free');
    ALTER TABLE parent DISABLE TRIGGER touch;
    ALTER TABLE mine.kinds OWNER TO pg_monitor;
    GRANT SELECT (id) ON parent TO pg_monitor;
    REVOKE USAGE ON SCHEMA public FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor;
    SELECT lo_from_bytea(20000, '\x0001');
    CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER watches ON ddl_command_end EXECUTE FUNCTION noted();
    CREATE PUBLICATION published FOR TABLE parent;
    CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER far FOREIGN DATA WRAPPER wrapper;
    CREATE FUNCTION handler() RETURNS language_handler
        LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
    CREATE LANGUAGE own HANDLER handler;
    CREATE CAST (int AS point) WITH INOUT
"""


@pytest.fixture
def other(server: Server, connection: Connection) -> Iterator[Connection]:
    """Another, empty database."""
    name = f"{connection.info.dbname}_2"
    connection.execute(f"CREATE DATABASE {name}")
    with closing(server.connect(name)) as opened:
        yield opened
    databases.drop(connection, name)


def snapshot(server: Server, connection: Connection) -> Snapshot:
    program = PgDump.find(connection.info.server_version)
    facts = {"fingerprint": "abc", "made": 5, "extra": {"why": "of a test"}}
    return Snapshot.of_database(server, connection.info.dbname, program, **facts)


def dump_text(snapshot: Snapshot) -> str:
    """Return the output of pg_dump without its random tokens."""
    return re.sub(r"^\\(un)?restrict .*", "", snapshot.sql, flags=re.MULTILINE)


def test_a_whole_database(
    server: Server, connection: Connection, other: Connection, tmp_path: Path
) -> None:
    """A dump of the copy is the same, including rows, owners and privileges."""
    connection.execute("CREATE EXTENSION citext; CREATE EXTENSION hstore;" + EVERYTHING)
    connection.execute(BESIDE)
    found = snapshot(server, connection)
    found.write(path := tmp_path / "some.snapshot")
    read = Snapshot.read(path)
    assert read == found
    read.restore_database(other)
    assert dump_text(snapshot(server, other)) == dump_text(found)
    # Restoring into a database that is not new fails.
    with pytest.raises(CopyError, match="already exists"):
        read.restore_database(other)


def test_an_extension_of_another_owner(
    server: Server, connection: Connection, other: Connection
) -> None:
    """As in a template1 prepared by an administrator: only its owner may comment on it."""
    for one in (connection, other):
        one.execute("CREATE EXTENSION hstore")
    other.execute("SET ROLE pg_monitor")
    snapshot(server, connection).restore_database(other)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            "CREATE TABLE t (); CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM t;"
            "INSERT INTO t DEFAULT VALUES",
            "a dump cannot reproduce materialized view seen, which is out of date",
        ),
        (
            "CREATE EXTENSION hstore VERSION '1.4'",
            "a dump cannot reproduce extension hstore, whose version is not the default",
        ),
        (
            "CREATE SUBSCRIPTION reader CONNECTION 'dbname=none' PUBLICATION p"
            " WITH (connect = false, slot_name = NONE)",
            "a dump cannot reproduce subscription reader",
        ),
        (
            "GRANT TEMP ON DATABASE {} TO pg_monitor; ALTER DATABASE {} SET my.word = 1",
            "migrations have changed the privileges of the database, the settings of the database",
        ),
    ],
)
def test_objects_that_a_dump_does_not_restore(
    server: Server, connection: Connection, change: str, why: str
) -> None:
    """If a restored dump would differ from a build, no snapshot is written."""
    for statement in change.format(*[connection.info.dbname] * 2).split(";"):
        connection.execute(statement.encode())
    with pytest.raises(CopyError, match=re.escape(why)):
        snapshot(server, connection)
    if "SUBSCRIPTION" in change:
        connection.execute("DROP SUBSCRIPTION reader")
