"""Lock timeouts for statements in worker schemas, and who holds the locks."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import errors, sql

from ..errors import SchemaRunnerError
from . import prepared_transactions, sessions
from .server import Connection

# How long our statements wait for another transaction.
_LOCK_TIMEOUT = "2s"


class SchemaInUseError(SchemaRunnerError):
    """A session that this run may not end holds locks in a worker's schema."""


def set_lock_timeout(connection: Connection) -> None:
    """Make the transaction under way raise LockNotAvailable rather than wait for long."""
    _set_timeout(connection, "SET LOCAL", _LOCK_TIMEOUT)


def set_session_lock_timeout(connection: Connection) -> None:
    """Make all statements of a connection do so from now on."""
    _set_timeout(connection, "SET", _LOCK_TIMEOUT)


@contextmanager
def lock_timeout(connection: Connection, schema: str, what: str) -> Iterator[None]:
    """Limit the waiting of the body of the `with`, which is in no transaction.

    Raises SchemaInUseError, which says that the schema cannot be `what`, and who is in the way.
    """
    set_session_lock_timeout(connection)
    try:
        with lock_timeout_explained(connection, schema, what):
            yield
    finally:
        if not connection.closed:
            _set_timeout(connection, "SET", "0")


@contextmanager
def lock_timeout_explained(connection: Connection, schema: str, what: str) -> Iterator[None]:
    """Say whose locks are in the way where the body of the `with` has waited too long."""
    try:
        yield
    except errors.LockNotAvailable as error:
        raise schema_in_use_error(connection, schema, what) from error


def schema_in_use_error(connection: Connection, schema: str, what: str) -> SchemaInUseError:
    """Return the error for a schema that cannot be `what`: reset, say."""
    found = sessions.lock_holders(connection, schema)
    found += prepared_transactions.with_locks_in(connection, schema)
    # It may have ended just now.
    holders = "\n".join(found) or "It has ended by now."
    return SchemaInUseError(
        f"Schema {schema} cannot be {what}, because another session holds locks in it that this "
        f"run may not end. End its transaction:\n{holders}"
    )


def _set_timeout(connection: Connection, how: str, limit: str) -> None:
    connection.execute(sql.SQL(how + " lock_timeout = {}").format(limit))
