"""Tables whose triggers, rules and row security are out of the way for a while."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from psycopg import sql

from ..server import Connection
from .changes import list_hidden_tables

# A partition has triggers of its own. Those of foreign keys are the server's, and stay.
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
# Mostly there is nothing, which this finds out in a third of the time.
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
    """Have nothing but what the body of the `with` says happen to these tables.

    It is within a transaction. Where there is nothing to be silenced, nothing is changed.
    """
    alterations = list(_alterations(connection, schema, tables))
    for silence, _ in alterations:
        connection.execute(silence)
    yield
    if alterations:
        # What is left to be checked at the end of the transaction would forbid the following.
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for _, restore in alterations:
        connection.execute(restore)


@contextmanager
def row_security_disabled(connection: Connection, schema: str) -> Iterator[None]:
    """Have row security hide nothing in a schema from what the body of the `with` does."""
    tables = list_hidden_tables(connection, schema)
    if not tables:
        yield
        return
    with connection.transaction(), triggers_disabled(connection, schema, tables):
        yield


def _alterations(
    connection: Connection, schema: str, tables: Collection[str]
) -> Iterator[tuple[sql.Composed, sql.Composed]]:
    """Yield what silences something, and what undoes that."""
    values = {"schema": schema, "tables": list(tables)}
    if not connection.execute(_HAS_ANY, values).fetchall():
        return
    for kind, query in (("TRIGGER", _TRIGGERS), ("RULE", _RULES)):
        for table, name, enabled in connection.execute(query, values).fetchall():
            what = sql.SQL("{} {}").format(sql.SQL(kind), sql.Identifier(name))
            yield (
                _alter(schema, table, "DISABLE", what),
                _alter(schema, table, _ENABLE[enabled], what),
            )
    for (table,) in connection.execute(_ROW_SECURITY, values).fetchall():
        security = sql.SQL("ROW LEVEL SECURITY")
        disable, enable = (_alter(schema, table, how, security) for how in ("DISABLE", "ENABLE"))
        yield disable, enable


def _alter(schema: str, table: str, action: str, what: sql.Composable) -> sql.Composed:
    return sql.SQL("ALTER TABLE ONLY {} {} {}").format(
        sql.Identifier(schema, table), sql.SQL(action), what
    )
