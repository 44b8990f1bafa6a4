"""Sessions on the server: those of runs, and others, told apart by application_name."""

import time
from collections.abc import Collection, Iterable
from contextlib import closing
from typing import NamedTuple

from psycopg import sql

from ..errors import SchemaRunnerError
from . import locks, names, prepared_transactions
from .server import POLL_SECONDS, RESET_SESSION, Connection, Server

# Only our role's: no other may be ended without special rights.
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
# How long, in seconds, connections of a run that has just died may take to end: the server asks
# once a second whether the client is still there.
_ORPHAN_TIMEOUT = 5.0
# The runs whose connections have not: something that tests have started has them.
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
    """A server process: whether it waits in an open transaction, and its last statement."""

    pid: int
    is_idle: bool
    query: str


def end_test_sessions(
    connection: Connection, database: str, run: int, worker: int | None = None
) -> None:
    """End what tests of a run have open in a database: in threads that live on, for example.

    With a worker, leave alone what other workers have open. A session with a lease is never
    ended: whatever it is called, a live run needs it.
    """
    applications, which = [names.application_name(run), names.main_application_name(run)], _OF_RUN
    if worker is not None:
        applications = [names.application_name(run), names.application_name(run, worker)]
        which = _OF_WORKER
    with connection.transaction():
        # A role that was taken on may not end what the role that logs in has opened.
        connection.execute("SET LOCAL ROLE NONE")
        connection.execute(sql.SQL(_END + which), [database, locks.HOST_IN_USE, *applications])


def has_transactions(connection: Connection, run: int, worker: int) -> bool:
    """Whether a worker may have a transaction: one that is open, or prepared.

    Mostly it has none, which takes a tenth of the time to find out.
    """
    name = names.application_name(run, worker)
    return bool(connection.execute(_ANY_TRANSACTION, [name]).fetchall())


def worker_sessions(connection: Connection, schema: str, run: int, worker: int) -> list[Session]:
    """List what a worker of a run has open in a transaction that has to do with a schema.

    That of `connection` itself is left out.
    """
    name = names.application_name(run, worker)
    rows = connection.execute(_IN_SCHEMA, [name, schema])
    return [Session(*row) for row in rows]


def end_sessions(connection: Connection, backends: Iterable[Session]) -> None:
    """End server processes of our role, and wait until they have gone."""
    with connection.transaction():
        connection.execute("SET LOCAL ROLE NONE")
        for backend in backends:
            connection.execute("SELECT pg_catalog.pg_terminate_backend(%s, 5000)", [backend.pid])


def lock_holders(connection: Connection, schema: str) -> list[str]:
    """Describe whoever else has locks in a schema."""
    return [text for (text,) in connection.execute(_BLOCKING, [schema])]


def live_runs_without_lease(connection: Connection) -> dict[int, str]:
    """Describe the runs that have connections for tests but no lease, in whatever database.

    One that has lost its lease is about to take it again. Wait a little for connections of dead
    runs to end, which the server ends by itself; but only once for those of the same run.
    """
    deadline = time.monotonic() + _ORPHAN_TIMEOUT
    while True:
        found = {
            run: f"run {run} (connected: process {pids} of the server)"
            for application, pids in connection.execute(_APPLICATIONS).fetchall()
            if (run := names.run_of_test_connection(application)) is not None
            and not locks.is_held(connection, run)
        }
        if found.keys() <= _known_orphans or time.monotonic() > deadline:
            _known_orphans.update(found)
            return found
        time.sleep(POLL_SECONDS)


def refuse_transaction_pooler(connection: Connection, server: Server) -> None:
    """Raise SchemaRunnerError where a pooler has one backend serve several connections.

    All of them would hold a lease that one has taken, and none would keep its search_path. The
    next client is not to meet what we have set.
    """
    before = _backend_pid(connection)
    if before == connection.info.backend_pid:
        # A pooler has told the client a number of its own.
        return
    with closing(server.connect(connection.info.dbname)) as other, other.transaction():
        # The backend that was free has been given to the other, or we are given another.
        is_shared = _backend_pid(other) == before
        if not is_shared and _backend_pid(connection) != before:
            is_shared = True
            connection.execute(RESET_SESSION)
        if is_shared:
            other.execute(RESET_SESSION)
    if is_shared:
        raise SchemaRunnerError(
            "The connection leads to a pooler that lets clients share sessions, as pgbouncer "
            "does with pool_mode = transaction, so that runs could not tell who is alive. "
            "Have the tests' settings name the HOST and PORT of the server itself, use "
            "pool_mode = session, or test with --host-database test --isolation database."
        )


def _backend_pid(connection: Connection) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


# How long, in seconds, it may stay idle in a transaction, or prepared, and how long it may be at
# work. Stock Django's flush waits for ever.
_IDLE_TIMEOUT = 2.0
_ACTIVE_TIMEOUT = 30.0
# Nothing tells when a transaction of somebody else ends.
_POLL_INTERVAL = 0.02


def end_open_transactions(connection: Connection, schema: str, run: int, worker: int) -> list[str]:
    """Wait for transactions of a worker in a schema; end, and describe, what takes too long."""
    begun, ended = time.monotonic(), list[str]()
    while has_transactions(connection, run, worker):
        found = worker_sessions(connection, schema, run, worker)
        gids = prepared_transactions.of_schema(connection, schema)
        if not found and not gids:
            break
        waited = time.monotonic() - begun
        if waited > _IDLE_TIMEOUT:
            late = [one for one in found if one.is_idle or waited > _ACTIVE_TIMEOUT]
            end_sessions(connection, late)
            prepared_transactions.roll_back(connection, gids)
            ended += [_describe(one) for one in late]
            ended += [f"{gid!r} as a prepared transaction, which was rolled back" for gid in gids]
        time.sleep(_POLL_INTERVAL)
    return ended


def _describe(backend: Session) -> str:
    state = "idle in a transaction" if backend.is_idle else "at work"
    statement = backend.query.strip()[:200]
    return f"a connection {state}, which has been ended. Its last statement: {statement}"


# Other workers' have the name of the run. Only our role's can be of programs that tests start.
_NEW_SESSIONS = """
    SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database() AND usename = session_user
      AND pid <> pg_catalog.pg_backend_pid() AND pid <> ALL (%s)
      AND backend_start > %s::timestamptz
      AND (application_name = %s OR NOT pg_catalog.starts_with(application_name, %s))
"""
# Of what another role does, a role without special rights is not told what it is. The server's
# own processes have no role; those of extensions, and of subscriptions, can write as anybody.
_OTHER_SESSIONS = """
    SELECT DISTINCT coalesce(nullif(application_name, ''), 'one without a name'), usename::text
    FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database() AND usename IS NOT NULL
      AND coalesce(backend_type, '') NOT IN ('walsender', 'parallel worker')
      AND pid <> pg_catalog.pg_backend_pid()
      AND NOT pg_catalog.starts_with(application_name || ' ', %s || ' ')
    ORDER BY 1, 2
"""
_APPLICATION_PREFIX = "django-schema-runner "


def server_time(connection: Connection) -> str:
    """Return the server's time."""
    (found,) = connection.execute("SELECT pg_catalog.clock_timestamp()::text").fetchone() or ("",)
    return str(found)


def wait_for_new_sessions(
    connection: Connection, since: str, *, application: str, known: Collection[int], limit: float
) -> None:
    """Wait until sessions that have begun since then, and may be of tests, have ended.

    What a session has written is counted when it ends at the latest. The sessions of other
    workers, and the `known` ones, are not waited for. The limit is in seconds.
    """
    deadline = time.monotonic() + limit
    parameters = [list(known), since, application, _APPLICATION_PREFIX]
    while connection.execute(_NEW_SESSIONS, parameters).fetchone() != (0,):
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS / 5)


def other_sessions(connection: Connection, run: int) -> list[str]:
    """Name the applications, and roles, of the sessions that are not of a run."""
    rows = connection.execute(_OTHER_SESSIONS, [names.application_name(run)])
    return [f"{application} (role {role})" for application, role in rows]
