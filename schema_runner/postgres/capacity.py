"""Checks of a server's version, and of its free connections."""

from ..errors import SchemaRunnerError
from .server import Connection

# The lowest of three limits, each minus the connections in use: the server's, the database's and
# the role's. -1 means no limit. For superusers only the first applies, reserved slots included.
_LEFT = """
    WITH used AS (
        SELECT coalesce(pg_catalog.sum(numbackends), 0) AS server,
               pg_catalog.sum(numbackends) FILTER (WHERE datname = %(database)s) AS database,
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
                WHERE usename = session_user) AS role
        FROM pg_catalog.pg_stat_database
    ), reserved AS (
        SELECT coalesce(pg_catalog.sum(setting::int), 0) AS connections
        FROM pg_catalog.pg_settings
        WHERE name IN ('superuser_reserved_connections', 'reserved_connections')
          AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user)
    )
    SELECT least(pg_catalog.current_setting('max_connections')::int - reserved.connections
                     - used.server,
                 CASE WHEN datconnlimit >= 0 AND NOT rolsuper
                      THEN datconnlimit - used.database END,
                 CASE WHEN rolconnlimit >= 0 AND NOT rolsuper
                      THEN rolconnlimit - used.role END)::int
    FROM used, reserved, pg_catalog.pg_database, pg_catalog.pg_roles
    WHERE datname = %(database)s AND rolname = session_user
"""


def connections_left(connection: Connection, database: str | None = None) -> int:
    """Return how many more connections this role can open to this or another database."""
    row = connection.execute(_LEFT, {"database": database or connection.info.dbname}).fetchone()
    if row is None:
        raise SchemaRunnerError(f"The database {database!r} does not exist.")
    return max(int(row[0]), 0)


def refuse_old_server(connection: Connection, oldest_version: int) -> None:
    """Raise SchemaRunnerError if the server is older than Django supports."""
    found = connection.info.server_version
    if found < oldest_version:
        raise SchemaRunnerError(
            f"The server is PostgreSQL {found // 10000}; this version of Django needs "
            f"{oldest_version // 10000} or later. Use a newer server, or an older Django."
        )
