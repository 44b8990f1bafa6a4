"""Changing the rows of tables to what they are to be."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from psycopg import sql

from .. import lock_waits, safe_search_path
from ..row_copies import WantedRows
from ..server import Connection
from .changes import NonEmptyTable, References
from .triggers import triggers_disabled

_MISSING = """
    (SELECT * FROM {source} WHERE NOT EXISTS (
        SELECT FROM (SELECT {row} AS row FROM ONLY {table}) present
        WHERE present.row OPERATOR(pg_catalog.=) {copied}
    )) AS missing
"""
_NOT_WANTED = """
     WHERE NOT EXISTS (
        SELECT FROM (SELECT {copied} AS row FROM {source}) known
        WHERE known.row OPERATOR(pg_catalog.=) {row})
"""
_WITH_PRIMARY_KEY = """
    SELECT relname FROM pg_catalog.pg_index JOIN pg_catalog.pg_class c ON c.oid = indrelid
    WHERE indisprimary AND relname = ANY(%s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
# A table costs TRUNCATE about as much as these pages of rows cost DELETE, with the indexes and
# foreign keys that models have.
_PAGES_PER_TABLE = 64


@dataclass(kw_only=True)
class Rewrite:
    """What one reset changes, in one transaction."""

    connection: Connection
    schema: str
    # What follows the schema on the search_path of those who use it.
    path: Sequence[str]
    # What the reset is about, and the names of other tables that have pages.
    found: Mapping[str, NonEmptyTable]
    others: Collection[str]
    kept: Mapping[str, WantedRows]
    # Those with other rows than they are to have.
    changed: set[str]
    # Those of them whose rows all go, even if the same come back.
    emptied: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.emptied = self.changed - self.kept.keys()

    @cached_property
    def _references(self) -> References:
        return References.read(self.connection, self.schema)

    def run(self) -> set[str]:
        """Do all that is to be done; return the tables to which rows have come back."""
        with self.connection.transaction():
            lock_waits.set_lock_timeout(self.connection)
            self.connection.execute("SET CONSTRAINTS ALL DEFERRED")
            self._widen()
            truncated = self._truncate()
            touched = self.changed - (truncated - self.kept.keys())
            with triggers_disabled(self.connection, self.schema, touched):
                restored = self.changed & self.kept.keys()
                with self._path_of_users():
                    self._delete(self.changed - truncated)
                    self._insert(restored)
        return restored

    def _widen(self) -> None:
        """Empty what refers to rows that are kept so strictly that no other way is left."""
        if kept := self.changed & self.kept.keys():
            self.emptied |= kept - self._keyed(kept)
            strict = (
                self._references.affected_by_delete(kept) & self.kept.keys() & self.found.keys()
            )
            self.changed |= strict
            self.emptied |= strict

    def _keyed(self, tables: Iterable[str]) -> set[str]:
        """Return those in which no row can be there twice."""
        rows = self.connection.execute(_WITH_PRIMARY_KEY, [list(tables), self.schema])
        return {name for (name,) in rows}

    def _truncate(self) -> set[str]:
        """Truncate large tables with what refers to them; return all that is empty now."""
        truncated: set[str] = set()
        for name in self.changed & self.emptied:
            if self.found[name].pages >= _PAGES_PER_TABLE:
                along = self._references.truncated_with([name])
                fits = self.found[name].pages >= _PAGES_PER_TABLE * len(along - truncated)
                if fits and along.isdisjoint(self.others):
                    truncated |= along
        if truncated:
            listed = sql.SQL(", ").join(self._name(name) for name in sorted(truncated))
            with self._path_of_users():
                self.connection.execute(sql.SQL("TRUNCATE {}").format(listed))
            self.changed |= truncated & self.kept.keys() & self.found.keys()
            self.emptied |= truncated
        return truncated

    def _delete(self, tables: Collection[str]) -> None:
        # In one statement, whose foreign keys are looked at as it ends: whatever order there is.
        deletions = [
            sql.SQL("{} AS (DELETE FROM ONLY {}{})").format(
                sql.Identifier(f"deletion_{number}"), self._name(table), self._which(table)
            )
            for number, table in enumerate(sorted(tables))
        ]
        self._execute_all(deletions)

    def _which(self, table: str) -> sql.Composable:
        if table in self.emptied:
            return sql.SQL("")
        kept = self.kept[table]
        return sql.SQL(_NOT_WANTED).format(
            copied=kept.table.row_of_copy(), source=kept.source, row=kept.table.row()
        )

    def _insert(self, tables: Collection[str]) -> None:
        insertions = []
        for number, name in enumerate(sorted(tables)):
            table, source = self.kept[name]
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

    def _path_of_users(self) -> AbstractContextManager[None]:
        # For functions of theirs, in generated columns, constraints and triggers of TRUNCATE, and
        # for names that stand in rows.
        return safe_search_path.users_search_path(self.connection, self.schema, self.path)

    def _execute_all(self, parts: Collection[sql.Composed]) -> None:
        if parts:
            listed = sql.SQL(", ").join(parts)
            self.connection.execute(sql.SQL("WITH {} SELECT").format(listed))

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.schema, table)
