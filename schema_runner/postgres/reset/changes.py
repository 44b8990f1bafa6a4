"""Find tables that have rows, that have changed, or that refer to such tables."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, Self

from psycopg import errors, sql

from ..server import Connection

# Each version of a row has its own place (ctid), and a later version in the same place has another
# transaction (xmin): https://www.postgresql.org/docs/current/ddl-system-columns.html. The newest
# transaction alone is not sufficient, because an older one can commit later. DROP COLUMN and ADD
# COLUMN change rows without a new version, but then the columns have other versions.
_ROW_VERSIONS = """
    SELECT {name}, {table}::regclass::oid, pg_catalog.count(*),
           pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::text::int8)),
           (SELECT pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::text::int8))
            FROM pg_catalog.pg_attribute WHERE attrelid = {table}::regclass)
    FROM ONLY {table_itself}
"""
_HAS_ROWS = "SELECT {name} WHERE EXISTS (SELECT FROM ONLY {table_itself})"


class RowVersions(NamedTuple):
    """The number of rows in a table, and hashes of their versions and those of its columns."""

    oid: int
    number: int
    versions: int | None
    columns: int


def row_versions(
    connection: Connection, schema: str, tables: Collection[str]
) -> dict[str, RowVersions]:
    """Map the names of tables or materialized views to their row versions."""
    if not tables:
        return {}
    rows = connection.execute(_union(_ROW_VERSIONS, schema, tables))
    return {name: RowVersions(*values) for name, *values in rows}


def select_with_rows(connection: Connection, schema: str, tables: Collection[str]) -> set[str]:
    """Return the tables that have rows."""
    if not tables:
        return set()
    rows = connection.execute(_union(_HAS_ROWS, schema, tables), prepare=True)
    return {name for (name,) in rows}


def tables_written_since(
    connection: Connection, schema: str, tables: Collection[str], transaction: int
) -> bool:
    """Return whether any table has rows written by this transaction or a later one.

    Also return True if the role may not read a table.
    """
    try:
        return has_rows_since(connection, schema, tables, transaction)
    except errors.InsufficientPrivilege:
        return True


def has_rows_since(
    connection: Connection, schema: str, tables: Collection[str], transaction: int
) -> bool:
    """Like `tables_written_since`, but raise InsufficientPrivilege."""
    if not tables:
        return False
    query = f"{_HAS_ROWS[:-1]} WHERE pg_catalog.age(xmin) <= pg_catalog.age({{xid}}))"
    xid = sql.SQL("{}::pg_catalog.xid").format(sql.Literal(str(transaction % 2**32)))
    return bool(connection.execute(_union(query, schema, tables, xid=xid)).fetchall())


def current_transaction(cursor: Any) -> int:
    """Return the number of the current transaction, assigning one if necessary.

    `cursor` is any psycopg or Django cursor.
    """
    cursor.execute("SELECT pg_catalog.pg_current_xact_id()::text")
    (number,) = cursor.fetchone()
    return int(number)


def _union(
    query: str, schema: str, tables: Collection[str], **more: sql.Composable
) -> sql.Composed:
    # Sorted, so that equal sets give equal statements, which psycopg prepares once.
    return sql.SQL(" UNION ALL ").join(
        sql.SQL(query).format(
            name=sql.Literal(table),
            table=sql.Literal(sql.Identifier(schema, table).as_string()),
            table_itself=sql.Identifier(schema, table),
            **more,
        )
        for table in sorted(tables)
    )


# Tables with pages may have no rows: they keep their size after DELETE and after a rolled-back
# INSERT. OFFSET 0 makes PostgreSQL compute each size once, and query pg_depend for few tables.
_WITH_PAGES = """
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
            AND relnamespace = pg_catalog.to_regnamespace(%(schema)s)
            AND (%(only)s::text[] IS NULL OR relname = ANY(%(only)s))
          OFFSET 0) c
    WHERE (size > 0 OR relname = ANY(%(others)s))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                      WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid
                        AND deptype = 'e' OFFSET 0)
"""
_HIDDEN = """
    SELECT relname FROM pg_catalog.pg_class
    WHERE relkind = 'r' AND relrowsecurity AND pg_catalog.row_security_active(oid)
      AND relnamespace = pg_catalog.to_regnamespace(%s)
"""


class Scope(NamedTuple):
    """The tables that a reset covers."""

    # As with TRUNCATE, these include partitions and inheriting tables. None stands for all tables.
    names: frozenset[str] | None = None
    # Whether to include tables that refer to them, as TRUNCATE … CASCADE does.
    cascades: bool = False


class TableWithPages(NamedTuple):
    """A table that has pages; `is_hidden` if row security hides rows from this role."""

    name: str
    pages: int
    is_hidden: bool
    parents: list[str]


def tables_with_pages(
    connection: Connection, schema: str, scope: Scope, others: Collection[str] = ()
) -> tuple[dict[str, TableWithPages], set[str]]:
    """Return the tables with pages that a scope covers, by name, and the names of the rest.

    Tables named in `others` are included even if they have no pages.
    """
    names, only = scope.names, None
    if names is not None and scope.cascades:
        names = frozenset(References.read(connection, schema).truncated_with(names))
        only = list(names)
    values = {"schema": schema, "others": list(others), "only": only}
    tables = [TableWithPages(*row) for row in connection.execute(_WITH_PAGES, values)]
    covered = {
        table.name: table
        for table in tables
        if names is None or not names.isdisjoint([table.name, *table.parents])
    }
    return covered, {table.name for table in tables} - covered.keys()


def list_hidden_tables(connection: Connection, schema: str) -> list[str]:
    """Return the tables in which row security hides rows from this role."""
    return [name for (name,) in connection.execute(_HIDDEN, [schema])]


# Foreign keys of partitions have their own entries. Actions such as ON DELETE CASCADE are
# immediate, even if the check is deferred.
_FOREIGN_KEYS = """
    SELECT parent.relname, child.relname, NOT condeferrable OR confdeltype <> 'a'
    FROM pg_catalog.pg_constraint
    JOIN pg_catalog.pg_class child ON child.oid = conrelid
    JOIN pg_catalog.pg_class parent ON parent.oid = confrelid
    WHERE contype = 'f'
      AND connamespace = pg_catalog.to_regnamespace(%s)
"""
_PARTS = """
    SELECT parent.relname, child.relname
    FROM pg_catalog.pg_inherits
    JOIN pg_catalog.pg_class child ON child.oid = inhrelid AND child.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_class parent ON parent.oid = inhparent
    WHERE parent.relnamespace = pg_catalog.to_regnamespace(%s)
"""


class References(NamedTuple):
    """The foreign keys and the inheritance between the tables of a schema."""

    # The tables that refer to each table.
    referring: Mapping[str, set[str]]
    # Those of them whose foreign keys act before the end of the transaction.
    strictly: Mapping[str, set[str]]
    # The partitions of each table, and the tables that inherit from it.
    parts: Mapping[str, set[str]]

    @classmethod
    def read(cls, connection: Connection, schema: str) -> Self:
        """Read the references between the tables of a schema."""
        referring, strictly, parts = (defaultdict[str, set[str]](set) for _ in range(3))
        for parent, child, is_strict in connection.execute(_FOREIGN_KEYS, [schema]):
            referring[parent].add(child)
            if is_strict:
                strictly[parent].add(child)
        for parent, child in connection.execute(_PARTS, [schema]):
            parts[parent].add(child)
        return cls(referring, strictly, parts)

    def truncated_with(self, tables: Iterable[str]) -> set[str]:
        """Return the tables that TRUNCATE … CASCADE of these would truncate."""
        return _closure(tables, self.referring, self.parts)

    def affected_by_delete(self, tables: Iterable[str]) -> set[str]:
        """Return the tables whose rows can prevent a DELETE from these, or be changed by it."""
        reached = _closure(tables, self.strictly)
        return {child for table in reached for child in self.strictly.get(table, ())}


def _closure(tables: Iterable[str], *relations: Mapping[str, Collection[str]]) -> set[str]:
    reached, pending = set[str](), list(tables)
    while pending:
        table = pending.pop()
        if table not in reached:
            reached.add(table)
            for relation in relations:
                pending.extend(relation.get(table, ()))
    return reached
