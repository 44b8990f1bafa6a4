"""What a transaction under way reaches outside of the schemas that it should keep to."""

from collections.abc import Sequence

from .server import Connection

# Whatever changes an object locks it until the transaction ends. Seen from another session, for
# to its own a dropped object is gone; one that is new has no identity here yet. Reading, checks
# of foreign keys and SELECT … FOR SHARE lock no more than AccessShare and RowShare do:
# https://www.postgresql.org/docs/current/explicit-locking.html
_CHANGED = """
    SELECT DISTINCT found.type || ' ' || found.identity
    FROM pg_catalog.pg_locks
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(
        coalesce(classid, 'pg_catalog.pg_class'::regclass), coalesce(objid, relation), 0
    ) AS found
    WHERE pid = %s AND locktype IN ('relation', 'object')
      AND mode NOT IN ('AccessShareLock', 'RowShareLock')
      AND database = (SELECT oid FROM pg_catalog.pg_database
                      WHERE datname = pg_catalog.current_database())
      AND found.schema <> ALL (%s) AND found.schema !~ '^(pg_|information_schema$)'
    ORDER BY 1
"""


def changed_elsewhere(observer: Connection, process: int, schemas: Sequence[str]) -> list[str]:
    """Name what the transaction of another server process has changed outside of `schemas`.

    It names temporary and the system's own objects never, and also what is locked as if it were
    to be changed.
    """
    return [name for (name,) in observer.execute(_CHANGED, [process, list(schemas)])]
