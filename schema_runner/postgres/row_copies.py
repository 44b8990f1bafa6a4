"""Copies of the rows of tables, in a template or a scratch schema."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from psycopg import sql

from . import safe_search_path
from .rows import Table
from .server import Connection

# The column of a copy that marks the rows to keep with RESET = "selective".
MARK = "schema_runner_kept"
_MARK = sql.Identifier(MARK)
_WRITTEN_SINCE = sql.SQL(
    "pg_catalog.age(xmin) OPERATOR(pg_catalog.<=) pg_catalog.age({}::pg_catalog.xid)"
)
_FIRST_MARKED = sql.SQL("SELECT 1 FROM {} WHERE {} LIMIT 1")
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


class Copies(NamedTuple):
    """Copies of the rows of `tables`, in tables `rows_1`, `rows_2`, … of a schema.

    They are numbered because a table may have the name of one of the template's own tables.
    """

    schema: str
    tables: Sequence[Table]
    # The names of the tables that have marked rows.
    marked: Sequence[str] = ()

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
        mark: sql.Composable = sql.SQL("false")
        if since is not None:
            mark = _WRITTEN_SINCE.format(sql.Literal(str(since % 2**32)))
        with safe_search_path.users_search_path(connection, source_schema, path):
            for name, (table, copy) in self.rows.items():
                stored = [
                    sql.SQL("{} AS {}").format(column.stored, column.identifier)
                    for column in table.columns
                ]
                connection.execute(
                    sql.SQL("CREATE TABLE {} AS SELECT {} FROM ONLY {}").format(
                        copy,
                        sql.SQL(", ").join([*stored, sql.SQL("{} AS {}").format(mark, _MARK)]),
                        sql.Identifier(source_schema, name),
                    )
                )
            return self if since is None else self._with_marks(connection, source_schema)

    def _with_marks(self, connection: Connection, source_schema: str) -> Self:
        """Mark the rows that marked rows refer to; return the copies with the marked tables."""
        values = {"schema": source_schema, "tables": list(self.rows)}
        keys = [_ForeignKey(*key) for key in connection.execute(_FOREIGN_KEYS, values)]
        statements = [key.mark_parents(self.rows) for key in keys]
        is_spreading = True
        while is_spreading:
            counts = [connection.execute(statement).rowcount for statement in statements]
            is_spreading = any(counts)
        marked = [
            name
            for name, (_, copy) in self.rows.items()
            if connection.execute(_FIRST_MARKED.format(copy, _MARK)).fetchone()
        ]
        return self._replace(marked=marked)

    @property
    def rows(self) -> dict[str, WantedRows]:
        """The wanted rows of each table, if all are wanted."""
        return {
            table.name: WantedRows(table, sql.Identifier(self.schema, f"rows_{number}"))
            for number, table in enumerate(self.tables, start=1)
        }

    @property
    def marked_rows(self) -> dict[str, WantedRows]:
        """The wanted rows of each table, if only the marked ones are wanted."""
        marked = sql.SQL("(SELECT * FROM {} WHERE {}) AS marked")
        return {
            name: WantedRows(table, marked.format(copy, _MARK))
            for name, (table, copy) in self.rows.items()
            if name in self.marked
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

    def mark_parents(self, rows: Mapping[str, WantedRows]) -> sql.Composed:
        """Return a statement that marks the rows to which marked rows refer by this key.

        Copies have no generated columns. Without them, it marks the rows of all their values.
        """
        parent, child = rows[self.parent].table, rows[self.child].table
        conditions = sql.SQL("").join(
            sql.SQL(" AND ({}) OPERATOR({}.{}) ({})").format(
                key.restored("parent"),
                sql.Identifier(schema),
                sql.SQL(operator),
                value.restored("child"),
            )
            for column, parent_column, (schema, operator) in zip(
                self.columns, self.parent_columns, self.operators, strict=True
            )
            if (key := parent.column(parent_column)) and (value := child.column(column))
        )
        return sql.SQL(
            "UPDATE {parent} AS parent SET {mark} = true FROM {child} AS child"
            " WHERE child.{mark} AND NOT parent.{mark}{conditions}"
        ).format(
            parent=rows[self.parent].source,
            child=rows[self.child].source,
            mark=_MARK,
            conditions=conditions,
        )
