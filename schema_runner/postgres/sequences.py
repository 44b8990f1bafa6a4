"""Sequences that are owned by columns."""

from collections.abc import Collection
from typing import Any

from psycopg import sql

from .server import Connection

_RESTART = """
    SELECT pg_catalog.setval(q.seqrelid, q.seqstart, false)
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid
    JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
    WHERE d.classid = 'pg_catalog.pg_class'::regclass
      AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.deptype IN ('a', 'i') AND t.relname = ANY(%s)
      AND t.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
_OWNED = """
    SELECT t.relname, a.attname, s.relname, q.seqstart
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid AND q.seqincrement > 0
    JOIN pg_catalog.pg_class s ON s.oid = d.objid
    JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_catalog.pg_class'::regclass
      AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.deptype IN ('a', 'i')
      AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
      AND nspname = %s
"""


def restart(connection: Connection, schema: str, tables: Collection[str]) -> None:
    """Restart the sequences of tables at their start, or after the rows that remain."""
    connection.execute(_RESTART, [list(tables), schema])
    advance(connection.cursor(), schema)


def advance(cursor: Any, schema: str) -> None:
    """Advance each sequence in `schema` to the greatest value in the column that owns it.

    `cursor` is any psycopg or Django cursor. No sequence is set back.
    """
    cursor.execute(_OWNED, [schema])
    statements = [
        sql.SQL(
            "SELECT pg_catalog.setval({sequence}, max({column})) FROM {table}"
            " HAVING max({column}) > coalesce(pg_catalog.pg_sequence_last_value({sequence}),"
            " {start} - 1)"
        ).format(
            sequence=sql.Literal(sql.Identifier(schema, sequence).as_string()),
            column=sql.Identifier(column),
            table=sql.Identifier(schema, table),
            start=start,
        )
        for table, column, sequence, start in cursor.fetchall()
    ]
    if statements:
        cursor.execute(sql.SQL("; ").join(statements))
