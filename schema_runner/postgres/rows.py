"""The tables and materialized views of a schema that have rows."""

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
# Columns that a template must not depend on, with the OIDs of their types: types and collations of
# the schema itself and of extensions, and OID alias types such as regclass, whose values refer to
# objects that have other OIDs in another schema.
_COLUMNS = r"""
    SELECT relname, attname,
           CASE WHEN typnamespace <> 'pg_catalog'::regnamespace
                  OR collnamespace <> 'pg_catalog'::regnamespace
                  OR typname ~ '^_?reg(class|collation|config|dictionary|oper|proc|type)'
                THEN ARRAY[atttypid::bigint, atttypmod] END
    FROM pg_catalog.pg_attribute
    JOIN pg_catalog.pg_class c ON c.oid = attrelid
    JOIN pg_catalog.pg_type t ON t.oid = atttypid
    LEFT JOIN pg_catalog.pg_collation o ON o.oid = attcollation
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND relname = ANY(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    ORDER BY relname, attnum
"""


class Column(NamedTuple):
    """A column that is not generated.

    `type` is the name of the type if copies contain the values as text, because the type or the
    collation is not PostgreSQL's own, or because the values depend on the schema.
    """

    name: str
    type: str | None = None

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.name)

    @property
    def stored(self) -> sql.Composable:
        """An expression for what a copy contains."""
        stored = '{}::pg_catalog.text COLLATE pg_catalog."default"' if self.type else "{}"
        return sql.SQL(stored).format(self.identifier)

    def restored(self, *copy: str) -> sql.Composable:
        """Return an expression for the value of a column in a copy, in the column's type.

        `copy`: the alias of the copy, if needed. The table's schema must be first on the
        search_path.
        """
        value = sql.Identifier(*copy, self.name)
        return sql.SQL("{}::{}").format(value, sql.SQL(self.type)) if self.type else value


class Table(NamedTuple):
    """A table, and the columns to copy."""

    name: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def row(self) -> sql.Composed:
        """Return an expression for a row of the table as text, to compare with `row_of_copy`."""
        return _row(column.stored for column in self.columns)

    def row_of_copy(self) -> sql.Composed:
        """Return an expression for a row of a copy as text."""
        return _row(column.identifier for column in self.columns)

    def copy_from(self, source: sql.Composable, schema: str) -> sql.Composed:
        """Return a statement that inserts the rows of the copy `source` into a schema's table.

        The schema must be first on the search_path.
        """
        names = sql.SQL("({})").format(_join(column.identifier for column in self.columns))
        return sql.SQL(
            "INSERT INTO {table} {columns} OVERRIDING SYSTEM VALUE SELECT {values} FROM {source}"
        ).format(
            table=sql.Identifier(schema, self.name),
            # There may be generated columns only.
            columns=names if self.columns else sql.SQL(""),
            values=_join(column.restored() for column in self.columns),
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
    type_names = _name_types(connection, schema, path, {tuple(t) for *_, t in columns if t})
    columns_by_table = {
        name: tuple(Column(column, type_names.get(tuple(t or ()))) for _, column, t in rows)
        for name, rows in groupby(columns, key=lambda row: row[0])
    }
    return [Table(name, columns_by_table.get(name, ())) for name in filled]


def _name_types(
    connection: Connection, schema: str, path: Sequence[str], types: Iterable[tuple[int, ...]]
) -> dict[tuple[int, ...], str]:
    """Map types, by OID and modifier, to their names, without schemas that are on the path."""
    query, names = "SELECT pg_catalog.format_type(%s, %s)", {}
    with safe_search_path.users_search_path(connection, schema, path):
        for type_ in types:
            ((names[type_],),) = connection.execute(query, type_).fetchall()
    return names


def _has_rows(connection: Connection, schema: str, table: str) -> bool:
    statement = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {})")
    row = connection.execute(statement.format(sql.Identifier(schema, table))).fetchone()
    return bool(row and row[0])


def _row(values: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL("ROW({})::pg_catalog.text").format(_join(values))


def _join(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


# By OID, because a view is created after those that its query uses. (That fails if a plain view
# between two of them was replaced later.)
_POPULATED_VIEWS = """
    SELECT relname, pg_catalog.pg_get_viewdef(c.oid)
    FROM pg_catalog.pg_class c
    WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
      AND relkind = 'm' AND relispopulated
    ORDER BY c.oid
"""
# Not `v::text`, which is a column if the view has one of this name.
_DIFFERS = """
    SELECT EXISTS ((SELECT ROW(v.*)::pg_catalog.text FROM {view} v
             EXCEPT ALL SELECT ROW(q.*)::pg_catalog.text FROM ({query}) q)
                   UNION ALL
                   (SELECT ROW(q.*)::pg_catalog.text FROM ({query}) q
                    EXCEPT ALL SELECT ROW(v.*)::pg_catalog.text FROM {view} v))
"""


def list_populated_views(connection: Connection, schema: str) -> list[str]:
    """List the populated materialized views in the order in which to refresh them."""
    return [name for name, _ in connection.execute(_POPULATED_VIEWS, [schema])]


def list_stale_views(connection: Connection, schema: str, path: Sequence[str]) -> list[str]:
    """Describe the materialized views that are out of date.

    `path` follows the schema on the search_path of tests.
    """
    stale = []
    for name, query in connection.execute(_POPULATED_VIEWS, [schema]).fetchall():
        differs = sql.SQL(_DIFFERS).format(
            view=sql.Identifier(schema, name), query=sql.SQL(query.rstrip(";"))
        )
        with safe_search_path.users_search_path(connection, schema, path):
            row = connection.execute(differs).fetchone()
        if row and row[0]:
            stale.append(f"materialized view {name}, which is out of date")
    return stale
