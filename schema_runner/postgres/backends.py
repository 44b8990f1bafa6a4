"""Server processes that serve a run's connections, known by their application_name."""

from contextlib import closing

from psycopg import sql

from .. import names
from ..errors import SchemaRunnerError
from . import locks
from .server import Connection, Server

# Only our role's: no other may be ended without special rights.
_END = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000)
    FROM pg_catalog.pg_stat_activity
    WHERE datname = %s AND usename = session_user AND pid <> pg_catalog.pg_backend_pid()
"""
_OF_RUN = "AND pg_catalog.starts_with(application_name || ' ', %s || ' ')"
_OF_WORKER = "AND application_name IN (%s, %s)"
_APPLICATIONS = """
    SELECT DISTINCT application_name
    FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database()
"""


def end(connection: Connection, database: str, run: int, worker: int | None = None) -> None:
    """End what a run has open in a database: in threads that live on, for example.

    With a worker, leave alone what other workers have open.
    """
    applications, which = [names.application(run)], _OF_RUN
    if worker is not None:
        applications, which = [*applications, names.application(run, worker)], _OF_WORKER
    with connection.transaction():
        # A role that was taken on may not end what the role that logs in has opened.
        connection.execute("SET LOCAL ROLE NONE")
        connection.execute(sql.SQL(_END + which), [database, *applications])


def end_those_of_dead_runs(connection: Connection) -> None:
    """End what is at work in this database for nobody.

    The backend of a process that was killed goes on with its statement until it has a result to
    send, and could even commit it.
    """
    for (application,) in connection.execute(_APPLICATIONS).fetchall():
        run = names.run_of_application(application)
        if run is not None:
            with locks.held_if_free(connection, run) as dead:
                if dead:
                    end(connection, connection.info.dbname, run)


def refuse_shared(connection: Connection, server: Server) -> None:
    """Raise SchemaRunnerError where a pooler has one backend serve several connections.

    All of them would hold a lease that one has taken, and none would keep its search_path.
    """
    before = _pid(connection)
    with closing(server.connect(connection.info.dbname)) as other, other.transaction():
        # The backend that was free has been given to the other, or we are given another.
        if _pid(other) == before or _pid(connection) != before:
            raise SchemaRunnerError(
                "The connection leads to a pooler that lets clients share sessions, as pgbouncer "
                "does with pool_mode = transaction, so that runs could not tell who is alive. "
                "Have the tests' settings name the HOST and PORT of the server itself, use "
                "pool_mode = session, or test with --host-database test --isolation database."
            )


def _pid(connection: Connection) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])
