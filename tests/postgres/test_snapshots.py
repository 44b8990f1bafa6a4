"""Snapshots of databases and templates: a faithful copy, or no snapshot."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from schema_runner.postgres import databases
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.reset.changes import current_transaction
from schema_runner.postgres.reset.reset import Reset
from schema_runner.postgres.server import Connection, Server
from schema_runner.postgres.snapshot import Snapshot
from schema_runner.postgres.structure_script import CopyError
from schema_runner.postgres.template import Template

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


# Values whose text is difficult to quote, or differs from what a cast to text returns.
VALUES = r"""
    SET search_path = public;
    CREATE SCHEMA w; CREATE EXTENSION citext; CREATE COLLATION w.plain FROM "C";
    CREATE TYPE w.mood AS ENUM ('a "glad" one', 'sad');
    CREATE TABLE w.word (
        id citext PRIMARY KEY, note text COLLATE w.plain, padded char(5), flag bool, "a %s" text[],
        address inet, bits varbit, number float8, big numeric(40, 20), data bytea, at timestamptz,
        lasts interval, document jsonb, moods w.mood[], codes citext[], ranges int4multirange,
        relation regclass, "order" "char"
    );
    INSERT INTO w.word (id) VALUES ('nothing');
    INSERT INTO w.word VALUES (
        'A', E'it''s; \\ "%s"\n-- x', 'a', true, '{NULL,"",\\,"\"","{}"}', '10.0.0.1',
        B'101', 0.1::float8 / 3, 1e19, '\x00ff', now(), '1 mon -1 day 0.000001 s',
        '{"a": "\\ \" ''"}', '{sad,"a \"glad\" one"}', '{B,b}', '{[1,3),[5,)}', 'w.word', 'x'
    );
    CREATE TABLE w.usage (word citext REFERENCES w.word, n int GENERATED ALWAYS AS (1) STORED)
"""


def test_a_template(connection: Connection, other: Connection, tmp_path: Path) -> None:
    """A template depends on nothing but PostgreSQL; its copies have the same rows."""
    connection.execute(VALUES)
    since = current_transaction(connection.cursor())
    connection.execute("INSERT INTO w.usage VALUES ('a')")
    marker = Marker(1, MarkerState.READY)
    template = Template.create_rows_only(connection, "w", marker, ["public"], since)
    # A foreign key of type citext ignores the case.
    assert sorted(template.contents.marked) == ["usage", "word"]
    found = Snapshot.of_template(connection, template.name, fingerprint="f", made=1, extra={})
    found.write(path := tmp_path / "some.snapshot")
    assert Snapshot.read(path) == found
    rows = [connection.execute(f"TABLE w.{name}").fetchall() for name in ("word", "usage")]

    connection.execute("DROP SCHEMA w CASCADE; DROP EXTENSION citext")
    again = Snapshot.of_template(connection, template.name, fingerprint="f", made=1, extra={})
    assert again == found

    copied, created = found.restore_template(other, marker, path=["public"], extensions="public")
    assert created == ["citext"]
    other.execute(VALUES.replace("CREATE EXTENSION citext;", "").replace("{NULL", "{x,NULL"))
    Reset("w", ["public"]).restore(other, copied)
    assert [other.execute(f"TABLE w.{name}").fetchall() for name in ("word", "usage")] == rows


def test_values_with_other_defaults(server: Server, connection: Connection) -> None:
    """A role's default styles make no values ambiguous or less exact."""
    connection.execute(
        "CREATE SCHEMA w; CREATE DOMAIN w.exact AS float8;"
        "CREATE TABLE w.t (day date, lasts interval, number float8, exact w.exact);"
        "INSERT INTO w.t VALUES ('2020-03-04', '1 mon -1 day', 0.1 + 0.2::float8, 1 / 3::float8)"
    )
    options = "-c datestyle=SQL,DMY -c intervalstyle=sql_standard -c extra_float_digits=0"
    other = server._replace(params={**server.params, "options": options})
    with other.connect(connection.info.dbname) as unusual:
        marker = Marker(1, MarkerState.READY)
        template = Template.create_rows_only(unusual, "w", marker, ["public"])
        found = Snapshot.of_template(unusual, template.name, fingerprint="f", made=1, extra={})
    copied, _ = found.restore_template(connection, marker, path=["public"], extensions="public")
    rows = "SELECT day, lasts, number, exact::float8 FROM {}"
    assert (
        connection.execute(rows.format(f"{copied.name}.rows_1")).fetchall()
        == connection.execute(rows.format("w.t")).fetchall()
    )


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
