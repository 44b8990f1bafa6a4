"""A schema is brought to a state that is known, whatever has been done to its rows."""

import pytest
from psycopg import sql

from schema_runner.postgres import rows
from schema_runner.postgres.copies import Copies
from schema_runner.postgres.reset import Reset, Scope
from schema_runner.postgres.server import Connection
from schema_runner.postgres.template import set_path


@pytest.fixture
def schema(connection: Connection) -> str:
    connection.execute("CREATE SCHEMA w; CREATE SCHEMA aside")
    set_path(connection, "w", ["public"])
    return "w"


def contents(connection: Connection, *tables: str) -> dict[str, list[str]]:
    return {
        table: [
            row
            for (row,) in connection.execute(
                sql.SQL("SELECT r::text FROM w.{} r ORDER BY 1").format(sql.Identifier(table))
            )
        ]
        for table in tables
    }


CHANGES = {
    "update": "UPDATE kind SET name = 'other' WHERE id = 1",
    "delete": "DELETE FROM kind WHERE id = 2",
    "insert": "INSERT INTO kind VALUES (3, 'new')",
    "delete and insert": "DELETE FROM kind WHERE id = 2; INSERT INTO kind VALUES (2, 'two')",
    "truncate": "TRUNCATE kind CASCADE",
    "copy": "COPY kind FROM PROGRAM 'echo 9,nine' CSV",
    "other table": "INSERT INTO thing (kind) VALUES (1), (2), (1)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_are_brought_back(connection: Connection, schema: str, change: str) -> None:
    """Whatever the change is; twice, the second time by stamps."""
    connection.execute(
        "CREATE TABLE kind (id int PRIMARY KEY, name text);"
        "CREATE TABLE thing (id serial PRIMARY KEY, kind int REFERENCES kind);"
        "INSERT INTO kind VALUES (1, 'one'), (2, 'two')"
    )
    tables = rows.tables_with_rows(connection, schema)
    kept = Copies.make(connection, "aside", schema, tables).rows
    before = contents(connection, "kind", "thing")
    reset = Reset(schema, ["public"])
    for _ in range(2):
        connection.execute(CHANGES[change])
        reset.clear(connection, Scope(), kept)
        assert contents(connection, "kind", "thing") == before
