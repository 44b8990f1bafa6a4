"""Advisory locks: who is alive, who builds, who may create or drop a database."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql

from .server import Connection

# Measured at 300 tables: DROP SCHEMA holds about 35 locks for each (the table, its indexes,
# its TOAST table with index, its sequence, and what depends on them).
_LOCKS_PER_TABLE = 40


def key(name: str) -> int:
    """Return the signed 64-bit advisory lock key that stands for `name`."""
    digest = hashlib.blake2b(f"schema_runner:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


# Held by whoever creates or drops an extension that several worker schemas share.
EXTENSIONS = key("extensions")
_HOST_IN_USE = key("host in use")


def new_run() -> int:
    """Return an identifier for a run, which is also the key of its lease."""
    return secrets.randbits(62)


Held: TypeAlias = AbstractContextManager[None]


@contextmanager
def held(connection: Connection, lock: int) -> Iterator[None]:
    """Hold an advisory lock."""
    _call(connection, "advisory_lock", lock)
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
    """Whether an advisory lock is held, such as a run's lease, in whatever database."""
    query = (
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
        " AND objsubid = 1 AND (classid::bigint << 32) + objid::bigint = %s)"
    )
    row = connection.execute(query, [lock]).fetchone()
    return bool(row and row[0])


def hold_until_commit(connection: Connection, lock: int) -> None:
    """Hold an advisory lock to the end of the connection's transaction."""
    _call(connection, "advisory_xact_lock", lock)


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

    def __init__(self, connection: Connection, run: int, *, is_in_host: bool = True) -> None:
        self.run = run
        self.connection = connection
        _LEASED[connection] = {run}
        _call(connection, "advisory_lock", run)
        if is_in_host:
            self.share(_HOST_IN_USE)

    @property
    def lost(self) -> bool:
        """Whether the locks are gone, so that others may take this run for dead."""
        try:
            self.connection.execute("SELECT 1")
        except psycopg.Error:
            return True
        return False

    def tables_per_transaction(self, workers: int) -> int:
        return tables_per_transaction(self.connection, workers)

    def share(self, lock: int) -> None:
        """Hold another lock as long as this lease lasts; other runs can hold it too."""
        _LEASED[self.connection].add(lock)
        _call(self.connection, "advisory_lock_shared", lock)

    @staticmethod
    def is_host_in_use(connection: Connection) -> bool:
        """Whether a live run has a lease in the database that is connected to."""
        with held_if_free(connection, _HOST_IN_USE) as free:
            return not free

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep other runs out of the host database; yield whether none is there."""
        is_alone = _call(self.connection, "try_advisory_lock", _HOST_IN_USE)
        try:
            yield is_alone
        finally:
            if is_alone:
                _release(self.connection, _HOST_IN_USE)

    def leave_host(self) -> bool:
        """Give up the host database; return whether no other run uses it."""
        _call(self.connection, "advisory_unlock_shared", _HOST_IN_USE)
        return _call(self.connection, "try_advisory_lock", _HOST_IN_USE)

    def close(self) -> None:
        self.connection.close()


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
