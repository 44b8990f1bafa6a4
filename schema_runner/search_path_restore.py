"""The search_path of connections that tests have used: looked at, and set back."""

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


class _Opened(ForkAware):
    """The connections that threads of this process have opened, as long as they are referenced."""

    def __init__(self) -> None:
        super().__init__()
        self._references: set[ReferenceType[BaseDatabaseWrapper]] = set()

    def add(self, connection: "BaseDatabaseWrapper") -> None:
        self._references.add(ref(connection, self._references.discard))

    def connections(self) -> "list[BaseDatabaseWrapper]":
        # A WeakSet would fail where a thread adds to it meanwhile; `list` of a set is one step.
        return [found for one in list(self._references) if (found := one()) is not None]

    def after_fork(self, *, is_child: bool) -> None:
        if is_child:
            # Their sockets are the parent's.
            self._references.clear()


_opened = _Opened()
# What has been run last: a migration can leave something on a connection, too.
_last = ["The set-up"]
_SHOW = b"SELECT pg_catalog.current_setting('search_path')"
# Unlike SET, this keeps the value as it is written.
_SET = b"SELECT pg_catalog.set_config('search_path', $1, false)"


def watch_connection(connection: "BaseDatabaseWrapper") -> None:
    """Add a connection that has just been opened to those that `set_back` checks."""
    _opened.add(connection)


def set_path(connection: Any, path: str) -> None:
    """Set the search_path of one of psycopg's connections, whatever transaction comes of it."""
    _execute(connection, _SET, path)


def restore_after_tests(undo: ExitStack) -> None:
    """Call `set_back` after each test, before Django ends it, until the stack is closed.

    Django calls `_post_teardown` after each test, in all versions from 5.2 to 6.1.
    """
    for owner in (SimpleTestCase, TransactionTestCase):
        tear_down: Any = owner._post_teardown  # type: ignore[attr-defined]
        undo.callback(setattr, owner, "_post_teardown", tear_down)
        owner._post_teardown = _restoring(owner, tear_down)  # type: ignore[attr-defined]


def _restoring(owner: type, tear_down: Callable[[Any], None]) -> Callable[[Any], None]:
    def _post_teardown(test: Any) -> None:
        __tracebackhide__ = True
        # One method calls the other.
        if test.databases and (owner is TransactionTestCase) is isinstance(
            test, TransactionTestCase
        ):
            restore_search_path(test.id())
        tear_down(test)

    return _post_teardown


def restore_before_class(test_class: str) -> None:
    """Call `set_back` before a class is set up, for what is run outside of tests."""
    restore_search_path(_last[0])
    _last[0] = test_class


def restore_search_path(by: str) -> None:
    """Point the connections of all threads at their schemas again, but for those in transactions.

    A transaction of Django's is going to be rolled back, and the search_path with it. `by` names
    the tests that may have set another one.
    """
    for connection in _opened.connections():
        if connection.vendor == "postgresql" and not connection.in_atomic_block:
            locations = Locations.of(connection.settings_dict)
            path = locations.search_path if locations else None
            if path is not None and _restore(connection.connection, path):
                creation: Any = connection.creation
                creation.log_restored_search_path(by)


def execute_on_idle(statement: bytes) -> None:
    """Execute a statement on each connection of this process that is not in use."""
    for connection in _opened.connections():
        if connection.vendor == "postgresql" and Locations.of(connection.settings_dict):
            _execute(connection.connection, statement)


def backends_in_use() -> list[int]:
    """Return the numbers of the server processes of the connections that are open."""
    opened = [_open(one.connection) for one in _opened.connections() if one.vendor == "postgresql"]
    return [one.backend_pid for one in opened if one is not None]


def _open(connection: Any) -> Any:
    """Return libpq's part of one of psycopg's connections, unless that is closed.

    Tests put something else into Django's connections, too.
    """
    found = getattr(connection, "pgconn", None)
    return found if isinstance(found, PGconn) and found.status == ConnStatus.OK else None


def _restore(connection: Any, path: str) -> bool:
    """Set the search_path unless it is that already; return whether that was needed."""
    found = _execute(connection, _SHOW)
    if found is None or found == path:
        return False
    set_path(connection, path)
    return True


def _execute(connection: Any, statement: bytes, *parameters: str) -> str | None:
    """Execute a statement on one of psycopg's connections; return what it shows.

    Return None where it shows nothing, and where the connection is in use, or in a transaction:
    another thread may be waiting for notifications. What psycopg does by itself (a transaction,
    a prepared statement) and what tests patch or count is passed by.
    """
    pgconn = _open(connection)
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
