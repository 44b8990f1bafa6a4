"""Advisory locks, for leases, builds, and creating and dropping databases."""

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

# Measured with 300 tables: DROP SCHEMA holds about 35 locks for each table (the table, its
# indexes, its TOAST table with index, its sequence, and dependent objects).
_LOCKS_PER_TABLE = 40


def key(name: str) -> int:
    """Return the signed 64-bit advisory lock key for `name`."""
    digest = hashlib.blake2b(f"schema_runner:{name}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, signed=True)
    _names[number] = name
    return number


# The names of keys, for messages.
_names: dict[int, str] = {}


# Held while creating or dropping an extension that worker schemas share.
EXTENSIONS = key("extensions")
# Shared by the runs that have a lease in the database.
HOST_IN_USE = key("host in use")
# Shared by the runs that have the schema `test_extensions` on their search_path.
EXTENSIONS_IN_USE = key("extensions in use")


def new_run() -> int:
    """Return a random identifier for a run, which is also the lock key of its lease."""
    return secrets.randbits(62)


# The locks that leases hold, by connection.
LEASED: WeakKeyDictionary[Connection, set[int]] = WeakKeyDictionary()

LockContext: TypeAlias = AbstractContextManager[None]


class LockWait(NamedTuple):
    """How this process waits for locks: up to `limit` seconds, calling `log` if it waits."""

    limit: float = 60.0
    log: Callable[[str], None] = print


_lock_wait = LockWait()


def set_lock_wait(wait: LockWait) -> LockWait:
    """Set how this process waits for locks; return the previous value."""
    global _lock_wait
    previous, _lock_wait = _lock_wait, wait
    return previous


@contextmanager
def hold(connection: Connection, lock: int, *, while_active: bool = False) -> Iterator[None]:
    """Hold an advisory lock. Raises LockTimeoutError if another session does not release it.

    With `while_active`, the limit applies only while the holder's run is idle on the server.
    """
    acquire(connection, lock, while_active=while_active)
    try:
        yield
    finally:
        release(connection, lock)


@contextmanager
def try_hold(connection: Connection, lock: int) -> Iterator[bool]:
    """Hold an advisory lock if no session or lease holds it; yield whether it is held here."""
    # PostgreSQL grants a session its own lock again, so the run would find itself dead.
    is_leased = lock in LEASED.get(connection, ())
    free = not is_leased and call_function(connection, "try_advisory_lock", lock)
    try:
        yield free
    finally:
        if free:
            release(connection, lock)


def is_held(connection: Connection, lock: int) -> bool:
    """Whether a lease of this connection or another session holds a lock, in any database."""
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
    """Acquire an advisory lock until the end of the transaction.

    Raises LockTimeoutError if another session does not release it.
    """
    acquire(connection, lock, "advisory_xact_lock")


def acquire(
    connection: Connection,
    lock: int,
    function: str = "advisory_lock",
    *,
    while_active: bool = False,
) -> None:
    """Acquire a lock with this function of PostgreSQL, named without its prefix `pg_`."""
    if not call_function(connection, f"try_{function}", lock):
        _wait(connection, lock, function, while_active=while_active)


def release(connection: Connection, lock: int) -> None:
    # If the connection is lost, its locks are free, and this error must not hide the cause.
    with suppress(psycopg.OperationalError):
        call_function(connection, "advisory_unlock", lock)


def call_function(connection: Connection, function: str, lock: int) -> bool:
    # With the schema, because shims of the same name may come first on the search_path.
    statement = sql.SQL("SELECT pg_catalog.{}(%s)").format(sql.Identifier(f"pg_{function}"))
    row = connection.execute(statement, [lock]).fetchone()
    return bool(row and row[0])


def tables_per_transaction(connection: Connection, workers: int) -> int:
    """Return how many tables one transaction may create, drop or move.

    The server's lock table has max_locks_per_transaction entries for each of max_connections.
    `workers` concurrent transactions use at most half of it.
    """
    row = connection.execute(
        "SELECT current_setting('max_locks_per_transaction')::int"
        " * current_setting('max_connections')::int"
    ).fetchone()
    assert row is not None
    return max(1, int(row[0]) // 2 // max(workers, 1) // _LOCKS_PER_TABLE)


# Seconds before the first message, and between checks of who holds the lock.
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
# Whether a session of these runs was active within the given number of seconds.
_ACTIVE = """
    SELECT FROM pg_catalog.pg_stat_activity
    WHERE EXISTS (SELECT FROM pg_catalog.unnest(%s::text[]) AS run
                  WHERE pg_catalog.starts_with(application_name || ' ', run || ' '))
      AND (state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'
           OR state_change > pg_catalog.clock_timestamp()
                             - pg_catalog.make_interval(secs => %s))
"""


def _wait(connection: Connection, lock: int, function: str, *, while_active: bool) -> None:
    """Wait until PostgreSQL's function gets the lock; log once who holds it.

    The limit starts again if another session gets the lock and, with `while_active`, whenever a
    session of the holder's run is active. Raises LockTimeoutError at the limit.
    """
    name, (limit, log) = _names.get(lock, f"run {lock}"), _lock_wait
    since, pause, is_logged = time.monotonic(), _FIRST_WAIT, False
    holders = {pid for pid, _, _ in connection.execute(_HOLDERS, [lock])}
    while True:
        left = since + limit - time.monotonic()
        if _acquires_within(connection, lock, function, max(min(pause, left), 0.001)):
            return
        found = connection.execute(_HOLDERS, [lock]).fetchall()
        if not found:
            continue  # It was released in the meantime.
        described = " and ".join(text for _, _, text in found)
        if not is_logged:
            log(f"Waiting for the lock {name!r}, which is held by {described}.")
        pids, pause, is_logged = {pid for pid, _, _ in found}, _POLL_INTERVAL, True
        is_new, holders = holders != pids, pids
        if is_new or (while_active and _is_active(connection, [a for _, a, _ in found], limit)):
            since = time.monotonic()
        elif time.monotonic() - since >= limit:
            raise LockTimeoutError(_timeout_message(name, limit, described, found[0][0]))


def _acquires_within(connection: Connection, lock: int, function: str, seconds: float) -> bool:
    before = connection.execute("SELECT pg_catalog.current_setting('lock_timeout')").fetchone()
    set_timeout = "SELECT pg_catalog.set_config('lock_timeout', %s, true)"
    try:
        with connection.transaction():
            connection.execute(set_timeout, [f"{int(seconds * 1000)}ms"])
            call_function(connection, function, lock)
            # Otherwise, the setting would last to the end of an enclosing transaction.
            connection.execute(set_timeout, before)
    except errors.LockNotAvailable:
        return False
    return True


def _is_active(connection: Connection, applications: list[str], limit: float) -> bool:
    runs = [names.run_of_any_connection(application) for application in applications]
    sessions = [names.application_name(run) for run in runs if run is not None]
    return bool(connection.execute(_ACTIVE, [sessions, limit]).fetchall())


def _timeout_message(name: str, limit: float, holders: str, pid: int | None) -> str:
    end = (
        "end the transaction with ROLLBACK PREPARED"
        if pid is None
        else f"end the session with SELECT pg_terminate_backend({pid})"
    )
    return (
        f"Gave up waiting for the lock {name!r} after {limit:g} s: it is held by {holders}. If "
        f"that is a run suspended with Ctrl-Z, resume or end it. Otherwise, {end}. "
        f'SCHEMA_RUNNER["LOCK_TIMEOUT"] sets the number of seconds to wait.'
    )
