"""The tables that have pages: only one without is empty for certain."""

from collections.abc import Collection
from typing import NamedTuple

from .references import References
from .server import Connection

# A table keeps its size when its rows are deleted, or their insertion is rolled back. With
# OFFSET 0 the size is asked for once, and pg_depend only about the few tables that are found.
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
    WHERE (size > 0 OR relname = ANY(%(others)s))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid
                        AND deptype = 'e' OFFSET 0)
"""
_ONLY = "AND relname = ANY(%(only)s)"
_HIDDEN = """
    SELECT relname FROM pg_catalog.pg_class
    WHERE relkind = 'r' AND relrowsecurity AND pg_catalog.row_security_active(oid)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""


class Scope(NamedTuple):
    """The tables that a reset is about: those with these names, or all.

    Their partitions are too, and what inherits from them, as with TRUNCATE. Where it `cascades`,
    so is what refers to them, as with TRUNCATE … CASCADE.
    """

    names: frozenset[str] | None = None
    cascades: bool = False


class NonEmptyTables(NamedTuple):
    """A table that has pages; it `is_hidden` where row security hides rows from us."""

    name: str
    pages: int
    is_hidden: bool
    parents: list[str]


def occupied(
    connection: Connection, schema: str, scope: Scope, others: Collection[str] = ()
) -> tuple[dict[str, NonEmptyTables], set[str]]:
    """Return the tables with pages that a scope is about, by name, and the names of the rest.

    Those called as in `others` are looked for whether or not they have pages.
    """
    only, values = "", {"schema": schema, "others": list(others)}
    names = scope.names
    if names is not None and scope.cascades:
        names = frozenset(References.read(connection, schema).emptied_with(names))
        only = _ONLY
        values["only"] = list(names)
    tables = [NonEmptyTables(*row) for row in connection.execute(_LOOK.format(only=only), values)]
    found = {
        one.name: one
        for one in tables
        if names is None or not names.isdisjoint([one.name, *one.parents])
    }
    return found, {one.name for one in tables} - found.keys()


def hidden(connection: Connection, schema: str) -> list[str]:
    """Return the tables in which row security hides rows from us."""
    return [name for (name,) in connection.execute(_HIDDEN, [schema])]
