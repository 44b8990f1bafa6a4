"""Server processes that serve a run's connections, known by their application_name."""

from .. import names
from . import locks
from .server import Connection

# Only our role's: no other may be ended without special rights.
_END = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000)
    FROM pg_catalog.pg_stat_activity
    WHERE datname = %s AND application_name = %s AND usename = session_user
"""
_APPLICATIONS = """
    SELECT DISTINCT application_name
    FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database()
"""


def end(connection: Connection, database: str, run: int) -> None:
    """End what a run still has open in a database: in threads that live on, for example."""
    connection.execute(_END, [database, names.application(run)])


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
