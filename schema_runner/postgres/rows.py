"""The rows of a schema: its tables, sequence values and materialized views."""

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from psycopg import sql

from . import safe_search_path
from .server import Connection

# Tables with pages on disk. They may have no rows: a table keeps its size after DELETE.
# Partitioned tables have no rows themselves, and foreign tables are on other servers.
_WITH_PAGES = """
    SELECT relname FROM pg_catalog.pg_class c
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) > 0
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid
                        AND deptype = 'e')
    ORDER BY c.oid
"""
# Columns of the schema's own types, such as enums, and of OID alias types such as regclass: their
# values refer to objects that have other OIDs in another schema.
_COLUMNS = r"""
    SELECT relname, attname,
           CASE WHEN typnamespace = relnamespace
                  OR (typnamespace = 'pg_catalog'::regnamespace
                      AND typname ~ '^_?reg(class|collation|config|dictionary|oper|proc|type)')
                THEN ARRAY[atttypid::bigint, atttypmod] END
    FROM pg_catalog.pg_attribute
    JOIN pg_catalog.pg_class c ON c.oid = attrelid
    JOIN pg_catalog.pg_type t ON t.oid = atttypid
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND relname = ANY(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    ORDER BY relname, attnum
"""


class Column(NamedTuple):
    """A column that is not generated.

    If its type depends on the schema, `own_type` names it, and values are copied as text.
    """

    name: str
    own_type: str | None = None


class Table(NamedTuple):
    """A table, and the columns to copy."""

    name: str
    columns: tuple[Column, ...]

    def values(self) -> list[sql.Composed]:
        """Return expressions that select from the table what a copy stores."""
        return [
            sql.SQL("{0}::pg_catalog.text AS {0}" if column.own_type else "{0}").format(
                _identifier(column)
            )
            for column in self.columns
        ]

    def row(self) -> sql.Composed:
        """Return an expression for a row of the table as text, to compare with `row_of_copy`."""
        return _row(
            sql.SQL("{}::pg_catalog.text" if column.own_type else "{}").format(_identifier(column))
            for column in self.columns
        )

    def row_of_copy(self) -> sql.Composed:
        """Return an expression for a row of a copy as text."""
        return _row(map(_identifier, self.columns))

    def copy_from(self, source: sql.Composable, schema: str) -> sql.Composed:
        """Return a statement that inserts the rows of the copy `source` into a schema's table.

        The schema must be first on the search_path.
        """
        columns = sql.SQL("({})").format(_join(map(_identifier, self.columns)))
        return sql.SQL(
            "INSERT INTO {table} {columns} OVERRIDING SYSTEM VALUE SELECT {values} FROM {source}"
        ).format(
            table=sql.Identifier(schema, self.name),
            # There may be generated columns only.
            columns=columns if self.columns else sql.SQL(""),
            values=_join(
                sql.SQL("{}::{}").format(_identifier(column), sql.SQL(column.own_type))
                if column.own_type
                else _identifier(column)
                for column in self.columns
            ),
            source=source,
        )


def read_tables(
    connection: Connection,
    schema: str,
    path: Sequence[str],
    among: Collection[str] | None = None,
) -> list[Table]:
    """List the tables that have rows, or those of them that `among` names.

    `path` follows the schema on the search_path of tests.
    """
    names = [name for (name,) in connection.execute(_WITH_PAGES, [schema])]
    if among is not None:
        names = [name for name in names if name in among]
    filled = [name for name in names if _has_rows(connection, schema, name)]
    columns = connection.execute(_COLUMNS, [schema, filled]).fetchall()
    own_types = {tuple(own_type) for _, _, own_type in columns if own_type}
    names_of_types = _named_types(connection, schema, path, own_types) if own_types else {}
    columns_by_table = {
        name: tuple(
            Column(column, names_of_types.get(tuple(own or ()))) for _, column, own in rows
        )
        for name, rows in groupby(columns, key=lambda row: row[0])
    }
    return [Table(name, columns_by_table.get(name, ())) for name in filled]


def _named_types(
    connection: Connection, schema: str, path: Sequence[str], types: Iterable[tuple[int, ...]]
) -> dict[tuple[int, ...], str]:
    """Map types, by OID and modifier, to their names, without schemas that are on the path."""
    query, named = "SELECT pg_catalog.format_type(%s, %s)", {}
    with safe_search_path.users_search_path(connection, schema, path):
        for type_ in types:
            ((named[type_],),) = connection.execute(query, type_).fetchall()
    return named


def _has_rows(connection: Connection, schema: str, table: str) -> bool:
    statement = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {})")
    row = connection.execute(statement.format(sql.Identifier(schema, table))).fetchone()
    return bool(row and row[0])


def _identifier(column: Column) -> sql.Identifier:
    return sql.Identifier(column.name)


def _row(values: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL("ROW({})::pg_catalog.text").format(_join(values))


def _join(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


class SequenceValue(NamedTuple):
    """The state of a sequence, as in the arguments of PostgreSQL's `setval`."""

    name: str
    value: int
    is_called: bool


_SEQUENCES = """
    SELECT relname, seqstart
    FROM pg_catalog.pg_sequence JOIN pg_catalog.pg_class c ON c.oid = seqrelid
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
    ORDER BY c.oid
"""
_LAST_VALUES = """
    SELECT relname, pg_catalog.pg_sequence_last_value(seqrelid)
    FROM pg_catalog.pg_sequence JOIN pg_catalog.pg_class c ON c.oid = seqrelid
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
# A statement locks each sequence that it reads.
_SEQUENCES_PER_QUERY = 50


def read_sequences(connection: Connection, schema: str) -> list[SequenceValue]:
    """List the sequences that are not at their start."""
    starts = _sequence_starts(connection, schema)
    values = _sequence_values(connection, schema, list(starts))
    return [value for value in values if value != starts[value.name]]


def restore_sequences(
    connection: Connection, schema: str, values: Iterable[SequenceValue], *, exactly: bool = True
) -> None:
    """Set all sequences to these values, and those that are not listed to their start.

    Without `exactly`, unused sequences that should be unused stay as they are: reading their next
    value takes ten times as long.
    """
    starts = _sequence_starts(connection, schema)
    wanted = starts | {value.name: value for value in values}
    if exactly:
        current = set(_sequence_values(connection, schema, list(wanted)))
        changed = {wanted[value.name] for value in current} - current
    else:
        last: dict[str, int | None] = dict(connection.execute(_LAST_VALUES, [schema]).fetchall())
        changed = {
            value
            for value in wanted.values()
            if value.name in last
            and last[value.name] != (value.value if value.is_called else None)
        }
    for statement in sql_set_sequences(changed, schema):
        connection.execute(statement)


def _sequence_starts(connection: Connection, schema: str) -> dict[str, SequenceValue]:
    rows = connection.execute(_SEQUENCES, [schema])
    return {name: SequenceValue(name, start, False) for name, start in rows}


def _sequence_values(connection: Connection, schema: str, names: list[str]) -> list[SequenceValue]:
    values = []
    for start in range(0, len(names), _SEQUENCES_PER_QUERY):
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}::text, last_value, is_called FROM {}").format(
                sql.Literal(name), sql.Identifier(schema, name)
            )
            for name in names[start : start + _SEQUENCES_PER_QUERY]
        )
        values += [SequenceValue(*row) for row in connection.execute(query)]
    return values


def sql_set_sequences(values: Iterable[SequenceValue], schema: str) -> list[sql.Composed]:
    """Return statements that set a schema's sequences to these values."""
    return [
        sql.SQL("SELECT pg_catalog.setval({}, {}, {})").format(
            sql.Literal(sql.Identifier(schema, name).as_string()), value, is_called
        )
        for name, value, is_called in values
    ]


# By OID, because a view is created after those that its query uses. (That fails if a plain view
# between two of them was replaced later.)
_POPULATED_VIEWS = """
    SELECT c.oid, relname, pg_catalog.pg_get_viewdef(c.oid)
    FROM pg_catalog.pg_class c
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND relkind = 'm' AND relispopulated
    ORDER BY c.oid
"""
_DIFFERS = """
    SELECT EXISTS ((SELECT v::pg_catalog.text FROM {view} v
             EXCEPT ALL SELECT q::pg_catalog.text FROM ({query}) q)
                   UNION ALL
                   (SELECT q::pg_catalog.text FROM ({query}) q
                    EXCEPT ALL SELECT v::pg_catalog.text FROM {view} v))
"""


def read_materialized_views(
    connection: Connection, schema: str, path: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the populated materialized views, and those of them that are out of date.

    The former are in the order in which to refresh them. `path` follows the schema on the
    search_path of tests.
    """
    views, stale = connection.execute(_POPULATED_VIEWS, [schema]).fetchall(), []
    for _, name, query in views:
        differs = sql.SQL(_DIFFERS).format(
            view=sql.Identifier(schema, name), query=sql.SQL(query.rstrip(";"))
        )
        with safe_search_path.users_search_path(connection, schema, path):
            row = connection.execute(differs).fetchone()
        if row and row[0]:
            stale.append(name)
    return [name for _, name, _ in views], stale
