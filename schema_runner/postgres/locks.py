"""Advisory locks: who is alive, who builds, who may create or drop a database."""

import hashlib
import os
import secrets
import select
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple, Self, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql

from .server import Connection, Server

# Measured at 300 tables: DROP SCHEMA holds about 35 locks for each (the table, its indexes,
# its TOAST table with index, its sequence, and what depends on them).
_LOCKS_PER_TABLE = 40
_END_HOLDER = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND (classid::bigint << 32) + objid::bigint = %s AND pid = %s
"""


def key(name: str) -> int:
    """Return the signed 64-bit advisory lock key that stands for `name`."""
    digest = hashlib.blake2b(f"schema_runner:{name}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, signed=True)
    _names[number] = name
    return number


# What keys stand for.
_names: dict[int, str] = {}


def name_of(lock: int) -> str:
    """Return the name of which a lock is the key, to tell of it."""
    return _names.get(lock, f"run {lock}")


# Held by whoever creates or drops an extension that several worker schemas share.
EXTENSIONS = key("extensions")
HOST_IN_USE = key("host in use")
# Each run shares it that has the schema for extensions of the project's own database on its path.
EXTENSIONS_IN_USE = key("extensions in use")


def new_run() -> int:
    """Return an identifier for a run, which is also the key of its lease."""
    return secrets.randbits(62)


Held: TypeAlias = AbstractContextManager[None]


class Patience(NamedTuple):
    """How many seconds this process waits for whoever has a lock, and whom it tells of that."""

    limit: float = 60.0
    log: Callable[[str], None] = print


_patience = Patience()


def wait_with(patience: Patience) -> Patience:
    """Wait for locks like that from now on; return how it has been before."""
    global _patience
    before, _patience = _patience, patience
    return before


@contextmanager
def held(connection: Connection, lock: int, *, while_at_work: bool = False) -> Iterator[None]:
    """Hold an advisory lock; raise LockTimeoutError where others do not give it back.

    With `while_at_work`, wait for as long as the run that has it does something on the server.
    """
    _take(connection, lock, while_at_work=while_at_work)
    try:
        yield
    finally:
        _release(connection, lock)


@contextmanager
def held_if_free(connection: Connection, lock: int) -> Iterator[bool]:
    """Hold an advisory lock unless a session or a lease has it; yield whether we hold it."""
    # The server grants a session its own lock again: without this a run would look dead to itself.
    is_leased = lock in _LEASED.get(connection, ())
    free = not is_leased and _call(connection, "try_advisory_lock", lock)
    try:
        yield free
    finally:
        if free:
            _release(connection, lock)


def is_held(connection: Connection, lock: int) -> bool:
    """Whether a lock is held by a lease or by another session, in whatever database."""
    query = (
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
        " AND objsubid = 1 AND (classid::bigint << 32) + objid::bigint = %s"
        " AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid())"
    )
    if lock in _LEASED.get(connection, ()):
        return True
    row = connection.execute(query, [lock]).fetchone()
    return bool(row and row[0])


def hold_until_commit(connection: Connection, lock: int) -> None:
    """Hold an advisory lock to the end of the connection's transaction.

    Raises LockTimeoutError where others do not give it back.
    """
    _take(connection, lock, "advisory_xact_lock")


def _take(
    connection: Connection,
    lock: int,
    function: str = "advisory_lock",
    *,
    while_at_work: bool = False,
) -> None:
    if _call(connection, f"try_{function}", lock):
        return
    from .advisory_waits import wait

    wait(
        connection,
        lambda: _call(connection, function, lock),
        lock,
        _patience,
        while_at_work=while_at_work,
    )


def _release(connection: Connection, lock: int) -> None:
    # A connection that broke has released its locks, and must not hide why it broke.
    with suppress(psycopg.OperationalError):
        _call(connection, "advisory_unlock", lock)


def _call(connection: Connection, function: str, lock: int) -> bool:
    # Named with pg_catalog, because a search_path may put functions of the same name first.
    statement = sql.SQL("SELECT pg_catalog.{}(%s)").format(sql.Identifier(f"pg_{function}"))
    row = connection.execute(statement, [lock]).fetchone()
    return bool(row and row[0])


# The locks of leases by their connections.
_LEASED: WeakKeyDictionary[Connection, set[int]] = WeakKeyDictionary()


class Lease:
    """The locks that prove a run alive in one host database.

    They belong to the session of its `connection`, so they end with the process, however it
    ends. See "Advisory Locks" in PostgreSQL's manual (13.3.5).
    """

    # Whether it has been given up.
    _is_closed = False

    def __init__(self, connection: Connection, run: int, *, is_in_host: bool = True) -> None:
        self.run = run
        self.connection = connection
        self.is_in_host = is_in_host
        self._process, self._backend = os.getpid(), connection.info.backend_pid
        _LEASED[connection] = {run}
        _take(connection, run)
        if is_in_host:
            self.share(HOST_IN_USE)

    @classmethod
    def outside(cls, server: Server, run: int) -> Self:
        """Hold a run's lease in none of its databases."""
        return cls(server.connect_for_maintenance(), run, is_in_host=False)

    @property
    def is_cut_off(self) -> bool:
        """Whether the locks are gone, so that others may take this run for dead.

        That is a look at the socket, which says so without a word to the server.
        """
        connection = self.connection
        # A forked process has let go of the socket.
        if os.getpid() != self._process or self._is_closed:
            return False
        try:
            # What the server has sent before its end has to be read before.
            while not connection.closed and _is_readable(connection):
                connection.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return connection.closed

    def move_to(self, connection: Connection) -> bool:
        """Take the locks on another connection; return False while others have one of them."""
        locks = _LEASED[self.connection]
        # The server may not know yet that the connection is lost.
        with connection.transaction():
            # A role that was taken on may not end what the role that logs in has opened.
            connection.execute("SET LOCAL ROLE NONE")
            connection.execute(_END_HOLDER, [self.run, self._backend])
        for lock in sorted(locks, key=lambda lock: lock != self.run):
            shared = "" if lock == self.run else "_shared"
            if not _call(connection, f"try_advisory_lock{shared}", lock):
                return False
        self.connection.close()
        self.connection, self._backend = connection, connection.info.backend_pid
        _LEASED[connection] = locks
        return True

    def tables_per_transaction(self, workers: int) -> int:
        return tables_per_transaction(self.connection, workers)

    def share(self, lock: int) -> None:
        """Hold another lock as long as this lease lasts; other runs can hold it too."""
        _LEASED[self.connection].add(lock)
        _take(self.connection, lock, "advisory_lock_shared")

    def unshare(self, lock: int) -> None:
        """Hold a lock no longer that others can hold too."""
        _LEASED[self.connection].discard(lock)
        _call(self.connection, "advisory_unlock_shared", lock)

    @staticmethod
    def is_host_in_use(connection: Connection) -> bool:
        """Whether a live run has a lease in the database that is connected to."""
        with held_if_free(connection, HOST_IN_USE) as free:
            return not free

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep other runs from using the shared extensions; yield whether none does."""
        is_alone = _call(self.connection, "try_advisory_lock", EXTENSIONS_IN_USE)
        try:
            yield is_alone
        finally:
            if is_alone:
                _release(self.connection, EXTENSIONS_IN_USE)

    def leave_extensions(self) -> bool:
        """Give up the shared extensions; return whether no other run uses them."""
        self.unshare(EXTENSIONS_IN_USE)
        return _call(self.connection, "try_advisory_lock", EXTENSIONS_IN_USE)

    def close(self) -> None:
        self._is_closed = True
        self.connection.close()


def _is_readable(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def tables_per_transaction(connection: Connection, workers: int) -> int:
    """Return how many tables one transaction may drop or move.

    The server's lock table has max_locks_per_transaction entries for each of
    max_connections; `workers` transactions at once stay below half of it.
    """
    row = connection.execute(
        "SELECT current_setting('max_locks_per_transaction')::int"
        " * current_setting('max_connections')::int"
    ).fetchone()
    assert row is not None
    return max(1, int(row[0]) // 2 // max(workers, 1) // _LOCKS_PER_TABLE)
