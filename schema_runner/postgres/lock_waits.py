"""Lock timeouts for statements on worker schemas, with errors that name the lock holders."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import errors

from ..errors import SchemaRunnerError
from . import prepared_transactions, sessions
from .server import Connection

# How long a statement of the runner waits for a lock.
_LIMIT = "lock_timeout = '2s'"


class SchemaInUseError(SchemaRunnerError):
    """A session that the run may not end holds locks in a worker schema."""


def set_lock_timeout(connection: Connection) -> None:
    """Limit waiting for locks in the current transaction, which then raises LockNotAvailable."""
    connection.execute(f"SET LOCAL {_LIMIT}")


def set_session_lock_timeout(connection: Connection) -> None:
    """Limit waiting for locks in all further statements of a connection."""
    connection.execute(f"SET {_LIMIT}")


@contextmanager
def lock_timeout(connection: Connection, schema: str, what: str) -> Iterator[None]:
    """Limit the caller's waiting for locks; the caller is in no transaction.

    `what`: the participle for the error, as in "cannot be reset".

    Raises SchemaInUseError, which names the lock holders, if a lock cannot be taken.
    """
    set_session_lock_timeout(connection)
    try:
        with lock_timeout_explained(connection, schema, what):
            yield
    finally:
        if not connection.closed:
            connection.execute("SET lock_timeout = 0")


@contextmanager
def lock_timeout_explained(connection: Connection, schema: str, what: str) -> Iterator[None]:
    """Turn LockNotAvailable into SchemaInUseError, which names the lock holders."""
    try:
        yield
    except errors.LockNotAvailable as error:
        raise schema_in_use_error(connection, schema, what) from error


def schema_in_use_error(connection: Connection, schema: str, what: str) -> SchemaInUseError:
    """Return the error for a schema that cannot be `what` ("reset", for example)."""
    found = sessions.lock_holders(connection, schema)
    found += prepared_transactions.with_locks_in(connection, schema)
    holders = "\n".join(found) or "It has ended in the meantime."
    return SchemaInUseError(
        f"Schema {schema} cannot be {what}: another session, which this run may not end, holds "
        f"locks in it. End its transaction:\n{holders}"
    )
