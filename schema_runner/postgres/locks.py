"""Advisory locks: who is alive, who builds, who may create or drop a database."""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, sql

from ..errors import LockTimeoutError
from . import names
from .server import Connection

# Measured at 300 tables: DROP SCHEMA holds about 35 locks for each (the table, its indexes,
# its TOAST table with index, its sequence, and what depends on them).
_LOCKS_PER_TABLE = 40


def key(name: str) -> int:
    """Return the signed 64-bit advisory lock key that stands for `name`."""
    digest = hashlib.blake2b(f"schema_runner:{name}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, signed=True)
    _names[number] = name
    return number


# What keys stand for.
_names: dict[int, str] = {}


def lock_name(lock: int) -> str:
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


# The locks that leases hold, by their connections.
LEASED: WeakKeyDictionary[Connection, set[int]] = WeakKeyDictionary()

LockContext: TypeAlias = AbstractContextManager[None]


class LockWait(NamedTuple):
    """How many seconds this process waits for whoever has a lock, and whom it tells of that."""

    limit: float = 60.0
    log: Callable[[str], None] = print


_lock_wait = LockWait()


def set_lock_wait(wait: LockWait) -> LockWait:
    """Wait for locks like that from now on; return how it has been before."""
    global _lock_wait
    previous, _lock_wait = _lock_wait, wait
    return previous


@contextmanager
def hold(connection: Connection, lock: int, *, while_active: bool = False) -> Iterator[None]:
    """Hold an advisory lock; raise LockTimeoutError where others do not give it back.

    With `while_active`, wait for as long as the run that has it does something on the server.
    """
    acquire(connection, lock, while_active=while_active)
    try:
        yield
    finally:
        release(connection, lock)


@contextmanager
def try_hold(connection: Connection, lock: int) -> Iterator[bool]:
    """Hold an advisory lock unless a session or a lease has it; yield whether we hold it."""
    # The server grants a session its own lock again: without this a run would look dead to itself.
    is_leased = lock in LEASED.get(connection, ())
    free = not is_leased and call_function(connection, "try_advisory_lock", lock)
    try:
        yield free
    finally:
        if free:
            release(connection, lock)


def is_held(connection: Connection, lock: int) -> bool:
    """Whether a lock is held by a lease or by another session, in whatever database."""
    query = (
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
        " AND objsubid = 1 AND (classid::bigint << 32) + objid::bigint = %s"
        " AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid())"
    )
    if lock in LEASED.get(connection, ()):
        return True
    row = connection.execute(query, [lock]).fetchone()
    return bool(row and row[0])


def acquire_until_commit(connection: Connection, lock: int) -> None:
    """Hold an advisory lock to the end of the connection's transaction.

    Raises LockTimeoutError where others do not give it back.
    """
    acquire(connection, lock, "advisory_xact_lock")


def acquire(
    connection: Connection,
    lock: int,
    function: str = "advisory_lock",
    *,
    while_active: bool = False,
) -> None:
    if call_function(connection, f"try_{function}", lock):
        return
    _wait(
        connection,
        lambda: call_function(connection, function, lock),
        lock,
        _lock_wait,
        while_active=while_active,
    )


def release(connection: Connection, lock: int) -> None:
    # A connection that broke has released its locks, and must not hide why it broke.
    with suppress(psycopg.OperationalError):
        call_function(connection, "advisory_unlock", lock)


def call_function(connection: Connection, function: str, lock: int) -> bool:
    # Named with pg_catalog, because a search_path may put functions of the same name first.
    statement = sql.SQL("SELECT pg_catalog.{}(%s)").format(sql.Identifier(f"pg_{function}"))
    row = connection.execute(statement, [lock]).fetchone()
    return bool(row and row[0])


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


# Seconds after which the wait is told of, and between looks at who has the lock.
_FIRST_WAIT = 1.0
_POLL_INTERVAL = 2.0
# A prepared transaction holds locks without a session.
_HOLDERS = """
    SELECT l.pid, coalesce(a.application_name, ''),
           CASE WHEN l.pid IS NULL THEN 'a prepared transaction' ELSE pg_catalog.format(
               'process %%s of role %%s (application %%L, connected since %%s, %%s for %%s s)',
               l.pid, a.usename, a.application_name,
               pg_catalog.to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS'),
               coalesce(a.state, 'in an unknown state'),
               pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp()
                                        - CASE a.state WHEN 'active' THEN a.query_start
                                                       ELSE a.state_change END)))
           END
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND (l.classid::bigint << 32) + l.objid::bigint = %s
      AND l.database = (SELECT oid FROM pg_catalog.pg_database
                        WHERE datname = pg_catalog.current_database())
      AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
    ORDER BY l.pid
"""
# Whether a session of these applications has been at work within so many seconds.
_ACTIVE = """
    SELECT FROM pg_catalog.pg_stat_activity
    WHERE EXISTS (SELECT FROM pg_catalog.unnest(%s::text[]) AS run
                  WHERE pg_catalog.starts_with(application_name || ' ', run || ' '))
      AND (state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'
           OR state_change > pg_catalog.clock_timestamp()
                             - pg_catalog.make_interval(secs => %s))
"""


def _wait(
    connection: Connection,
    take: Callable[[], object],
    lock: int,
    wait: LockWait,
    *,
    while_active: bool,
) -> None:
    """Call `take` until it gets the lock or the limit is reached; log once who holds the lock.

    With `while_active` the time counts in which no session of the holder's run does anything.
    Raises LockTimeoutError.
    """
    name, limit = lock_name(lock), wait.limit
    since, pause, is_told = time.monotonic(), _FIRST_WAIT, False
    holders = {pid for pid, _, _ in connection.execute(_HOLDERS, [lock])}
    while True:
        left = since + limit - time.monotonic()
        if _acquires_within(connection, take, max(min(pause, left), 0.001)):
            return
        found = connection.execute(_HOLDERS, [lock]).fetchall()
        if not found:
            continue  # It has just been released.
        said = " and ".join(text for _, _, text in found)
        if not is_told:
            wait.log(f"Waiting for the lock {name!r}, which is held by {said}.")
        pids, pause, is_told = {pid for pid, _, _ in found}, _POLL_INTERVAL, True
        is_new, holders = holders != pids, pids
        if is_new or (while_active and _is_active(connection, [a for _, a, _ in found], limit)):
            since = time.monotonic()
        elif time.monotonic() - since >= limit:
            raise LockTimeoutError(_timeout_message(name, limit, said, found[0][0]))


def _acquires_within(connection: Connection, take: Callable[[], object], seconds: float) -> bool:
    before = connection.execute("SELECT pg_catalog.current_setting('lock_timeout')").fetchone()
    assert before is not None
    try:
        with connection.transaction():
            _set_lock_timeout(connection, f"{max(int(seconds * 1000), 1)}ms")
            take()
            # A transaction that this one is part of would go on with it.
            _set_lock_timeout(connection, before[0])
    except errors.LockNotAvailable:
        return False
    return True


def _set_lock_timeout(connection: Connection, timeout: str) -> None:
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(timeout))


def _is_active(connection: Connection, applications: list[str], limit: float) -> bool:
    runs = [names.run_of_any_connection(one) for one in applications]
    sessions = [names.application_name(run) for run in runs if run is not None]
    return bool(connection.execute(_ACTIVE, [sessions, limit]).fetchall())


def _timeout_message(name: str, limit: float, said: str, pid: int | None) -> str:
    end = "end that transaction" if pid is None else f"SELECT pg_terminate_backend({pid})"
    return (
        f"Gave up waiting for the lock {name!r} after {limit:g} s: it is held by {said}. If that "
        f"is a run which has been stopped, as by Ctrl-Z, continue it or end it; to end any "
        f'session: {end}. SCHEMA_RUNNER["LOCK_TIMEOUT"] is how many seconds to wait.'
    )
