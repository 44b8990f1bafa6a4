"""Rows that are inserted again get the keys back that they had."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from psycopg import sql

from .row_copies import MARK
from .rows import Table
from .server import Connection

# The last of a table's triggers, which are called in the order of their names.
_TRIGGER = sql.Identifier("~schema_runner")
# Keys of one column that a sequence of its own gives out. Generated columns come after triggers.
_KEYS = """
    SELECT c.relname, attname, sequence,
           ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
                 WHERE attrelid = c.oid AND attgenerated <> '' AND NOT attisdropped)
    FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_class c ON c.oid = indrelid
    JOIN pg_catalog.pg_attribute ON attrelid = c.oid AND attnum = indkey[0],
    pg_catalog.pg_get_serial_sequence(c.oid::regclass::text, attname) AS sequence
    WHERE indisprimary AND indnkeyatts = 1 AND sequence IS NOT NULL
      AND relkind = 'r' AND NOT relispartition AND relname = ANY(%s)
      AND pg_catalog.pg_has_role(relowner, 'USAGE')
      AND EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql')
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
# Its arguments are the table that knows the rows, the key's column, the sequence, and the columns
# not to be compared. A key that this has not given out just now is chosen by whoever inserts.
# It runs on the search_path of theirs.
_FUNCTION = """
    CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        inserted CONSTANT pg_catalog.jsonb := pg_catalog.to_jsonb(NEW);
        given bigint;
        known bigint;
    BEGIN
        EXECUTE pg_catalog.format('SELECT last_value FROM %s WHERE is_called', TG_ARGV[2])
            INTO given;
        IF given OPERATOR(pg_catalog.=)
                (inserted OPERATOR(pg_catalog.->>) TG_ARGV[1])::bigint THEN
            EXECUTE pg_catalog.format(
                'DELETE FROM %s WHERE ctid OPERATOR(pg_catalog.=) (SELECT ctid FROM %s k'
                ' WHERE rest OPERATOR(pg_catalog.=) $1 AND NOT EXISTS (SELECT FROM ONLY %s t'
                ' WHERE t.%I::bigint OPERATOR(pg_catalog.=) k.key) LIMIT 1) RETURNING key',
                TG_ARGV[0], TG_ARGV[0], TG_RELID::pg_catalog.regclass, TG_ARGV[1])
                INTO known USING inserted OPERATOR(pg_catalog.-) TG_ARGV[3:];
            IF known IS NOT NULL THEN
                NEW := pg_catalog.jsonb_populate_record(
                    NEW, pg_catalog.jsonb_build_object(TG_ARGV[1], known));
            END IF;
        END IF;
        RETURN NEW;
    END
    $$
"""
_KNOW = """
    CREATE TABLE {known} AS
    SELECT pg_catalog.to_jsonb(t) - {left_out}::text[] AS rest, {key}::bigint AS key FROM {copy} t
"""


class _Key(NamedTuple):
    """The key of a table: its column, the sequence, and the table's generated columns."""

    table: str
    column: str
    sequence: str
    generated: list[str]


@contextmanager
def keys_adopted(
    connection: Connection,
    schema: str,
    aside: str,
    copies: Iterable[tuple[sql.Identifier, Table]],
) -> Iterator[None]:
    """Have what the body of the `with` inserts get the keys that equal rows have in `copies`.

    They are for the tables of `schema`; what is needed meanwhile is in the schema `aside`.
    """
    known = {table.name: copy for copy, table in copies}
    keys = [_Key(*key) for key in connection.execute(_KEYS, [list(known), schema])]
    function = sql.Identifier(aside, "adopt_key")
    with connection.transaction():
        connection.execute(sql.SQL(_FUNCTION).format(function=function))
        for number, key in enumerate(keys, start=1):
            left_out = [key.column, MARK, *key.generated]
            noted = sql.Identifier(aside, f"known_{number}")
            _note(connection, known[key.table], noted, key.column, left_out)
            arguments = [noted.as_string(connection), key.column, key.sequence, *left_out]
            connection.execute(
                sql.SQL(
                    # There is one if something has broken in, as a time limit can.
                    "CREATE OR REPLACE TRIGGER {} BEFORE INSERT ON {} FOR EACH ROW"
                    " EXECUTE FUNCTION {}({})"
                ).format(
                    _TRIGGER,
                    sql.Identifier(schema, key.table),
                    function,
                    sql.SQL(", ").join(map(sql.Literal, arguments)),
                )
            )
    try:
        yield
    finally:
        _forget(connection, function, [sql.Identifier(schema, key.table) for key in keys], aside)


def _note(
    connection: Connection,
    copy: sql.Identifier,
    noted: sql.Identifier,
    key: str,
    left_out: Collection[str],
) -> None:
    connection.execute(
        sql.SQL(_KNOW).format(
            known=noted, copy=copy, key=sql.Identifier(key), left_out=sql.Literal(list(left_out))
        )
    )
    connection.execute(sql.SQL("CREATE INDEX ON {} USING hash (rest)").format(noted))


def _forget(
    connection: Connection, function: sql.Identifier, tables: list[sql.Identifier], aside: str
) -> None:
    with connection.transaction():
        for number, table in enumerate(tables, start=1):
            drop = sql.SQL("DROP TRIGGER {} ON {}; DROP TABLE {}").format(
                _TRIGGER, table, sql.Identifier(aside, f"known_{number}")
            )
            connection.execute(drop)
        connection.execute(sql.SQL("DROP FUNCTION {}()").format(function))
