"""Copies of rows, which mark reference data, and provide keys for later rows."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from schema_runner.flush.post_migrate import reuse_keys
from schema_runner.postgres import rows
from schema_runner.postgres.reset.changes import Scope, current_transaction
from schema_runner.postgres.reset.reset import Reset
from schema_runner.postgres.row_copies import Copies
from schema_runner.postgres.server import Connection
from schema_runner.postgres.structure import version

TABLES = """
    CREATE SCHEMA w; CREATE SCHEMA scratch; SET search_path = w;
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE country (code text, mood mood, PRIMARY KEY (code, mood));
    CREATE TABLE town (id int PRIMARY KEY, code text, mood mood, near int REFERENCES town,
                       FOREIGN KEY (code, mood) REFERENCES country);
    CREATE TABLE alone (id int PRIMARY KEY, n int);
    CREATE TABLE double (id int PRIMARY KEY, n int GENERATED ALWAYS AS (id * 2) STORED UNIQUE);
    CREATE TABLE pair (id int PRIMARY KEY, n int REFERENCES double (n));
    INSERT INTO country VALUES ('DE', 'glad'), ('DE', 'sad'), ('FR', 'glad');
    INSERT INTO town VALUES (1, 'DE', 'sad', NULL), (2, 'FR', 'glad', NULL), (4, NULL, NULL, 1);
    INSERT INTO town VALUES (5, NULL, NULL, 4);
    INSERT INTO alone VALUES (1, 1), (2, 1); INSERT INTO double VALUES (1), (2);
"""
COLUMNS = {"alone": "id", "town": "id", "pair": "id", "double": "id", "country": "code"}


@pytest.mark.parametrize(
    ("loading", "kept"),
    [
        ("SELECT 1", {}),
        ("INSERT INTO alone VALUES (3, 3)", {"alone": [3]}),
        ("UPDATE alone SET n = 2 WHERE id = 2", {"alone": [2]}),
        ("UPDATE alone SET n = 1", {"alone": [1, 2]}),
        ("DELETE FROM alone WHERE id = 1", {}),
        ("INSERT INTO town VALUES (3, NULL, NULL, NULL)", {"town": [3]}),
        ("INSERT INTO town VALUES (3, 'FR', 'glad', NULL)", {"town": [3], "country": ["FR"]}),
        ("INSERT INTO town VALUES (3, NULL, NULL, 1)", {"town": [1, 3], "country": ["DE"]}),
        ("INSERT INTO town VALUES (6, NULL, NULL, 5)", {"town": [1, 4, 5, 6], "country": ["DE"]}),
        # Copies have no generated columns, to which this row refers.
        ("INSERT INTO pair VALUES (1, 4)", {"pair": [1], "double": [1, 2]}),
        ("BEGIN; SAVEPOINT a; INSERT INTO alone VALUES (3, 3); COMMIT", {"alone": [3]}),
    ],
)
def test_loaded_rows_are_marked(
    connection: Connection, loading: str, kept: dict[str, list[object]]
) -> None:
    """With all rows that they refer to; a reset keeps exactly these."""
    connection.execute(TABLES)
    since = current_transaction(connection.cursor())
    connection.execute(loading)
    tables = rows.read_tables(connection, "w", ["public"])
    copies = Copies("scratch", tables).create(connection, "w", ["public"], since)
    assert sorted(copies.marked) == sorted(kept)
    Reset("w", ["public"]).clear(connection, Scope(), copies.marked_rows)
    for table, column in COLUMNS.items():
        found = connection.execute(f"SELECT {column} FROM w.{table} ORDER BY 1").fetchall()
        assert [value for (value,) in found] == kept.get(table, [])


KINDS = """
    CREATE SCHEMA w; CREATE SCHEMA scratch; SET search_path = w;
    CREATE TABLE kind (id serial PRIMARY KEY, "the name" text UNIQUE,
                       long text GENERATED ALWAYS AS ("the name" || '!') STORED);
    CREATE TABLE thing (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind int REFERENCES kind,
                        note text);
    INSERT INTO kind ("the name") SELECT 'kind ' || n FROM generate_series(1, 5) n;
    INSERT INTO thing (kind, note) SELECT id, 'same' FROM kind, generate_series(1, 2);
    SELECT setval('kind_id_seq', 100)
"""
ALL = 'SELECT t.id, k.id, "the name" FROM thing t JOIN kind k ON k.id = kind ORDER BY 1'


@pytest.fixture
def prepared(rolled_back: Connection) -> Iterator[Connection]:
    """Tables of kinds and things; no objects for adopting keys may be left."""
    rolled_back.execute(KINDS)
    before = version(rolled_back, "w")
    yield rolled_back
    assert version(rolled_back, "w") == before
    left = rolled_back.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'scratch'::regnamespace UNION ALL"
        " SELECT relname FROM pg_class WHERE relnamespace = 'scratch'::regnamespace"
        " AND relname !~ '^rows_'"
    )
    assert left.fetchall() == []


def adopted(prepared: Connection) -> AbstractContextManager[None]:
    tables = rows.read_tables(prepared, "w", ["public"])
    copies = Copies("scratch", tables).create(prepared, "w", ["public"])
    prepared.execute("SET search_path = w, public")
    return reuse_keys(prepared, "w", "scratch", copies.rows.values())


def test_keys_are_those_of_equal_rows(prepared: Connection) -> None:
    """So rows that refer to them are equal too; of several equal rows, each key is used once."""
    before = prepared.execute(ALL).fetchall()
    with adopted(prepared):
        prepared.execute("TRUNCATE kind, thing")
        prepared.execute(
            """INSERT INTO kind ("the name") SELECT 'kind ' || n FROM generate_series(5, 1, -1) n;
               INSERT INTO thing (kind, note) SELECT id, 'same' FROM kind, generate_series(1, 2)"""
        )
    assert prepared.execute(ALL).fetchall() == before


def test_other_rows_get_new_keys(prepared: Connection) -> None:
    """Keys that the INSERT sets explicitly stay."""
    with adopted(prepared):
        prepared.execute("TRUNCATE kind, thing")
        prepared.execute("""INSERT INTO kind ("the name") VALUES ('another');
                         INSERT INTO kind (id, "the name") VALUES (50, 'kind 1')""")
    found = prepared.execute('SELECT id, "the name" FROM kind ORDER BY id').fetchall()
    assert found == [(50, "kind 1"), (101, "another")]


def test_keys_in_use_are_left(prepared: Connection) -> None:
    """If the row of a key exists already, the new row gets a key of its own."""
    with adopted(prepared):
        prepared.execute("INSERT INTO thing (kind, note) VALUES (1, 'same')")
    assert len(prepared.execute(ALL).fetchall()) == 11


@pytest.mark.parametrize("column", ["n", "v", "q"])
def test_stale_views_are_found(connection: Connection, column: str) -> None:
    """Whatever their columns are called."""
    connection.execute(
        f"CREATE TABLE t (id int, {column} int); INSERT INTO t VALUES (1, 1);"
        f"CREATE MATERIALIZED VIEW m AS SELECT id, {column} FROM t"
    )
    assert rows.list_stale_views(connection, "public", []) == []
    connection.execute("INSERT INTO public.t VALUES (2, 1)")
    found = rows.list_stale_views(connection, "public", [])
    assert found == ["materialized view m, which is out of date"]
