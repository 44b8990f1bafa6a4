"""The values of sequences."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from psycopg import sql

from .server import Connection

_SEQUENCES = """
    SELECT relname, seqstart, pg_catalog.pg_sequence_last_value(seqrelid)
    FROM pg_catalog.pg_sequence JOIN pg_catalog.pg_class c ON c.oid = seqrelid
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
    ORDER BY c.oid
"""
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


class SequenceValue(NamedTuple):
    """The state of a sequence, as in the arguments of PostgreSQL's `setval`."""

    name: str
    value: int
    is_called: bool


def read_sequences(connection: Connection, schema: str) -> list[SequenceValue]:
    """List the sequences that are not at their start."""
    values = []
    for name, start, _ in connection.execute(_SEQUENCES, [schema]).fetchall():
        query = sql.SQL("SELECT last_value, is_called FROM {}")
        row = connection.execute(query.format(sql.Identifier(schema, name))).fetchone()
        if row and row != (start, False):
            values.append(SequenceValue(name, *row))
    return values


def restore_sequences(
    connection: Connection, schema: str, values: Iterable[SequenceValue], *, exactly: bool = True
) -> None:
    """Set all sequences to these values, and those that are not listed to their start.

    Without `exactly`, unused sequences that should be unused stay as they are: PostgreSQL does not
    show their next value with the others.
    """
    wanted = {value.name: value for value in values}
    changed = []
    for name, start, last_value in connection.execute(_SEQUENCES, [schema]):
        value = wanted.get(name, SequenceValue(name, start, False))
        if last_value != (value.value if value.is_called else None) or (
            exactly and not value.is_called
        ):
            changed.append(value)
    if changed:
        connection.execute(sql.SQL("; ").join(sql_set_sequences(changed, schema)))


def sql_set_sequences(values: Iterable[SequenceValue], schema: str) -> list[sql.Composed]:
    """Return statements that set a schema's sequences to these values."""
    return [
        sql.SQL("SELECT pg_catalog.setval({}, {}, {})").format(
            sql.Literal(sql.Identifier(schema, name).as_string()), value, is_called
        )
        for name, value, is_called in values
    ]


def restart(connection: Connection, schema: str, tables: Collection[str]) -> None:
    """Restart the sequences of tables at their start, or after the rows that remain."""
    connection.execute(_RESTART, [list(tables), schema])
    advance(connection.cursor(), schema)


def advance(cursor: Any, schema: str, *, unused: bool = False) -> None:
    """Advance each sequence in `schema` to the greatest value in the column that owns it.

    `cursor` is any psycopg or Django cursor. No sequence is set back, except with `unused` those
    that have not been used since they were set.
    """
    cursor.execute(_OWNED, [schema])
    statements = [
        sql.SQL(
            "SELECT pg_catalog.setval({name}, most)"
            " FROM (SELECT pg_catalog.max({column}) FROM {table}) AS t (most), {sequence}"
            " WHERE most > last_value"
            " OR NOT is_called AND (most = last_value OR {unused} AND most >= {start})"
        ).format(
            name=sql.Literal(sql.Identifier(schema, sequence).as_string()),
            column=sql.Identifier(column),
            table=sql.Identifier(schema, table),
            sequence=sql.Identifier(schema, sequence),
            unused=unused,
            start=start,
        )
        for table, column, sequence, start in cursor.fetchall()
    ]
    if statements:
        cursor.execute(sql.SQL("; ").join(statements))
