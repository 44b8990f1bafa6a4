"""The rows of a schema, and statements that carry them to another one."""

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from psycopg import sql

from . import safe_search_path
from .server import Connection

# A table keeps its size when its rows are deleted, so each of these is looked into. Partitions
# have the rows of what they are partitions of; those of foreign tables are not here.
_WITH_PAGES = """
    SELECT relname FROM pg_catalog.pg_class c
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) > 0
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid
                        AND deptype = 'e')
    ORDER BY c.oid
"""
# The types of a schema are others in each schema, with others' OIDs in their values, and the
# same is true of what a regclass stands for.
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
    """A column whose values can be inserted; with an `own_type` they travel as text."""

    name: str
    own_type: str | None = None


class Table(NamedTuple):
    """A table that has rows, and the columns that hold their values.

    A copy of it, in another schema, has what `values` selects, maybe among other things.
    """

    name: str
    columns: tuple[Column, ...]

    def values(self) -> list[sql.Composed]:
        """What to select where the table itself is, for a copy of it in another schema."""
        return [
            sql.SQL("{0}::pg_catalog.text AS {0}" if column.own_type else "{0}").format(
                _identifier(column)
            )
            for column in self.columns
        ]

    def row(self) -> sql.Composed:
        """A row of the table itself as one text, which is that of its copy: see `row_of_copy`."""
        return _row(
            sql.SQL("{}::pg_catalog.text" if column.own_type else "{}").format(_identifier(column))
            for column in self.columns
        )

    def row_of_copy(self) -> sql.Composed:
        return _row(map(_identifier, self.columns))

    def copy_from(self, source: sql.Composable, schema: str) -> sql.Composed:
        """Insert into the table of a schema what `source` has, a copy of it.

        The schema is first on the search_path.
        """
        columns = sql.SQL("({})").format(_join(map(_identifier, self.columns)))
        return sql.SQL(
            "INSERT INTO {table} {columns} OVERRIDING SYSTEM VALUE SELECT {values} FROM {source}"
        ).format(
            table=sql.Identifier(schema, self.name),
            # One whose values are all generated has none to name.
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
    """List the tables that have rows; `path` follows the schema on the search_path of users."""
    names = [name for (name,) in connection.execute(_WITH_PAGES, [schema])]
    if among is not None:
        names = [name for name in names if name in among]
    filled = [name for name in names if _has_rows(connection, schema, name)]
    columns = connection.execute(_COLUMNS, [schema, filled]).fetchall()
    own = {tuple(own_type) for _, _, own_type in columns if own_type}
    named = _named_types(connection, schema, path, own) if own else {}
    found = {
        name: tuple(Column(column, named.get(tuple(own or ()))) for _, column, own in rows)
        for name, rows in groupby(columns, key=lambda row: row[0])
    }
    return [Table(name, found.get(name, ())) for name in filled]


def _named_types(
    connection: Connection, schema: str, path: Sequence[str], types: Iterable[tuple[int, ...]]
) -> dict[tuple[int, ...], str]:
    """Map types, by OID and modifier, to their names, which have no schema that is on the path."""
    query, named = "SELECT pg_catalog.format_type(%s, %s)", {}
    with safe_search_path.users_search_path(connection, schema, path):
        for one in types:
            ((named[one],),) = connection.execute(query, one).fetchall()
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
    """Where a sequence is: at `value`, which has been given out if it `is_called`."""

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
# So that one statement does not lock too many.
_SEQUENCES_PER_QUERY = 50


def read_sequences(connection: Connection, schema: str) -> list[SequenceValue]:
    """List the sequences that are not where they start."""
    starts = _sequence_starts(connection, schema)
    found = _sequence_values(connection, schema, list(starts))
    return [one for one in found if one != starts[one.name]]


def restore_sequences(
    connection: Connection, schema: str, values: Iterable[SequenceValue], *, exactly: bool = True
) -> None:
    """Bring all sequences to these values, or else to where they start.

    Unless it is to be done `exactly`, those stay that have given out nothing, wherever they are:
    to see where would take ten times as long.
    """
    starts = _sequence_starts(connection, schema)
    wanted = starts | {one.name: one for one in values}
    if exactly:
        found = set(_sequence_values(connection, schema, list(wanted)))
        moved = {wanted[one.name] for one in found} - found
    else:
        last: dict[str, int | None] = dict(connection.execute(_LAST_VALUES, [schema]).fetchall())
        moved = {
            one
            for one in wanted.values()
            if one.name in last and last[one.name] != (one.value if one.is_called else None)
        }
    for statement in sql_set_sequences(moved, schema):
        connection.execute(statement)


def _sequence_starts(connection: Connection, schema: str) -> dict[str, SequenceValue]:
    rows = connection.execute(_SEQUENCES, [schema])
    return {name: SequenceValue(name, start, False) for name, start in rows}


def _sequence_values(connection: Connection, schema: str, names: list[str]) -> list[SequenceValue]:
    found = []
    for start in range(0, len(names), _SEQUENCES_PER_QUERY):
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}::text, last_value, is_called FROM {}").format(
                sql.Literal(name), sql.Identifier(schema, name)
            )
            for name in names[start : start + _SEQUENCES_PER_QUERY]
        )
        found += [SequenceValue(*row) for row in connection.execute(query)]
    return found


def sql_set_sequences(values: Iterable[SequenceValue], schema: str) -> list[sql.Composed]:
    """Return statements that bring a schema's sequences to these values."""
    return [
        sql.SQL("SELECT pg_catalog.setval({}, {}, {})").format(
            sql.Literal(sql.Identifier(schema, name).as_string()), value, is_called
        )
        for name, value, is_called in values
    ]


# A view follows all that its query is about, other views among them, in the order of OIDs only
# until one of them is replaced.
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
    """List the materialized views that have rows to show, and those of them that are out of date.

    Refreshed in this order, the former show what they should. `path` follows the schema on the
    search_path of users.
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
