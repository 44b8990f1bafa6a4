"""Restore the search_path of connections if tests have changed it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from django.test import SimpleTestCase, TransactionTestCase
from psycopg.pq import ConnStatus, ExecStatus, PGconn, TransactionStatus

from .forks import ForkAware
from .search_path import Locations

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class _OpenConnections(ForkAware):
    """Weak references to the connections that threads of this process have opened."""

    def __init__(self) -> None:
        super().__init__()
        self._references: set[ReferenceType[BaseDatabaseWrapper]] = set()

    def add(self, connection: "BaseDatabaseWrapper") -> None:
        self._references.add(ref(connection, self._references.discard))

    def connections(self) -> "list[BaseDatabaseWrapper]":
        # Not a WeakSet: iterating over one fails if a thread adds to it. `list(set)` is atomic.
        references = list(self._references)
        return [target for reference in references if (target := reference()) is not None]

    def after_fork(self, *, is_child: bool) -> None:
        if is_child:
            # The sockets belong to the parent.
            self._references.clear()


_open_connections = _OpenConnections()
# What has run last; migrations may change a search_path too.
_last_class = ["The set-up"]
_SHOW = b"SELECT pg_catalog.current_setting('search_path')"
# Unlike SET, this does not normalize the value.
_SET = b"SELECT pg_catalog.set_config('search_path', $1, false)"


def watch_connection(connection: "BaseDatabaseWrapper") -> None:
    """Add a newly opened connection to those that `restore_search_path` checks."""
    _open_connections.add(connection)


def set_search_path(connection: Any, path: str) -> None:
    """Set the search_path of a psycopg connection, without opening a transaction."""
    _execute(connection, _SET, path)


def restore_after_tests(undo: ExitStack) -> None:
    """Restore the search_path after each test, before Django's tear-down, until the stack closes.

    Django 5.2 to 6.1 calls `_post_teardown` after each test.
    """
    for owner in (SimpleTestCase, TransactionTestCase):
        tear_down: Any = owner._post_teardown  # type: ignore[attr-defined]
        undo.callback(setattr, owner, "_post_teardown", tear_down)
        owner._post_teardown = _restoring(owner, tear_down)  # type: ignore[attr-defined]


def _restoring(owner: type, tear_down: Callable[[Any], None]) -> Callable[[Any], None]:
    def _post_teardown(test: Any) -> None:
        __tracebackhide__ = True
        # TransactionTestCase's method calls SimpleTestCase's, so restore in one of them only.
        if test.databases and (owner is TransactionTestCase) is isinstance(
            test, TransactionTestCase
        ):
            restore_search_path(test.id())
        tear_down(test)

    return _post_teardown


def restore_before_class(test_class: str) -> None:
    """Restore the search_path before a class is set up, if code outside of tests changed it."""
    restore_search_path(_last_class[0])
    _last_class[0] = test_class


def restore_search_path(by: str) -> None:
    """Restore the search_path on the connections of all threads.

    Skip connections in an atomic block: its rollback will restore the search_path. `by` names
    the test or class that may have changed it.
    """
    for connection in _open_connections.connections():
        if connection.vendor == "postgresql" and not connection.in_atomic_block:
            locations = Locations.of(connection.settings_dict)
            path = locations.search_path if locations else None
            if path is not None and _restore(connection.connection, path):
                creation: Any = connection.creation
                creation.log_restored_search_path(by)


def execute_on_idle(statement: bytes) -> None:
    """Execute a statement on each connection of this process that is idle."""
    for connection in _open_connections.connections():
        if connection.vendor == "postgresql" and Locations.of(connection.settings_dict):
            _execute(connection.connection, statement)


def open_backend_pids() -> list[int]:
    """Return the backend PIDs of the open connections of this process."""
    opened = (
        _get_pgconn(connection.connection)
        for connection in _open_connections.connections()
        if connection.vendor == "postgresql"
    )
    return [pgconn.backend_pid for pgconn in opened if pgconn is not None]


def _get_pgconn(connection: Any) -> Any:
    """Return the PGconn of a psycopg connection; None if it is closed.

    Tests may have replaced the psycopg connection with another object.
    """
    pgconn = getattr(connection, "pgconn", None)
    return pgconn if isinstance(pgconn, PGconn) and pgconn.status == ConnStatus.OK else None


def _restore(connection: Any, path: str) -> bool:
    """Set the search_path if it differs; return whether it did."""
    current = _execute(connection, _SHOW)
    if current is None or current == path:
        return False
    set_search_path(connection, path)
    return True


def _execute(connection: Any, statement: bytes, *parameters: str) -> str | None:
    """Execute a statement on a psycopg connection; return the value in its first row.

    Return None if there is no row, or the connection is in use (for instance by a thread that
    waits for notifications) or in a transaction. Use libpq's connection directly, which neither
    opens a transaction nor prepares the statement, and which tests do not patch or count.
    """
    pgconn = _get_pgconn(connection)
    if pgconn is None or not connection.lock.acquire(blocking=False):
        return None
    try:
        if pgconn.transaction_status != TransactionStatus.IDLE:
            return None
        result = pgconn.exec_params(statement, [value.encode() for value in parameters])
    finally:
        connection.lock.release()
    if result.status != ExecStatus.TUPLES_OK:
        return None
    value = result.get_value(0, 0)
    return value.decode() if value is not None else None
