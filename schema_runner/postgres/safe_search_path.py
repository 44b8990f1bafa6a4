"""The search_path of the runner's connections, without schemas that other roles can write to.

A role that may create objects in a schema of the search_path can change what SQL means, because
PostgreSQL prefers operators and functions whose argument types match exactly, wherever they are
on the path.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from .server import Connection

# With `pg_temp` last: if it is not listed, temporary tables come first.
_SAFE_PATH = sql.SQL("pg_catalog, pg_temp")
_SET = sql.SQL("SET {} search_path = {}")


@contextmanager
def users_search_path(
    connection: "Connection", schema: str, path: Sequence[str]
) -> Iterator[None]:
    """Use a worker's search_path, for SQL that runs the project's code or shows its names.

    The caller's SQL must qualify operators, unless PostgreSQL has one for exactly these types.
    """
    is_transaction = connection.info.transaction_status is TransactionStatus.INTRANS
    scope = sql.SQL("LOCAL" if is_transaction else "SESSION")
    listed = sql.SQL(", ").join(map(sql.Identifier, (schema, *path)))
    connection.execute(_SET.format(scope, listed))
    try:
        yield
    finally:
        # A failed transaction restores the setting itself.
        if connection.info.transaction_status is not TransactionStatus.INERROR:
            connection.execute(_SET.format(scope, _SAFE_PATH))


def default_search_path(connection: "Connection") -> list[str]:
    """List the schemas on the default search_path of the current role and database."""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path TO DEFAULT")
        ((path,),) = connection.execute("SELECT pg_catalog.current_schemas(false)").fetchall()
    return list(path)
