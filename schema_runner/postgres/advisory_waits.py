"""Waiting for an advisory lock that others have: who that is, and for how long."""

import time
from collections.abc import Callable

from psycopg import errors, sql

from .. import names
from ..errors import LockTimeoutError
from . import locks
from .server import Connection

# Seconds after which the wait is told of, and between looks at who has the lock.
_FIRST = 1.0
_NEXT = 2.0
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
_AT_WORK = """
    SELECT FROM pg_catalog.pg_stat_activity
    WHERE EXISTS (SELECT FROM pg_catalog.unnest(%s::text[]) AS run
                  WHERE pg_catalog.starts_with(application_name || ' ', run || ' '))
      AND (state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'
           OR state_change > pg_catalog.clock_timestamp()
                             - pg_catalog.make_interval(secs => %s))
"""


def wait(
    connection: Connection,
    take: Callable[[], object],
    lock: int,
    patience: locks.Patience,
    *,
    while_at_work: bool,
) -> None:
    """Call `take` until it gets the lock or the limit is reached; log once who holds the lock.

    With `while_at_work` the time counts in which no session of the holder's run does anything.
    Raises LockTimeoutError.
    """
    name, limit = locks.name_of(lock), patience.limit
    since, pause, is_told = time.monotonic(), _FIRST, False
    holders = {pid for pid, _, _ in connection.execute(_HOLDERS, [lock])}
    while True:
        left = since + limit - time.monotonic()
        if _is_taken(connection, take, max(min(pause, left), 0.001)):
            return
        found = connection.execute(_HOLDERS, [lock]).fetchall()
        if not found:
            continue  # It has just been released.
        said = " and ".join(text for _, _, text in found)
        if not is_told:
            patience.log(f"Waiting for the lock {name!r}, which is held by {said}.")
        pids, pause, is_told = {pid for pid, _, _ in found}, _NEXT, True
        is_new, holders = holders != pids, pids
        if is_new or (while_at_work and _is_at_work(connection, [a for _, a, _ in found], limit)):
            since = time.monotonic()
        elif time.monotonic() - since >= limit:
            raise LockTimeoutError(_explanation(name, limit, said, found[0][0]))


def _is_taken(connection: Connection, take: Callable[[], object], seconds: float) -> bool:
    before = connection.execute("SELECT pg_catalog.current_setting('lock_timeout')").fetchone()
    assert before is not None
    try:
        with connection.transaction():
            _limit(connection, f"{max(int(seconds * 1000), 1)}ms")
            take()
            # A transaction that this one is part of would go on with it.
            _limit(connection, before[0])
    except errors.LockNotAvailable:
        return False
    return True


def _limit(connection: Connection, timeout: str) -> None:
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(timeout))


def _is_at_work(connection: Connection, applications: list[str], limit: float) -> bool:
    runs = [names.run_of_any(one) for one in applications]
    sessions = [names.application(run) for run in runs if run is not None]
    return bool(connection.execute(_AT_WORK, [sessions, limit]).fetchall())


def _explanation(name: str, limit: float, said: str, pid: int | None) -> str:
    end = "end that transaction" if pid is None else f"SELECT pg_terminate_backend({pid})"
    return (
        f"Gave up waiting for the lock {name!r} after {limit:g} s: it is held by {said}. If that "
        f"is a run which has been stopped, as by Ctrl-Z, continue it or end it; to end any "
        f'session: {end}. SCHEMA_RUNNER["LOCK_TIMEOUT"] is how many seconds to wait.'
    )
