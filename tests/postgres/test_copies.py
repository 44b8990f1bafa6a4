"""Copies of rows, in which those of reference data are marked."""

import pytest

from schema_runner.postgres import rows
from schema_runner.postgres.copies import Copies
from schema_runner.postgres.occupied import Scope
from schema_runner.postgres.reset import Reset
from schema_runner.postgres.server import Connection
from schema_runner.postgres.stamps import current_transaction
from schema_runner.postgres.template import set_path

TABLES = """
    CREATE SCHEMA w; CREATE SCHEMA aside; SET search_path = w;
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE country (code text, mood mood, PRIMARY KEY (code, mood));
    CREATE TABLE town (id int PRIMARY KEY, code text, mood mood, near int REFERENCES town,
                       FOREIGN KEY (code, mood) REFERENCES country);
    CREATE TABLE alone (id int PRIMARY KEY, n int);
    INSERT INTO country VALUES ('DE', 'glad'), ('DE', 'sad'), ('FR', 'glad');
    INSERT INTO town VALUES (1, 'DE', 'sad', NULL), (2, 'FR', 'glad', NULL), (4, NULL, NULL, 1);
    INSERT INTO town VALUES (5, NULL, NULL, 4);
    INSERT INTO alone VALUES (1, 1), (2, 1);
"""


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
        ("BEGIN; SAVEPOINT a; INSERT INTO alone VALUES (3, 3); COMMIT", {"alone": [3]}),
    ],
)
def test_rows_that_are_loaded_are_marked(
    connection: Connection, loading: str, kept: dict[str, list[object]]
) -> None:
    """With those that they refer to, however far; a reset keeps these and no others."""
    connection.execute(TABLES)
    set_path(connection, "w", ["public"])
    since = current_transaction(connection.cursor())
    connection.execute(loading)
    tables = rows.tables_with_rows(connection, "w")
    copies = Copies.make(connection, "aside", "w", tables, since)
    assert sorted(copies.marked) == sorted(kept)
    Reset("w", ["public"]).clear(connection, Scope(), copies.marked_rows)
    for table, column in (("alone", "id"), ("town", "id"), ("country", "code")):
        found = connection.execute(f"SELECT {column} FROM {table} ORDER BY 1").fetchall()
        assert [value for (value,) in found] == kept.get(table, [])
