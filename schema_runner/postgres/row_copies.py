"""Copies of the rows of tables, in a template or a scratch schema."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

from psycopg import sql

from . import safe_search_path
from .rows import Table
from .server import Connection

# The column of a copy that marks the rows to keep with RESET = "selective".
MARK = "schema_runner_kept"
_MARK = sql.Identifier(MARK)
# Foreign keys, with their columns in order, and the operators that compare them.
_FOREIGN_KEYS = """
    SELECT child.relname, parent.relname,
           ARRAY(SELECT attname::text FROM pg_catalog.unnest(conkey) WITH ORDINALITY AS k (n, nth)
                 JOIN pg_catalog.pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY nth),
           ARRAY(SELECT attname::text FROM pg_catalog.unnest(confkey) WITH ORDINALITY AS k (n, nth)
                 JOIN pg_catalog.pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY nth),
           ARRAY(SELECT ARRAY[nspname::text, oprname::text]
                 FROM pg_catalog.unnest(conpfeqop) WITH ORDINALITY AS k (operator, nth)
                 JOIN pg_catalog.pg_operator o ON o.oid = operator
                 JOIN pg_catalog.pg_namespace s ON s.oid = oprnamespace ORDER BY nth)
    FROM pg_catalog.pg_constraint
    JOIN pg_catalog.pg_class child ON child.oid = conrelid
    JOIN pg_catalog.pg_class parent ON parent.oid = confrelid
    WHERE contype = 'f' AND child.relname = ANY(%(tables)s) AND parent.relname = ANY(%(tables)s)
      AND connamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
"""


class WantedRows(NamedTuple):
    """The rows that a table should have: those of `source`, a copy or a subquery of one."""

    table: Table
    source: sql.Composable


class Copies:
    """Copies of the rows of `tables`, in tables `rows_1`, `rows_2`, … of the schema `name`.

    `marked` names the tables that have marked rows.
    """

    def __init__(self, name: str, tables: Sequence[Table], marked: Sequence[str] = ()) -> None:
        self.name = name
        self.tables = tuple(tables)
        self.marked = tuple(marked)

    def create(
        self,
        connection: Connection,
        source_schema: str,
        path: Sequence[str],
        since: int | None = None,
    ) -> Self:
        """Copy the tables of `source_schema`, which `path` follows on the search_path of tests.

        Mark the rows that the transaction `since` or a later one inserted or updated, and the rows
        that these refer to.
        """
        mark = (
            sql.SQL("false")
            if since is None
            else sql.SQL(
                "pg_catalog.age(xmin) OPERATOR(pg_catalog.<=) pg_catalog.age({}::pg_catalog.xid)"
            ).format(sql.Literal(str(since % 2**32)))
        )
        with safe_search_path.users_search_path(connection, source_schema, path):
            for copy, table in self:
                columns = sql.SQL(", ").join(
                    [*table.values(), sql.SQL("{} AS {}").format(mark, _MARK)]
                )
                connection.execute(
                    sql.SQL("CREATE TABLE {} AS SELECT {} FROM ONLY {}").format(
                        copy, columns, sql.Identifier(source_schema, table.name)
                    )
                )
        return self if since is None else self._with_marks(connection, source_schema)

    def _with_marks(self, connection: Connection, source_schema: str) -> Self:
        """Mark the rows that marked rows refer to; return the copies with the marked tables."""
        copies = {table.name: (copy, table) for copy, table in self}
        values = {"schema": source_schema, "tables": list(copies)}
        keys = [_ForeignKey(*key) for key in connection.execute(_FOREIGN_KEYS, values)]
        is_spreading = True
        while is_spreading:
            spreading = [_mark_parents(connection, copies, key) for key in keys]
            is_spreading = any(spreading)
        marked = tuple(
            name for name, (copy, _) in copies.items() if _has_marked_rows(connection, copy)
        )
        return type(self)(self.name, self.tables, marked)

    def __iter__(self) -> Iterator[tuple[sql.Identifier, Table]]:
        """Yield the identifier of each copy, and its table.

        Copies are numbered, because a table may have the name of one of the template's own tables.
        """
        for number, table in enumerate(self.tables, start=1):
            yield sql.Identifier(self.name, f"rows_{number}"), table

    @staticmethod
    def columns(table: Table) -> list[str]:
        """Return the names of a copy's columns."""
        return [*(column.name for column in table.columns), MARK]

    @property
    def rows(self) -> dict[str, WantedRows]:
        """The wanted rows of each table, if all are wanted."""
        return {table.name: WantedRows(table, copy) for copy, table in self}

    @property
    def marked_rows(self) -> dict[str, WantedRows]:
        """The wanted rows of each table, if only the marked ones are wanted."""
        return {
            table.name: WantedRows(
                table, sql.SQL("(SELECT * FROM {} WHERE {}) AS marked").format(copy, _MARK)
            )
            for copy, table in self
            if table.name in self.marked
        }


class _ForeignKey(NamedTuple):
    """A foreign key from `columns` of `child` to `parent_columns` of `parent`.

    Each of the `operators`, one a column, is a pair of schema and name.
    """

    child: str
    parent: str
    columns: list[str]
    parent_columns: list[str]
    operators: list[tuple[str, str]]


def _mark_parents(
    connection: Connection, copies: Mapping[str, tuple[sql.Identifier, Table]], key: _ForeignKey
) -> bool:
    """Mark the rows to which marked rows refer by this key; return whether any were new."""
    child, parent = copies[key.child], copies[key.parent]
    # One copy may store as text what the other stores in its type: compare both as text.
    own = {c.name for _, table in (child, parent) for c in table.columns if c.own_type}
    as_text = bool(own.intersection([*key.columns, *key.parent_columns]))
    conditions = sql.SQL(" AND ").join(
        sql.SQL("parent.{}{cast} OPERATOR({}.{}) child.{}{cast}").format(
            sql.Identifier(parent_column),
            sql.Identifier("pg_catalog" if as_text else operator_schema),
            sql.SQL("=" if as_text else operator),
            sql.Identifier(column),
            cast=sql.SQL("::pg_catalog.text" if as_text else ""),
        )
        for column, parent_column, (operator_schema, operator) in zip(
            key.columns, key.parent_columns, key.operators, strict=True
        )
    )
    statement = sql.SQL(
        "UPDATE {parent} AS parent SET {mark} = true FROM {child} AS child"
        " WHERE child.{mark} AND NOT parent.{mark} AND {conditions}"
    ).format(parent=parent[0], child=child[0], mark=_MARK, conditions=conditions)
    return connection.execute(statement).rowcount > 0


def _has_marked_rows(connection: Connection, copy: sql.Identifier) -> bool:
    statement = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(copy, _MARK)
    row = connection.execute(statement).fetchone()
    return bool(row and row[0])
