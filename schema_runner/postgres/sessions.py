"""Sessions on the server, of runs and of others, distinguished by application_name."""

import time
from collections.abc import Collection
from contextlib import closing
from typing import NamedTuple

from psycopg import sql

from ..errors import SchemaRunnerError, advice
from . import locks, names, prepared_transactions
from .server import POLL_SECONDS, RESET_SESSION, Connection, Server

# Only sessions of the same role, because ending others requires privileges.
_END = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000)
    FROM pg_catalog.pg_stat_activity a
    WHERE datname = %s AND usename = session_user AND pid <> pg_catalog.pg_backend_pid()
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l
                      WHERE l.pid = a.pid AND locktype = 'advisory' AND granted AND objsubid = 1
                        AND (classid::bigint << 32) + objid::bigint = %s)
"""
_OF_RUN = """
    AND pg_catalog.starts_with(application_name || ' ', %s || ' ') AND application_name <> %s
"""
_OF_WORKER = "AND application_name IN (%s, %s)"
_APPLICATIONS = """
    SELECT application_name, pg_catalog.string_agg(pid::text, ', ' ORDER BY pid)
    FROM pg_catalog.pg_stat_activity
    WHERE pg_catalog.starts_with(application_name, 'django-schema-runner ')
    GROUP BY application_name
"""
# Seconds to wait for the sessions of a run that was just killed, until the server ends them: it
# checks for a lost client every second.
_ORPHAN_TIMEOUT = 5.0
# Runs without a lease whose sessions did not end in that time: programs that tests started may
# have inherited them.
_known_orphans: set[int] = set()

_ANY_TRANSACTION = """
    SELECT 1 FROM pg_catalog.pg_stat_activity
    WHERE application_name = %s AND pid <> pg_catalog.pg_backend_pid()
      AND datname = pg_catalog.current_database() AND xact_start IS NOT NULL
    UNION ALL
    SELECT 1 FROM pg_catalog.pg_prepared_xact() x JOIN pg_catalog.pg_database d ON d.oid = x.dbid
    WHERE datname = pg_catalog.current_database()
"""
_IN_SCHEMA = """
    SELECT pid, state LIKE 'idle in transaction%%', query
    FROM pg_catalog.pg_stat_activity a
    WHERE application_name = %s AND pid <> pg_catalog.pg_backend_pid()
      AND datname = pg_catalog.current_database()
      AND EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = relation
                  WHERE l.pid = a.pid AND relnamespace =
                        (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s))
    ORDER BY pid
"""
_BLOCKING = """
    SELECT pg_catalog.format('process %%s of %%s (%%s), which is %%s: %%s', pid, usename,
                             application_name, state, pg_catalog.left(query, 200))
    FROM pg_catalog.pg_stat_activity a
    WHERE pid <> pg_catalog.pg_backend_pid() AND datname = pg_catalog.current_database()
      AND EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = relation
                  WHERE l.pid = a.pid AND relnamespace =
                        (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s))
    ORDER BY pid
"""


class Session(NamedTuple):
    """A session: whether it is idle in a transaction, and its last statement."""

    pid: int
    is_idle: bool
    query: str


def end_test_sessions(
    connection: Connection, database: str, run: int, worker: int | None = None
) -> None:
    """End the sessions that tests of a run left open in a database, for example in threads.

    With `worker`, end only the sessions of that worker. Sessions that hold a lease are not ended,
    whatever their application_name.
    """
    applications, which = [names.application_name(run), names.main_application_name(run)], _OF_RUN
    if worker is not None:
        applications = [names.application_name(run), names.application_name(run, worker)]
        which = _OF_WORKER
    with connection.transaction():
        # After SET ROLE, the role may not end sessions of the role that logged in.
        connection.execute("SET LOCAL ROLE NONE")
        connection.execute(sql.SQL(_END + which), [database, locks.HOST_IN_USE, *applications])


def has_transactions(connection: Connection, run: int, worker: int) -> bool:
    """Whether a worker may have an open or prepared transaction.

    Usually there is none, and this query takes a tenth of the time of `worker_sessions`.
    """
    name = names.application_name(run, worker)
    return bool(connection.execute(_ANY_TRANSACTION, [name]).fetchall())


def worker_sessions(connection: Connection, schema: str, run: int, worker: int) -> list[Session]:
    """List the sessions of a worker, except this one, that hold locks in a schema."""
    name = names.application_name(run, worker)
    rows = connection.execute(_IN_SCHEMA, [name, schema])
    return [Session(*row) for row in rows]


def lock_holders(connection: Connection, schema: str) -> list[str]:
    """Describe the other sessions that hold locks in a schema."""
    return [text for (text,) in connection.execute(_BLOCKING, [schema])]


def live_runs_without_lease(connection: Connection) -> dict[int, str]:
    """Describe the runs that have sessions of tests, in any database, but no lease.

    A run that lost its lease may be about to recover it. The server ends the sessions of a dead
    run on its own, so wait for that, up to 5 seconds and once for each run.
    """
    deadline = time.monotonic() + _ORPHAN_TIMEOUT
    while True:
        found = {
            run: f"run {run} (server process {pids})"
            for application, pids in connection.execute(_APPLICATIONS).fetchall()
            if (run := names.run_of_test_connection(application)) is not None
            and not locks.is_held(connection, run)
        }
        if found.keys() <= _known_orphans or time.monotonic() > deadline:
            _known_orphans.update(found)
            return found
        time.sleep(POLL_SECONDS)


def refuse_transaction_pooler(connection: Connection, server: Server) -> None:
    """Raise SchemaRunnerError if a pooler shares one backend among several connections.

    These connections would share leases, and lose their search_path. Before raising, undo the
    settings of the sessions, which other clients will use.
    """
    before = _backend_pid(connection)
    if before == connection.info.backend_pid:
        return  # There is no pooler: a pooler reports other process IDs to its clients.
    with closing(server.connect(connection.info.dbname)) as other, other.transaction():
        # The pooler gives the free backend to the other connection, or switches this one's.
        is_shared = _backend_pid(other) == before
        if not is_shared and _backend_pid(connection) != before:
            is_shared = True
            connection.execute(RESET_SESSION)
        if is_shared:
            other.execute(RESET_SESSION)
    if is_shared:
        raise SchemaRunnerError(
            "The connection leads to a pooler that lets clients share sessions, as pgbouncer "
            "does with pool_mode = transaction, so a lease would not show that a run is alive. "
            "In the settings for tests, set HOST and PORT to the server itself, use "
            f"pool_mode = session, or run with {advice().host_test} {advice().isolation_database}."
        )


def _backend_pid(connection: Connection) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


# Seconds that a reset waits for a transaction that is idle or prepared, and for one that executes
# a statement. Stock Django's flush waits forever.
_IDLE_TIMEOUT = 2.0
_ACTIVE_TIMEOUT = 30.0
_END_SESSION = "SELECT pg_catalog.pg_terminate_backend(%s, 5000)"
# Seconds between polls, because PostgreSQL does not announce the end of a transaction.
_POLL_INTERVAL = 0.02


def end_open_transactions(connection: Connection, schema: str, run: int, worker: int) -> list[str]:
    """Wait for a worker's open transactions in a schema; end and describe those that stay open."""
    started, ended = time.monotonic(), list[str]()
    while has_transactions(connection, run, worker):
        found = worker_sessions(connection, schema, run, worker)
        gids = prepared_transactions.of_schema(connection, schema)
        if not found and not gids:
            break
        waited = time.monotonic() - started
        if waited > _IDLE_TIMEOUT:
            late = [session for session in found if session.is_idle or waited > _ACTIVE_TIMEOUT]
            with connection.transaction():
                connection.execute("SET LOCAL ROLE NONE")
                for session in late:
                    connection.execute(_END_SESSION, [session.pid])
            prepared_transactions.roll_back(connection, gids)
            ended += [_describe(session) for session in late]
            ended += [f"{gid!r} as a prepared transaction, which was rolled back" for gid in gids]
        time.sleep(_POLL_INTERVAL)
    return ended


def _describe(session: Session) -> str:
    state = "idle in a transaction" if session.is_idle else "executing a statement"
    statement = session.query.strip()[:200]
    return f"a connection {state}, which was ended. Its last statement: {statement}"


# Excludes the sessions of other workers, by their application_name, and of other roles, which
# programs that tests start do not use.
_NEW_SESSIONS = """
    SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database() AND usename = session_user
      AND pid <> pg_catalog.pg_backend_pid() AND pid <> ALL (%s)
      AND backend_start > %s::timestamptz
      AND (application_name = %s OR NOT pg_catalog.starts_with(application_name, %s))
"""
# PostgreSQL hides `backend_type` of other roles' sessions from roles without privileges. Its own
# processes have no role; background workers of extensions and subscriptions can write as any role.
_OTHER_SESSIONS = """
    SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed application'), usename::text
    FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database() AND usename IS NOT NULL
      AND coalesce(backend_type, '') NOT IN ('walsender', 'parallel worker')
      AND pid <> pg_catalog.pg_backend_pid()
      AND NOT pg_catalog.starts_with(application_name || ' ', %s || ' ')
    ORDER BY 1, 2
"""
_APPLICATION_PREFIX = "django-schema-runner "


def server_time(connection: Connection) -> str:
    """Return the server's time as text, with its time zone."""
    (found,) = connection.execute("SELECT pg_catalog.clock_timestamp()::text").fetchone() or ("",)
    return str(found)


def wait_for_new_sessions(
    connection: Connection, since: str, *, application: str, known: Collection[int], limit: float
) -> None:
    """Wait until the sessions that programs of tests may have opened have ended.

    A session reports its statistics at the latest when it ends.

    `since`: the server's time after which the sessions started.
    `application`: the application_name of this worker; other workers' sessions do not count.
    `known`: the process IDs of sessions that do not count.
    `limit`: the maximum wait in seconds.
    """
    deadline = time.monotonic() + limit
    parameters = [list(known), since, application, _APPLICATION_PREFIX]
    while connection.execute(_NEW_SESSIONS, parameters).fetchone() != (0,):
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS / 5)


def other_sessions(connection: Connection, run: int) -> list[str]:
    """List the applications and roles of sessions in this database that are not this run's."""
    rows = connection.execute(_OTHER_SESSIONS, [names.application_name(run)])
    return [f"{application} (role {role})" for application, role in rows]
