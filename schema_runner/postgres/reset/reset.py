"""Reset a schema to a known state."""

import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import errors, sql

from ...errors import SchemaRunnerError
from .. import lock_waits, safe_search_path, sequences
from ..row_copies import WantedRows
from ..server import Connection
from ..template import Template
from .changes import (
    RowVersions,
    Scope,
    TableWithPages,
    list_hidden_tables,
    row_versions,
    select_with_rows,
    tables_with_pages,
)
from .rewrite import Rewrite
from .vacuum import Vacuum

# The number of groups in which tables are checked for rows. The groups stay the same, so that
# PostgreSQL plans each query once. Measured: planning takes 0.1 ms a table, and the check 0.01 ms.
_GROUPS = 12


@dataclass(slots=True)
class Reset:
    """Resets one schema repeatedly, and remembers the row versions that each reset leaves."""

    schema: str
    # What follows the schema on the search_path of tests.
    path: Sequence[str]
    # The tables that have been checked for rows.
    _checked: set[str] = field(default_factory=set)
    _prepared: Connection | None = None
    # For each table or materialized view, its row versions when it had these wanted rows.
    _known: dict[str, tuple[WantedRows | None, RowVersions]] = field(default_factory=dict)
    _vacuum: Vacuum = field(init=False)

    def __post_init__(self) -> None:
        self._vacuum = Vacuum(self.schema)

    def clear(
        self, connection: Connection, scope: Scope, wanted: Mapping[str, WantedRows]
    ) -> None:
        """Leave only the rows of `wanted` in the tables that `scope` covers.

        Raises LockNotAvailable if locks of other sessions prevent it, and SchemaRunnerError if
        rows in tables outside the scope do.
        """
        self.prepare_connection(connection)
        tables, others = tables_with_pages(connection, self.schema, scope, wanted)
        if changed := self._changed(connection, tables, wanted):
            try:
                restored = Rewrite(
                    connection=connection,
                    schema=self.schema,
                    path=self.path,
                    tables=tables,
                    others=others,
                    wanted=wanted,
                    changed=changed,
                ).run()
            except errors.ForeignKeyViolation as error:
                raise SchemaRunnerError(
                    f"Schema {self.schema} cannot be reset: {error.diag.message_primary}. "
                    f"{error.diag.message_detail or ''} Add the apps of both tables to the test's "
                    f"available_apps, or delete those rows in the test."
                ) from error
            self.record(connection, {name: wanted[name] for name in restored})
        self._vacuum.run_if_needed(connection, tables.values())

    def restore(
        self, connection: Connection, template: Template, *, sequences_exactly: bool = True
    ) -> None:
        """Restore all tables, sequences and materialized views from the template.

        `sequences_exactly` is for `restore_sequences`. Raises LockNotAvailable, as `clear` does.
        """
        contents = template.contents
        self.clear(connection, Scope(), template.copies.rows)
        sequences.restore_sequences(
            connection, self.schema, contents.sequences, exactly=sequences_exactly
        )
        self._restore_views(connection, contents.views)

    def _restore_views(self, connection: Connection, populated: Sequence[str]) -> None:
        query = (
            "SELECT relname, relispopulated FROM pg_catalog.pg_class WHERE relkind = 'm'"
            " AND relnamespace = pg_catalog.to_regnamespace(%s)"
        )
        views: dict[str, bool] = dict(connection.execute(query, [self.schema]).fetchall())
        known = row_versions(
            connection, self.schema, [name for name in populated if views.get(name)]
        )
        changed = [
            name
            for name in populated
            # A test may have dropped it.
            if name in views and self._has_changed(name, None, known.get(name))
        ]
        statements = [("", name) for name in changed]
        statements += [
            (" WITH NO DATA", name)
            for name, is_populated in views.items()
            if is_populated and name not in populated
        ]
        if statements:
            with safe_search_path.users_search_path(connection, self.schema, self.path):
                for option, name in statements:
                    connection.execute(
                        sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(
                            sql.Identifier(self.schema, name), sql.SQL(option)
                        )
                    )
        self.record(connection, dict.fromkeys(changed))

    def _has_changed(
        self, name: str, wanted: WantedRows | None, versions: RowVersions | None
    ) -> bool:
        return self._known.get(name) != (wanted, versions)

    def record(self, connection: Connection, wanted: Mapping[str, WantedRows | None]) -> None:
        """Record that these tables now have exactly these rows."""
        # Tables with hidden rows always count as changed.
        visible = wanted.keys() - set(list_hidden_tables(connection, self.schema))
        for name, versions in row_versions(connection, self.schema, visible).items():
            self._known[name] = wanted[name], versions

    def list_tables(self, connection: Connection, scope: Scope) -> tuple[set[str], set[str]]:
        """Return the tables with pages that the scope covers, and the other tables with pages."""
        tables, others = tables_with_pages(connection, self.schema, scope)
        return set(tables), others

    def forget(self) -> None:
        """Forget all row versions, because the schema has been created anew."""
        self._known.clear()
        self._vacuum = Vacuum(self.schema)
        self._checked.clear()

    def prepare_connection(self, connection: Connection) -> None:
        """Set the session parameters that resets need."""
        if self._prepared is not connection:
            lock_waits.set_session_lock_timeout(connection)
            # Raise an error if row security would hide rows. Rows need not survive a crash.
            connection.execute("SET row_security = off; SET synchronous_commit = off")
            self._prepared = connection

    def _changed(
        self,
        connection: Connection,
        tables: Mapping[str, TableWithPages],
        wanted: Mapping[str, WantedRows],
    ) -> set[str]:
        """Return the tables whose rows differ, or may differ, from the wanted ones."""
        hidden = {table.name for table in tables.values() if table.is_hidden}
        changed = hidden | {name for name in wanted if name in tables and not tables[name].pages}
        known = [name for name in tables.keys() & wanted.keys() if name not in changed]
        versions = row_versions(connection, self.schema, known)
        changed |= {
            name for name in known if self._has_changed(name, wanted[name], versions[name])
        }
        return changed | self._filled(connection, tables.keys() - wanted.keys() - changed)

    def _filled(self, connection: Connection, tables: Collection[str]) -> set[str]:
        """Return the tables that have rows."""
        self._checked.update(tables)
        groups = defaultdict[int, set[str]](set)
        for name in self._checked:
            groups[zlib.crc32(name.encode()) % _GROUPS].add(name)
        filled: set[str] = set()
        try:
            for group in groups.values():
                if not group.isdisjoint(tables):
                    filled |= select_with_rows(connection, self.schema, group)
        except (errors.UndefinedTable, errors.InsufficientPrivilege):
            # A table has been dropped, or hides its rows now.
            self._checked = set(tables)
            return select_with_rows(connection, self.schema, tables)
        return filled & set(tables)
