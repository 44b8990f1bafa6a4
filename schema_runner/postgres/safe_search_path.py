"""The search_path of our own connections: nothing on it that another role could write to.

Whoever may create in a schema of a search_path decides what SQL means: PostgreSQL prefers an
operator or a function that fits the types of its arguments exactly, wherever it is on the path.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from .server import Connection

# `pg_temp` is named last, or temporary tables would be found first.
_SAFE = sql.SQL("SET {}search_path = pg_catalog, pg_temp")


def set_safe_search_path(connection: "Connection", *, local: bool = False) -> None:
    """Have a connection find PostgreSQL's own things alone; `local` to the transaction."""
    connection.execute(_SAFE.format(_scope(local=local)))


@contextmanager
def users_search_path(
    connection: "Connection", schema: str, path: Sequence[str]
) -> Iterator[None]:
    """Use the search_path of users of a schema, for what runs their code or shows their names.

    SQL of ours in the body of the `with` names operators in full, unless PostgreSQL has one for
    exactly these types.
    """
    local = connection.info.transaction_status is TransactionStatus.INTRANS
    listed = sql.SQL(", ").join(map(sql.Identifier, (schema, *path)))
    connection.execute(sql.SQL("SET {}search_path = {}").format(_scope(local=local), listed))
    try:
        yield
    finally:
        # A transaction that failed takes its own setting back.
        if connection.info.transaction_status is not TransactionStatus.INERROR:
            set_safe_search_path(connection, local=local)


def default_search_path(connection: "Connection") -> list[str]:
    """List the schemas that are on the path of a role and database by default."""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path TO DEFAULT")
        row = connection.execute("SELECT pg_catalog.current_schemas(false)").fetchone()
    assert row is not None
    return list(row[0])


def _scope(*, local: bool) -> sql.SQL:
    return sql.SQL("LOCAL " if local else "")
