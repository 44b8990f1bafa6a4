"""Disable triggers, rules and row security of tables temporarily."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from psycopg import sql

from ..server import Connection
from .changes import list_hidden_tables

# Partitions have their own triggers. The internal triggers of foreign keys stay enabled.
_TRIGGERS = """
    SELECT relname, tgname, tgenabled
    FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class c ON c.oid = tgrelid
    WHERE NOT tgisinternal AND tgenabled <> 'D' AND relname = ANY(%(tables)s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
"""
_RULES = """
    SELECT relname, rulename, ev_enabled
    FROM pg_catalog.pg_rewrite JOIN pg_catalog.pg_class c ON c.oid = ev_class
    WHERE ev_type <> '1' AND ev_enabled <> 'D' AND relname = ANY(%(tables)s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
"""
_ROW_SECURITY = """
    SELECT relname
    FROM pg_catalog.pg_class c
    WHERE pg_catalog.row_security_active(c.oid) AND relname = ANY(%(tables)s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
"""
# Most tables have none, which this query detects in a third of the time.
_HAS_ANY = """
    SELECT FROM pg_catalog.pg_class c
    WHERE relname = ANY(%(tables)s)
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
      AND (relhasrules OR relrowsecurity
           OR relhastriggers AND EXISTS (SELECT FROM pg_catalog.pg_trigger
                                         WHERE tgrelid = c.oid AND NOT tgisinternal OFFSET 0))
"""
_ENABLE = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


@contextmanager
def triggers_disabled(
    connection: Connection, schema: str, tables: Collection[str]
) -> Iterator[None]:
    """Disable triggers, rules and row security of tables in the `with` block.

    The caller must be in a transaction.
    """
    alterations = list(_alterations(connection, schema, tables))
    for disable, _ in alterations:
        connection.execute(disable)
    yield
    if alterations:
        # PostgreSQL refuses ALTER TABLE while deferred checks are pending.
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for _, enable in alterations:
        connection.execute(enable)


@contextmanager
def row_security_disabled(connection: Connection, schema: str) -> Iterator[None]:
    """Disable row security that hides rows of a schema from this role, in the `with` block."""
    tables = list_hidden_tables(connection, schema)
    if not tables:
        yield
        return
    with connection.transaction(), triggers_disabled(connection, schema, tables):
        yield


def _alterations(
    connection: Connection, schema: str, tables: Collection[str]
) -> Iterator[tuple[sql.Composed, sql.Composed]]:
    """Yield pairs of statements: one disables something, and one enables it again."""
    values = {"schema": schema, "tables": list(tables)}
    if not connection.execute(_HAS_ANY, values).fetchall():
        return
    for kind, query in (("TRIGGER", _TRIGGERS), ("RULE", _RULES)):
        for table, name, enabled in connection.execute(query, values).fetchall():
            target = sql.SQL("{} {}").format(sql.SQL(kind), sql.Identifier(name))
            yield (
                _alter(schema, table, "DISABLE", target),
                _alter(schema, table, _ENABLE[enabled], target),
            )
    for (table,) in connection.execute(_ROW_SECURITY, values).fetchall():
        security = sql.SQL("ROW LEVEL SECURITY")
        disable, enable = (
            _alter(schema, table, action, security) for action in ("DISABLE", "ENABLE")
        )
        yield disable, enable


def _alter(schema: str, table: str, action: str, target: sql.Composable) -> sql.Composed:
    return sql.SQL("ALTER TABLE ONLY {} {} {}").format(
        sql.Identifier(schema, table), sql.SQL(action), target
    )
