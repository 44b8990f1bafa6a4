"""What a server brings to a build: with others, the same migrations make something else."""

from .server import Connection

_FACTS = """
    SELECT 'server ' || pg_catalog.version()
    UNION ALL
    SELECT 'role ' || current_user
    UNION ALL
    SELECT pg_catalog.format('database %s %s %s', pg_catalog.pg_encoding_to_char(encoding),
                             datcollate, datctype)
    FROM pg_catalog.pg_database WHERE datname = 'template1'
    UNION ALL
    SELECT 'extension ' || name || ' ' || default_version
    FROM pg_catalog.pg_available_extensions
"""


def facts(connection: Connection) -> list[str]:
    """List the versions of the server and of the extensions that it could create, and the like.

    They are the same on another machine that is set up alike.
    """
    return sorted(fact for (fact,) in connection.execute(_FACTS))
