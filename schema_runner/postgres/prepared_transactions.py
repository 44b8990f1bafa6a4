"""Prepared transactions, which hold locks without a session that could be ended."""

from collections.abc import Iterable

from psycopg import sql

from .server import Connection

# The prepared transactions in this database that the current role may roll back.
_OWN = """
    SELECT gid FROM pg_catalog.pg_prepared_xacts p
    WHERE database = pg_catalog.current_database()
      AND (owner = current_user OR pg_catalog.current_setting('is_superuser')::bool)
"""
# The locks of a prepared transaction: pg_locks lists them without a process ID, and with the
# virtual transaction that holds the lock on the prepared transaction's ID.
_LOCKS = """
    FROM pg_catalog.pg_locks l
    LEFT JOIN pg_catalog.pg_class c ON c.oid = relation
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE l.pid IS NULL
      AND l.virtualtransaction = (SELECT x.virtualtransaction FROM pg_catalog.pg_locks x
                                  WHERE x.pid IS NULL AND x.transactionid = p.transaction)
"""
# With locks in this schema only, apart from reading system catalogs.
_IN_SCHEMA_ALONE = f"""
    AND (SELECT pg_catalog.bool_or(nspname = %(schema)s) AND pg_catalog.bool_and(
                locktype = 'transactionid' OR locktype = 'relation' AND (
                nspname IN (%(schema)s, 'pg_toast')
                OR nspname = 'pg_catalog' AND mode = 'AccessShareLock') IS TRUE) {_LOCKS})
"""
_WITH_LOCKS = f"""
    SELECT pg_catalog.format('transaction %%L, which %%s prepared at %%s: ROLLBACK PREPARED %%L',
                             gid, owner, pg_catalog.date_trunc('second', prepared), gid)
    FROM pg_catalog.pg_prepared_xacts p
    WHERE database = pg_catalog.current_database()
      AND EXISTS (SELECT {_LOCKS} AND nspname = %(schema)s)
    ORDER BY prepared
"""  # noqa: S608 - constants


def of_schema(connection: Connection, schema: str) -> list[str]:
    """List prepared transactions with locks in this schema only that this role may roll back."""
    rows = connection.execute(_OWN + _IN_SCHEMA_ALONE, {"schema": schema})
    return [gid for (gid,) in rows]


def with_locks_in(connection: Connection, schema: str) -> list[str]:
    """Describe the prepared transactions of all roles that hold locks in a schema."""
    return [text for (text,) in connection.execute(_WITH_LOCKS, {"schema": schema})]


def roll_back(connection: Connection, gids: Iterable[str]) -> None:
    for gid in gids:
        connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def roll_back_all(connection: Connection) -> None:
    """Roll back all prepared transactions of a database that the current role may roll back."""
    roll_back(connection, [gid for (gid,) in connection.execute(_OWN).fetchall()])
