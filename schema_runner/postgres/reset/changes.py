"""Which tables have rows, other rows than before, or references to such tables."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, Self

from psycopg import errors, sql

from ..server import Connection

# Each version of a row is at another place, and one that is written there later is another
# transaction's: https://www.postgresql.org/docs/current/ddl-system-columns.html. The newest
# transaction alone would not do: an older one can commit later.
_ROW_VERSIONS = """
    SELECT {name}, {table}::regclass::oid, pg_catalog.count(*),
           pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::text::int8))
    FROM ONLY {table_itself}
"""
_HAS_ROWS = "SELECT {name} WHERE EXISTS (SELECT FROM ONLY {table_itself})"


class RowVersions(NamedTuple):
    """Which versions of rows are in a table: their number, and a hash of all."""

    oid: int
    number: int
    versions: int | None


def row_versions(
    connection: Connection, schema: str, tables: Collection[str]
) -> dict[str, RowVersions]:
    """Map the names of tables, or of materialized views, to their stamps."""
    if not tables:
        return {}
    rows = connection.execute(_union(_ROW_VERSIONS, schema, tables))
    return {name: RowVersions(*stamp) for name, *stamp in rows}


def select_with_rows(connection: Connection, schema: str, tables: Collection[str]) -> set[str]:
    """Return those of the tables that have rows."""
    if not tables:
        return set()
    found = connection.execute(_union(_HAS_ROWS, schema, tables), prepare=True)
    return {name for (name,) in found}


def tables_written_since(
    connection: Connection, schema: str, tables: Collection[str], transaction: int
) -> bool:
    """Whether one of the tables has rows that this transaction, or a later one, has written.

    So it is where that cannot be seen.
    """
    try:
        return has_rows_since(connection, schema, tables, transaction)
    except errors.InsufficientPrivilege:
        return True


def has_rows_since(
    connection: Connection, schema: str, tables: Collection[str], transaction: int
) -> bool:
    """Do as `written_since`, but raise InsufficientPrivilege where it cannot be seen."""
    if not tables:
        return False
    query = f"{_HAS_ROWS[:-1]} WHERE pg_catalog.age(xmin) <= pg_catalog.age({{xid}}))"
    xid = sql.SQL("{}::pg_catalog.xid").format(sql.Literal(str(transaction % 2**32)))
    return bool(connection.execute(_union(query, schema, tables, xid=xid)).fetchall())


def current_transaction(cursor: Any) -> int:
    """Return the number of a transaction; what is written once it is over has a later one.

    `cursor` is any cursor on psycopg.
    """
    cursor.execute("SELECT pg_catalog.pg_current_xact_id()::text")
    (number,) = cursor.fetchone()
    return int(number)


def _union(
    query: str, schema: str, tables: Collection[str], **more: sql.Composable
) -> sql.Composed:
    # In one order, so that psycopg finds the statement among those it has prepared.
    return sql.SQL(" UNION ALL ").join(
        sql.SQL(query).format(
            name=sql.Literal(table),
            table=sql.Literal(sql.Identifier(schema, table).as_string()),
            table_itself=sql.Identifier(schema, table),
            **more,
        )
        for table in sorted(tables)
    )


# A table keeps its size when its rows are deleted, or their insertion is rolled back. With
# OFFSET 0 the size is asked for once, and pg_depend only about the few tables that are found.
_NON_EMPTY = """
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


class NonEmptyTable(NamedTuple):
    """A table that has pages; it `is_hidden` where row security hides rows from us."""

    name: str
    pages: int
    is_hidden: bool
    parents: list[str]


def non_empty_tables(
    connection: Connection, schema: str, scope: Scope, others: Collection[str] = ()
) -> tuple[dict[str, NonEmptyTable], set[str]]:
    """Return the tables with pages that a scope is about, by name, and the names of the rest.

    Those called as in `others` are looked for whether or not they have pages.
    """
    only, values = "", {"schema": schema, "others": list(others)}
    names = scope.names
    if names is not None and scope.cascades:
        names = frozenset(References.read(connection, schema).truncated_with(names))
        only = _ONLY
        values["only"] = list(names)
    tables = [
        NonEmptyTable(*row) for row in connection.execute(_NON_EMPTY.format(only=only), values)
    ]
    found = {
        one.name: one
        for one in tables
        if names is None or not names.isdisjoint([one.name, *one.parents])
    }
    return found, {one.name for one in tables} - found.keys()


def list_hidden_tables(connection: Connection, schema: str) -> list[str]:
    """Return the tables in which row security hides rows from us."""
    return [name for (name,) in connection.execute(_HIDDEN, [schema])]


# Those of partitions have rows of their own. What a foreign key does to the rows that refer to a
# deleted one, if anything, is done at once even where its check is deferred.
_FOREIGN_KEYS = """
    SELECT parent.relname, child.relname, NOT condeferrable OR confdeltype <> 'a'
    FROM pg_catalog.pg_constraint
    JOIN pg_catalog.pg_class child ON child.oid = conrelid
    JOIN pg_catalog.pg_class parent ON parent.oid = confrelid
    WHERE contype = 'f'
      AND connamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
_PARTS = """
    SELECT parent.relname, child.relname
    FROM pg_catalog.pg_inherits
    JOIN pg_catalog.pg_class child ON child.oid = inhrelid AND child.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_class parent ON parent.oid = inhparent
    WHERE parent.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""


class References(NamedTuple):
    """The foreign keys and the inheritance of a schema's tables, by name.

    `referring` maps a table to those that refer to it, `strictly` does so for the foreign keys
    that cannot wait for the end of a transaction, and `parts` maps it to its partitions and to
    those that inherit from it.
    """

    referring: Mapping[str, set[str]]
    strictly: Mapping[str, set[str]]
    parts: Mapping[str, set[str]]

    @classmethod
    def read(cls, connection: Connection, schema: str) -> Self:
        referring, strictly, parts = (defaultdict[str, set[str]](set) for _ in range(3))
        for parent, child, is_strict in connection.execute(_FOREIGN_KEYS, [schema]):
            referring[parent].add(child)
            if is_strict:
                strictly[parent].add(child)
        for parent, child in connection.execute(_PARTS, [schema]):
            parts[parent].add(child)
        return cls(referring, strictly, parts)

    def truncated_with(self, tables: Iterable[str]) -> set[str]:
        """Return what TRUNCATE … CASCADE of these tables empties."""
        return _closure(tables, self.referring, self.parts)

    def affected_by_delete(self, tables: Iterable[str]) -> set[str]:
        """Return those whose rows can be in the way of a DELETE of these, or be changed by it."""
        found = _closure(tables, self.strictly)
        return {child for table in found for child in self.strictly.get(table, ())}


def _closure(tables: Iterable[str], *relations: Mapping[str, Collection[str]]) -> set[str]:
    found, waiting = set[str](), list(tables)
    while waiting:
        table = waiting.pop()
        if table not in found:
            found.add(table)
            for relation in relations:
                waiting.extend(relation.get(table, ()))
    return found
