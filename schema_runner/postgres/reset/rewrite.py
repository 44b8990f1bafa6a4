"""Delete and insert rows until tables have the wanted ones."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from psycopg import sql

from .. import safe_search_path
from ..row_copies import WantedRows
from ..server import Connection
from .changes import References, TableWithPages
from .triggers import triggers_disabled

# `schema_runner_row` would hide a column of the outer table that has the same name.
_MISSING = """
    (SELECT * FROM {source} WHERE NOT EXISTS (
        SELECT FROM (SELECT {row} AS schema_runner_row FROM ONLY {table}) AS present
        WHERE schema_runner_row OPERATOR(pg_catalog.=) {copied}
    )) AS missing
"""
_NOT_WANTED = """
     WHERE NOT EXISTS (
        SELECT FROM (SELECT {copied} AS schema_runner_row FROM {source}) AS known
        WHERE schema_runner_row OPERATOR(pg_catalog.=) {row})
"""
_WITH_PRIMARY_KEY = """
    SELECT relname FROM pg_catalog.pg_index JOIN pg_catalog.pg_class c ON c.oid = indrelid
    WHERE indisprimary AND relname = ANY(%s)
      AND relnamespace = pg_catalog.to_regnamespace(%s)
"""
# Measured with tables of Django models, their indexes and foreign keys: TRUNCATE of a table costs
# about as much as DELETE of this many pages of rows.
_PAGES_PER_TABLE = 64


@dataclass(kw_only=True)
class Rewrite:
    """The changes of one reset, in one transaction."""

    connection: Connection
    schema: str
    # What follows the schema on the search_path of tests.
    path: Sequence[str]
    # The tables that the reset covers, and the names of other tables with pages.
    tables: Mapping[str, TableWithPages]
    others: Collection[str]
    wanted: Mapping[str, WantedRows]
    # The tables whose rows differ from the wanted ones.
    changed: set[str]
    # Those of them to empty first, even if the same rows are inserted again.
    emptied: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.emptied = self.changed - self.wanted.keys()

    @cached_property
    def _references(self) -> References:
        return References.read(self.connection, self.schema)

    def run(self) -> set[str]:
        """Make the changes; return the tables that have their wanted rows again."""
        with self.connection.transaction():
            self.connection.execute("SET CONSTRAINTS ALL DEFERRED")
            self._widen()
            truncated = self._truncate()
            touched = self.changed - (truncated - self.wanted.keys())
            with triggers_disabled(self.connection, self.schema, touched):
                restored = self.changed & self.wanted.keys()
                with self._users_search_path():
                    self._delete(self.changed - truncated)
                    self._insert(restored)
        return restored

    def _widen(self) -> None:
        """Add the tables that must be emptied as well.

        These have no primary key, so that single rows cannot be compared, or refer to tables with
        wanted rows by foreign keys that act immediately.
        """
        if restored := self.changed & self.wanted.keys():
            self.emptied |= restored - self._with_primary_key(restored)
            strict = (
                self._references.affected_by_delete(restored)
                & self.wanted.keys()
                & self.tables.keys()
            )
            self.changed |= strict
            self.emptied |= strict

    def _with_primary_key(self, tables: Iterable[str]) -> set[str]:
        """Return the tables with a primary key, in which no row can exist twice."""
        rows = self.connection.execute(_WITH_PRIMARY_KEY, [list(tables), self.schema])
        return {name for (name,) in rows}

    def _truncate(self) -> set[str]:
        """Truncate large tables, and those that refer to them; return all truncated tables."""
        truncated: set[str] = set()
        for name in self.changed & self.emptied:
            if self.tables[name].pages >= _PAGES_PER_TABLE:
                tables = self._references.truncated_with([name])
                is_cheaper = self.tables[name].pages >= _PAGES_PER_TABLE * len(tables - truncated)
                if is_cheaper and tables.isdisjoint(self.others):
                    truncated |= tables
        if truncated:
            listed = sql.SQL(", ").join(self._name(name) for name in sorted(truncated))
            with self._users_search_path():
                self.connection.execute(sql.SQL("TRUNCATE {}").format(listed))
            self.changed |= truncated & self.wanted.keys() & self.tables.keys()
            self.emptied |= truncated
        return truncated

    def _delete(self, tables: Collection[str]) -> None:
        # In one statement, so that the order does not matter: foreign keys are checked at its end.
        deletions = [
            sql.SQL("{} AS (DELETE FROM ONLY {}{})").format(
                sql.Identifier(f"deletion_{number}"), self._name(table), self._condition(table)
            )
            for number, table in enumerate(sorted(tables))
        ]
        self._execute_all(deletions)

    def _condition(self, table: str) -> sql.Composable:
        if table in self.emptied:
            return sql.SQL("")
        wanted = self.wanted[table]
        return sql.SQL(_NOT_WANTED).format(
            copied=wanted.table.row_of_copy(), source=wanted.source, row=wanted.table.row()
        )

    def _insert(self, tables: Collection[str]) -> None:
        insertions = []
        for number, name in enumerate(sorted(tables)):
            table, source = self.wanted[name]
            if name not in self.emptied:
                source = sql.SQL(_MISSING).format(
                    source=source,
                    row=table.row(),
                    table=self._name(name),
                    copied=table.row_of_copy(),
                )
            insertions.append(
                sql.SQL("{} AS ({})").format(
                    sql.Identifier(f"insertion_{number}"), table.copy_from(source, self.schema)
                )
            )
        self._execute_all(insertions)

    def _users_search_path(self) -> AbstractContextManager[None]:
        # For functions in generated columns, constraints and TRUNCATE triggers, and for names in
        # rows, such as values of regclass columns.
        return safe_search_path.users_search_path(self.connection, self.schema, self.path)

    def _execute_all(self, parts: Collection[sql.Composed]) -> None:
        if parts:
            listed = sql.SQL(", ").join(parts)
            self.connection.execute(sql.SQL("WITH {} SELECT").format(listed))

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.schema, table)
