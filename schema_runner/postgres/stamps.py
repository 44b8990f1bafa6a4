"""By what a table's rows are told from those that it had before, without looking at them."""

from collections.abc import Collection
from typing import Any, NamedTuple

from psycopg import errors, sql

from .server import Connection

# Each version of a row is at another place, and one that is written there later is another
# transaction's: https://www.postgresql.org/docs/current/ddl-system-columns.html. The newest
# transaction alone would not do: an older one can commit later.
_STAMP = """
    SELECT {name}, {table}::regclass::oid, pg_catalog.count(*),
           pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::text::int8))
    FROM ONLY {table_itself}
"""
_HAS_ROWS = "SELECT {name} WHERE EXISTS (SELECT FROM ONLY {table_itself})"


class RowVersions(NamedTuple):
    """Which versions of rows are in a table: their number, and a hash of all."""

    oid: int
    number: int
    versions: int | None


def stamps(connection: Connection, schema: str, tables: Collection[str]) -> dict[str, RowVersions]:
    """Map the names of tables, or of materialized views, to their stamps."""
    if not tables:
        return {}
    rows = connection.execute(_union(_STAMP, schema, tables))
    return {name: RowVersions(*stamp) for name, *stamp in rows}


def with_rows(connection: Connection, schema: str, tables: Collection[str]) -> set[str]:
    """Return those of the tables that have rows."""
    if not tables:
        return set()
    found = connection.execute(_union(_HAS_ROWS, schema, tables), prepare=True)
    return {name for (name,) in found}


def written_since(
    connection: Connection, schema: str, tables: Collection[str], transaction: int
) -> bool:
    """Whether one of the tables has rows that this transaction, or a later one, has written.

    So it is where that cannot be seen.
    """
    try:
        return has_rows_since(connection, schema, tables, transaction)
    except errors.InsufficientPrivilege:
        return True


def has_rows_since(
    connection: Connection, schema: str, tables: Collection[str], transaction: int
) -> bool:
    """Do as `written_since`, but raise InsufficientPrivilege where it cannot be seen."""
    if not tables:
        return False
    query = f"{_HAS_ROWS[:-1]} WHERE pg_catalog.age(xmin) <= pg_catalog.age({{xid}}))"
    xid = sql.SQL("{}::pg_catalog.xid").format(sql.Literal(str(transaction % 2**32)))
    return bool(connection.execute(_union(query, schema, tables, xid=xid)).fetchall())


def current_transaction(cursor: Any) -> int:
    """Return the number of a transaction; what is written once it is over has a later one.

    `cursor` is any cursor on psycopg.
    """
    cursor.execute("SELECT pg_catalog.pg_current_xact_id()::text")
    (number,) = cursor.fetchone()
    return int(number)


def _union(
    query: str, schema: str, tables: Collection[str], **more: sql.Composable
) -> sql.Composed:
    # In one order, so that psycopg finds the statement among those it has prepared.
    return sql.SQL(" UNION ALL ").join(
        sql.SQL(query).format(
            name=sql.Literal(table),
            table=sql.Literal(sql.Identifier(schema, table).as_string()),
            table_itself=sql.Identifier(schema, table),
            **more,
        )
        for table in sorted(tables)
    )
