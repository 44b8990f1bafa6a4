"""Disable triggers, rules and row security of tables temporarily."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from psycopg import sql

from ..server import Connection
from .changes import list_hidden_tables

# What to disable. Partitions have their own triggers. The internal triggers of foreign keys stay
# enabled.
_ACTIVE = """
    WITH tables AS MATERIALIZED (
        SELECT oid, relname, relhasrules, relhastriggers, relrowsecurity
        FROM pg_catalog.pg_class
        WHERE relnamespace = pg_catalog.to_regnamespace(%s) AND relname = ANY(%s)
    )
    SELECT relname, 'TRIGGER ' || quote_ident(tgname), tgenabled
    FROM tables JOIN pg_catalog.pg_trigger ON tgrelid = tables.oid
    WHERE relhastriggers AND NOT tgisinternal AND tgenabled <> 'D'
    UNION ALL
    SELECT relname, 'RULE ' || quote_ident(rulename), ev_enabled
    FROM tables JOIN pg_catalog.pg_rewrite ON ev_class = tables.oid
    WHERE relhasrules AND ev_type <> '1' AND ev_enabled <> 'D'
    UNION ALL
    SELECT relname, 'ROW LEVEL SECURITY', 'O'
    FROM tables WHERE relrowsecurity AND pg_catalog.row_security_active(oid)
"""
_ENABLE = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


@contextmanager
def triggers_disabled(
    connection: Connection, schema: str, tables: Collection[str]
) -> Iterator[None]:
    """Disable triggers, rules and row security of tables in the `with` block.

    The caller must be in a transaction.
    """
    active = connection.execute(_ACTIVE, [schema, list(tables)]).fetchall()
    for table, target, _ in active:
        _alter(connection, schema, table, f"DISABLE {target}")
    yield
    if active:
        # PostgreSQL refuses ALTER TABLE while deferred checks are pending.
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for table, target, enabled in active:
        _alter(connection, schema, table, f"{_ENABLE[enabled]} {target}")


@contextmanager
def row_security_disabled(connection: Connection, schema: str) -> Iterator[None]:
    """Disable row security that hides rows of a schema from this role, in the `with` block."""
    tables = list_hidden_tables(connection, schema)
    if not tables:
        yield
        return
    with connection.transaction(), triggers_disabled(connection, schema, tables):
        yield


def _alter(connection: Connection, schema: str, table: str, action: str) -> None:
    alter = sql.SQL("ALTER TABLE ONLY {} {}")
    connection.execute(alter.format(sql.Identifier(schema, table), sql.SQL(action)))
