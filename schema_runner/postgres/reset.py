"""The reset: a schema is brought to a state that is known, at the cost of what changed."""

import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from psycopg import errors, sql

from ..errors import SchemaRunnerError
from . import backends, rows, schemas
from .copies import Kept
from .references import References
from .server import Connection
from .silence import silenced
from .stamps import Stamp, stamps, with_rows
from .template import Template, set_path

# With OFFSET 0 the size is asked for once, and pg_depend only about the few tables that are found.
# A table keeps its size when its rows are deleted, or their insertion is rolled back: only one
# without pages is empty for certain.
_LOOK = """
    WITH RECURSIVE parts AS (
        SELECT inhrelid AS part, inhparent AS parent FROM pg_catalog.pg_inherits
        UNION
        SELECT part, inhparent FROM parts JOIN pg_catalog.pg_inherits ON inhrelid = parent
    )
    SELECT relname, size / current_setting('block_size')::int,
           relrowsecurity AND pg_catalog.row_security_active(c.oid),
           ARRAY(SELECT p.relname::text FROM parts JOIN pg_catalog.pg_class p ON p.oid = parent
                 WHERE part = c.oid)
    FROM (SELECT oid, relname, relrowsecurity, pg_catalog.pg_relation_size(oid) AS size
          FROM pg_catalog.pg_class
          WHERE relkind = 'r'
            AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
            {only}
          OFFSET 0) c
    WHERE (size > 0 OR relname = ANY(%(kept)s))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid
                        AND deptype = 'e' OFFSET 0)
"""
_PAGES = """
    SELECT relname, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int
    FROM pg_catalog.pg_class c
    WHERE relname = ANY(%s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
_MISSING = """
    (SELECT * FROM {source} WHERE NOT EXISTS (
        SELECT FROM (SELECT {row} AS row FROM ONLY {table}) present WHERE present.row = {copied}
    )) AS missing
"""
_NOT_KEPT = """
     WHERE NOT EXISTS (
        SELECT FROM (SELECT {copied} AS row FROM {source}) known WHERE known.row = {row})
"""
_ONLY = "AND relname = ANY(%(only)s)"
_KEYED = """
    SELECT relname FROM pg_catalog.pg_index JOIN pg_catalog.pg_class c ON c.oid = indrelid
    WHERE indisprimary AND relname = ANY(%s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
# Measured: a table costs TRUNCATE as much as these pages of rows cost DELETE, with the indexes
# and foreign keys that models have.
_PAGES_PER_TABLE = 64
# Tables are looked into in groups that stay the same, so that the server plans each group once:
# for a table that takes a tenth of a millisecond, and looking a hundredth.
_GROUPS = 12
# Dead rows are looked through each time. So many pages of them are worth a VACUUM, which takes
# milliseconds a table; where tables have a few pages, only if they are many.
_DEAD_PAGES = 64
_FEW_PAGES = 4
_MANY_TABLES = 120


@dataclass(frozen=True, slots=True)
class Scope:
    """The tables that a reset is about: those with these names, or all.

    Their partitions are too, and what inherits from them, as with TRUNCATE. Where it `cascades`,
    so is what refers to them, as with TRUNCATE … CASCADE.
    """

    names: frozenset[str] | None = None
    cascades: bool = False


class _Found(NamedTuple):
    """A table as it is found: it `is_hidden` where row security hides rows from us."""

    name: str
    pages: int
    is_hidden: bool
    parents: list[str]


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
    _stamps: dict[str, tuple[Kept | None, Stamp]] = field(default_factory=dict)
    # How many pages tables had after VACUUM: rows that others might still see stay.
    _vacuumed: dict[str, int] = field(default_factory=dict)

    def clear(self, connection: Connection, scope: Scope, kept: Mapping[str, Kept]) -> None:
        """Leave the rows of `kept`, and no others, in the tables that `scope` is about.

        Raises SchemaRunnerError where somebody else's locks, or rows of tables that it is not
        about, are in the way.
        """
        self.prepare(connection)
        found, others = self._look(connection, scope, kept)
        changed = self._changed(connection, found, kept)
        if changed:
            try:
                restored = _Rewriting(
                    connection=connection,
                    schema=self.schema,
                    found=found,
                    others=others,
                    kept=kept,
                    changed=set(changed),
                    emptied=changed - kept.keys(),
                ).run()
            except errors.LockNotAvailable as error:
                holders = "\n".join(backends.with_locks_in(connection, self.schema))
                raise SchemaRunnerError(
                    f"Schema {self.schema} cannot be reset, because somebody has locks in it that "
                    f"this run may not end. Have them end their transaction:\n{holders}"
                ) from error
            except errors.ForeignKeyViolation as error:
                raise SchemaRunnerError(
                    f"Schema {self.schema} cannot be reset: {error.diag.message_primary}. "
                    f"{error.diag.message_detail or ''} Add the apps of both tables to the test's "
                    f"available_apps, or delete those rows in the test."
                ) from error
            seen = {name for name in restored if not found[name].is_hidden}
            self.remember(connection, {name: kept[name] for name in seen})
        self._vacuum(connection, found)

    def restore(
        self, connection: Connection, template: Template, *, sequences_exactly: bool = True
    ) -> None:
        """Bring everything to what the template has: tables, sequences and materialized views.

        Whether those sequences are looked at that have given out nothing, `restore_sequences`
        has to know. Raises SchemaRunnerError, as `clear` does.
        """
        contents = template.contents
        self.clear(connection, Scope(), template.copies.rows)
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
        known = stamps(connection, self.schema, [name for name in populated if found.get(name)])
        changed = [name for name in populated if self._is_other(name, None, known.get(name))]
        statements = [("", name) for name in changed if name in found]
        statements += [
            (" WITH NO DATA", name)
            for name, is_populated in found.items()
            if is_populated and name not in populated
        ]
        for how, name in statements:
            connection.execute(
                sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(
                    sql.Identifier(self.schema, name), sql.SQL(how)
                )
            )
        self.remember(connection, dict.fromkeys(changed))

    def _is_other(self, name: str, kept: Kept | None, stamp: Stamp | None) -> bool:
        return self._stamps.get(name) != (kept, stamp)

    def remember(self, connection: Connection, kept: Mapping[str, Kept | None]) -> None:
        """Note that these tables have just those rows now."""
        for name, stamp in stamps(connection, self.schema, kept).items():
            self._stamps[name] = kept[name], stamp

    def tables(self, connection: Connection, scope: Scope) -> tuple[set[str], set[str]]:
        """Return which tables with pages the scope is about, and which others have pages."""
        found, others = self._look(connection, scope, {})
        return set(found), others

    def forget(self) -> None:
        """Know nothing any more, as of a schema that has just been made."""
        self._stamps.clear()
        self._vacuumed.clear()
        self._seen.clear()

    def prepare(self, connection: Connection) -> None:
        """Have a connection find, and be allowed, what resets need."""
        if self._prepared is not connection:
            set_path(connection, self.schema, self.path)
            # Rather an error than rows that are not seen. Nobody needs these rows after a crash.
            connection.execute("SET row_security = off; SET synchronous_commit = off")
            self._prepared = connection

    def _look(
        self, connection: Connection, scope: Scope, kept: Mapping[str, Kept]
    ) -> tuple[dict[str, _Found], set[str]]:
        """Return the tables that the scope is about and that have pages, or are to have rows.

        Return with them the names of others that have pages.
        """
        only, values = "", {"schema": self.schema, "kept": list(kept)}
        names = scope.names
        if names is not None and scope.cascades:
            names = frozenset(References.read(connection, self.schema).emptied_with(names))
            only = _ONLY
            values["only"] = list(names)
        tables = [_Found(*row) for row in connection.execute(_LOOK.format(only=only), values)]
        found = {
            one.name: one
            for one in tables
            if names is None or not names.isdisjoint([one.name, *one.parents])
        }
        return found, {one.name for one in tables} - found.keys()

    def _changed(
        self, connection: Connection, found: Mapping[str, _Found], kept: Mapping[str, Kept]
    ) -> set[str]:
        """Return the tables that have other rows than they are to have, or might have."""
        hidden = {one.name for one in found.values() if one.is_hidden}
        changed = hidden | {name for name in kept if name in found and not found[name].pages}
        known = [name for name in found.keys() & kept.keys() if name not in changed]
        known_stamps = stamps(connection, self.schema, known)
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
                    filled |= with_rows(connection, self.schema, group)
        except (errors.UndefinedTable, errors.InsufficientPrivilege):
            # One has been dropped, or hides its rows by now.
            self._seen = set(tables)
            return with_rows(connection, self.schema, tables)
        return filled & set(tables)

    def _vacuum(self, connection: Connection, found: Mapping[str, _Found]) -> None:
        grown = {
            one.name: one.pages
            for one in found.values()
            if one.pages > 2 * self._vacuumed.get(one.name, 0)
        }
        if len(grown) < _MANY_TABLES:
            grown = {name: pages for name, pages in grown.items() if pages > _FEW_PAGES}
            if sum(grown.values()) < _DEAD_PAGES:
                return
        listed = sql.SQL(", ").join(sql.Identifier(self.schema, name) for name in grown)
        connection.execute(sql.SQL("VACUUM (SKIP_LOCKED) {}").format(listed))
        for name, pages in connection.execute(_PAGES, [list(grown), self.schema]):
            self._vacuumed[name] = pages


@dataclass(kw_only=True)
class _Rewriting:
    """One reset's changes, in one transaction."""

    connection: Connection
    schema: str
    # What the reset is about, and the names of other tables that have pages.
    found: Mapping[str, _Found]
    others: Collection[str]
    kept: Mapping[str, Kept]
    changed: set[str]
    # Those of them whose rows all go, even if the same come back.
    emptied: set[str]

    @cached_property
    def _references(self) -> References:
        return References.read(self.connection, self.schema)

    def run(self) -> set[str]:
        """Do all that is to be done; return the tables to which rows have come back."""
        with self.connection.transaction():
            schemas.limit_waiting(self.connection)
            self.connection.execute("SET CONSTRAINTS ALL DEFERRED")
            self._widen()
            truncated = self._truncate()
            touched = self.changed - (truncated - self.kept.keys())
            with silenced(self.connection, self.schema, touched):
                self._delete(self.changed - truncated)
                restored = self.changed & self.kept.keys()
                self._insert(restored)
        return restored

    def _widen(self) -> None:
        """Empty what refers to rows that are kept so strictly that no other way is left."""
        if kept := self.changed & self.kept.keys():
            self.emptied |= kept - self._keyed(kept)
            strict = self._references.removed_with(kept) & self.kept.keys() & self.found.keys()
            self.changed |= strict
            self.emptied |= strict

    def _keyed(self, tables: Iterable[str]) -> set[str]:
        """Return those in which no row can be there twice."""
        rows = self.connection.execute(_KEYED, [list(tables), self.schema])
        return {name for (name,) in rows}

    def _truncate(self) -> set[str]:
        """Truncate large tables with what refers to them; return all that is empty now."""
        truncated: set[str] = set()
        for name in self.changed & self.emptied:
            if self.found[name].pages >= _PAGES_PER_TABLE:
                along = self._references.emptied_with([name])
                fits = self.found[name].pages >= _PAGES_PER_TABLE * len(along - truncated)
                if fits and along.isdisjoint(self.others):
                    truncated |= along
        if truncated:
            listed = sql.SQL(", ").join(self._name(name) for name in sorted(truncated))
            self.connection.execute(sql.SQL("TRUNCATE {}").format(listed))
            self.changed |= truncated & self.kept.keys()
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
        return sql.SQL(_NOT_KEPT).format(
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

    def _execute_all(self, parts: Collection[sql.Composed]) -> None:
        if parts:
            listed = sql.SQL(", ").join(parts)
            self.connection.execute(sql.SQL("WITH {} SELECT").format(listed))

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.schema, table)
