"""The reset: a schema is brought to a state that is known, at the cost of what changed."""

import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import errors, sql

from ...errors import SchemaRunnerError
from .. import lock_waits, rows, safe_search_path
from ..row_copies import WantedRows
from ..server import Connection
from ..template import Template
from .changes import (
    NonEmptyTable,
    RowVersions,
    Scope,
    list_hidden_tables,
    non_empty_tables,
    row_versions,
    select_with_rows,
)
from .rewrite import Rewrite
from .vacuum import Vacuum

# Tables are looked into in groups that stay the same, so that the server plans each group once:
# for a table that takes a tenth of a millisecond, and looking a hundredth.
_GROUPS = 12


@dataclass(slots=True)
class Reset:
    """Resets one schema, again and again, and knows by stamps what it left the last time.

    On the search_path, `path` follows it.
    """

    schema: str
    path: Sequence[str]
    # The tables that have been looked into for rows.
    _seen: set[str] = field(default_factory=set)
    _prepared: Connection | None = None
    # With what a table, or a view, had the rows of when it was stamped.
    _stamps: dict[str, tuple[WantedRows | None, RowVersions]] = field(default_factory=dict)
    _vacuum: Vacuum = field(init=False)

    def __post_init__(self) -> None:
        self._vacuum = Vacuum(self.schema)

    def clear(self, connection: Connection, scope: Scope, kept: Mapping[str, WantedRows]) -> None:
        """Leave the rows of `kept`, and no others, in the tables that `scope` is about.

        Raises SchemaRunnerError where somebody else's locks, or rows of tables that it is not
        about, are in the way.
        """
        self.prepare_connection(connection)
        with lock_waits.lock_holders_named(connection, self.schema, "reset"):
            self._clear(connection, scope, kept)

    def _clear(self, connection: Connection, scope: Scope, kept: Mapping[str, WantedRows]) -> None:
        found, others = non_empty_tables(connection, self.schema, scope, kept)
        if changed := self._changed(connection, found, kept):
            try:
                restored = Rewrite(
                    connection=connection,
                    schema=self.schema,
                    path=self.path,
                    found=found,
                    others=others,
                    kept=kept,
                    changed=changed,
                ).run()
            except errors.ForeignKeyViolation as error:
                raise SchemaRunnerError(
                    f"Schema {self.schema} cannot be reset: {error.diag.message_primary}. "
                    f"{error.diag.message_detail or ''} Add the apps of both tables to the test's "
                    f"available_apps, or delete those rows in the test."
                ) from error
            self.record(connection, {name: kept[name] for name in restored})
        self._vacuum.run_if_needed(connection, found.values())

    def restore(
        self, connection: Connection, template: Template, *, sequences_exactly: bool = True
    ) -> None:
        """Bring everything to what the template has: tables, sequences and materialized views.

        Whether those sequences are looked at that have given out nothing, `restore_sequences`
        has to know. Raises SchemaRunnerError, as `clear` does.
        """
        contents = template.contents
        self.clear(connection, Scope(), template.copies.rows)
        with lock_waits.lock_holders_named(connection, self.schema, "reset"):
            rows.restore_sequences(
                connection, self.schema, contents.sequences, exactly=sequences_exactly
            )
            self._restore_views(connection, contents.views)

    def _restore_views(self, connection: Connection, populated: Sequence[str]) -> None:
        query = (
            "SELECT relname, relispopulated FROM pg_catalog.pg_class WHERE relkind = 'm'"
            " AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)"
        )
        found: dict[str, bool] = dict(connection.execute(query, [self.schema]).fetchall())
        known = row_versions(
            connection, self.schema, [name for name in populated if found.get(name)]
        )
        changed = [name for name in populated if self._is_other(name, None, known.get(name))]
        statements = [("", name) for name in changed if name in found]
        statements += [
            (" WITH NO DATA", name)
            for name, is_populated in found.items()
            if is_populated and name not in populated
        ]
        if statements:
            with safe_search_path.users_search_path(connection, self.schema, self.path):
                for how, name in statements:
                    connection.execute(
                        sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(
                            sql.Identifier(self.schema, name), sql.SQL(how)
                        )
                    )
        self.record(connection, dict.fromkeys(changed))

    def _is_other(self, name: str, kept: WantedRows | None, stamp: RowVersions | None) -> bool:
        return self._stamps.get(name) != (kept, stamp)

    def record(self, connection: Connection, kept: Mapping[str, WantedRows | None]) -> None:
        """Note that these tables have just those rows now."""
        # Of what is hidden nothing can be known: it counts as changed each time.
        seen = kept.keys() - set(list_hidden_tables(connection, self.schema))
        for name, stamp in row_versions(connection, self.schema, seen).items():
            self._stamps[name] = kept[name], stamp

    def list_tables(self, connection: Connection, scope: Scope) -> tuple[set[str], set[str]]:
        """Return which tables with pages the scope is about, and which others have pages."""
        found, others = non_empty_tables(connection, self.schema, scope)
        return set(found), others

    def forget(self) -> None:
        """Know nothing any more, as of a schema that has just been made."""
        self._stamps.clear()
        self._vacuum = Vacuum(self.schema)
        self._seen.clear()

    def prepare_connection(self, connection: Connection) -> None:
        """Set on a connection what resets need."""
        if self._prepared is not connection:
            lock_waits.set_session_lock_timeout(connection)
            # Rather an error than rows that are not seen. Nobody needs these rows after a crash.
            connection.execute("SET row_security = off; SET synchronous_commit = off")
            self._prepared = connection

    def _changed(
        self,
        connection: Connection,
        found: Mapping[str, NonEmptyTable],
        kept: Mapping[str, WantedRows],
    ) -> set[str]:
        """Return the tables that have other rows than they are to have, or might have."""
        hidden = {one.name for one in found.values() if one.is_hidden}
        changed = hidden | {name for name in kept if name in found and not found[name].pages}
        known = [name for name in found.keys() & kept.keys() if name not in changed]
        known_stamps = row_versions(connection, self.schema, known)
        changed |= {name for name in known if self._is_other(name, kept[name], known_stamps[name])}
        return changed | self._filled(connection, found.keys() - kept.keys() - changed)

    def _filled(self, connection: Connection, tables: Collection[str]) -> set[str]:
        """Return those of the tables that have rows."""
        self._seen.update(tables)
        groups = defaultdict[int, set[str]](set)
        for name in self._seen:
            groups[zlib.crc32(name.encode()) % _GROUPS].add(name)
        filled: set[str] = set()
        try:
            for group in groups.values():
                if not group.isdisjoint(tables):
                    filled |= select_with_rows(connection, self.schema, group)
        except (errors.UndefinedTable, errors.InsufficientPrivilege):
            # One has been dropped, or hides its rows by now.
            self._seen = set(tables)
            return select_with_rows(connection, self.schema, tables)
        return filled & set(tables)
