"""Sessions in a database that are not known to be a run's."""

import time
from collections.abc import Collection

from .. import names
from .server import SOON, Connection

# Other workers' have the name of the run. Only our role's can be of programs that tests start.
_NEW = """
    SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database() AND usename = session_user
      AND pid <> pg_catalog.pg_backend_pid() AND pid <> ALL (%s)
      AND backend_start > %s::timestamptz
      AND (application_name = %s OR NOT pg_catalog.starts_with(application_name, %s))
"""
# Of what another role does, a role without special rights is not told what it is. The server's
# own processes have no role; those of extensions, and of subscriptions, can write as anybody.
_OTHERS = """
    SELECT DISTINCT coalesce(nullif(application_name, ''), 'one without a name'), usename::text
    FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database() AND usename IS NOT NULL
      AND coalesce(backend_type, '') NOT IN ('walsender', 'parallel worker')
      AND pid <> pg_catalog.pg_backend_pid()
      AND NOT pg_catalog.starts_with(application_name || ' ', %s || ' ')
    ORDER BY 1, 2
"""
_OURS = "django-schema-runner "


def now(connection: Connection) -> str:
    """Return the server's time."""
    (found,) = connection.execute("SELECT pg_catalog.clock_timestamp()::text").fetchone() or ("",)
    return str(found)


def wait_for_end(
    connection: Connection, since: str, *, application: str, known: Collection[int], limit: float
) -> None:
    """Wait until sessions that have begun since then, and may be of tests, have ended.

    What a session has written is counted when it ends at the latest. The sessions of other
    workers, and the `known` ones, are not waited for. The limit is in seconds.
    """
    deadline = time.monotonic() + limit
    parameters = [list(known), since, application, _OURS]
    while connection.execute(_NEW, parameters).fetchone() != (0,):
        if time.monotonic() > deadline:
            return
        time.sleep(SOON / 5)


def others(connection: Connection, run: int) -> list[str]:
    """Name the applications, and roles, of the sessions that are not of a run."""
    rows = connection.execute(_OTHERS, [names.application(run)])
    return [f"{application} (role {role})" for application, role in rows]
