"""Databases that runs created: listing, marking and dropping them, and proof of ownership."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psycopg
from psycopg import sql

from . import locks, names, sessions
from .names import Marker
from .server import Connection

# A comment alone proves nothing: any role that may create a database or a schema can write one.
# Superusers pass pg_has_role for every role, so a superuser accepts only superusers as owners.
# USAGE requires inherited privileges, without which the current role could not drop the object.
_IS_OURS = """
    (SELECT CASE WHEN we.rolsuper THEN owner.rolsuper
                 ELSE pg_catalog.pg_has_role(owner.oid, 'USAGE') END
     FROM pg_catalog.pg_roles we, pg_catalog.pg_roles owner
     WHERE we.rolname = current_user AND owner.oid = {owner})
"""


def is_ours(owner: str) -> sql.Composed:
    """Return an SQL condition: the role whose OID is in the column `owner` is "ours".

    That is the current role, or a role whose privileges it inherits. For a superuser, it is any
    superuser.
    """
    return sql.SQL(_IS_OURS).format(owner=sql.Identifier(owner))


_LISTING = sql.SQL("""
    SELECT datname, pg_catalog.shobj_description(oid, 'pg_database'), {is_ours},
           pg_catalog.pg_get_userbyid(datdba)
    FROM pg_catalog.pg_database ORDER BY datname
""").format(is_ours=is_ours("datdba"))


class MarkedDatabase(NamedTuple):
    """A database that is proved to be a run's, by its marker, its name and its owner."""

    name: str
    marker: Marker

    @property
    def is_own_database(self) -> bool:
        """Whether it was created for a worker's `own_database` classes."""
        return names.is_own_database(self.name, self.marker.run)


class Database(NamedTuple):
    """Any database of the server; `is_ours` is the result of the SQL from `is_ours()`."""

    name: str
    comment: str | None
    is_ours: bool
    owner: str

    @property
    def marker(self) -> Marker | None:
        return Marker.parse(self.comment)

    @property
    def why_unproven(self) -> str | None:
        """Why a marked database is not proved to be a run's, or None if it is proved."""
        marker = self.marker
        assert marker is not None
        if marker.name != self.name:
            # It was renamed, or its comment was copied from another one.
            for_name = f"the comment is for the name {marker.name!r}"
            return for_name if marker.name else "the comment has no database name"
        return None if self.is_ours else f"it belongs to the role {self.owner!r}"


def exists(maintenance: Connection, name: str) -> bool:
    row = maintenance.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name])
    return row.fetchone() is not None


def list_all(maintenance: Connection) -> list[Database]:
    return [Database(*row) for row in maintenance.execute(_LISTING)]


def is_foreign(maintenance: Connection, name: str) -> bool:
    """Whether a database of this name exists that no run is proved to have created."""
    return exists(maintenance, name) and find_marker(maintenance, name, name) is None


def for_request(maintenance: Connection, request: str) -> list[MarkedDatabase]:
    """List the databases that runs, dead or alive, created for requests of this name."""
    return proven(list_all(maintenance), request)


def find_marker(maintenance: Connection, request: str, name: str) -> Marker | None:
    """Return the marker of a database that a run created for a request, or None."""
    return dict(for_request(maintenance, request)).get(name)


def proven(listing: Iterable[Database], request: str) -> list[MarkedDatabase]:
    """Return the databases that runs are proved to have created for requests of this name."""
    return [
        MarkedDatabase(database.name, marker._replace(name=None))
        for database, marker in _marked(listing, request)
        if database.why_unproven is None
    ]


def unproven(listing: Iterable[Database], request: str) -> list[tuple[Database, Marker]]:
    """Return the databases that are marked for requests of this name, but lack the proof."""
    return [
        (database, marker)
        for database, marker in _marked(listing, request)
        if database.why_unproven
    ]


def _marked(listing: Iterable[Database], request: str) -> list[tuple[Database, Marker]]:
    return [
        (database, marker)
        for database in listing
        if (marker := database.marker) and request in {database.name, marker.request}
    ]


def missing(maintenance: Connection, request: str, needed: Mapping[str, int]) -> list[str]:
    """Describe the missing databases; `needed` maps names to the runs in their markers."""
    found = {(name, marker.run) for name, marker in for_request(maintenance, request)}
    return [f"database {name}" for name, run in needed.items() if (name, run) not in found]


def hold_name(maintenance: Connection, request: str) -> locks.LockContext:
    """Lock a name: no other run creates or drops databases for requests of this name."""
    return locks.hold(maintenance, locks.key(f"host database {request}"))


def mark(maintenance: Connection, name: str, marker: Marker) -> None:
    text = str(marker._replace(name=name))
    maintenance.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), text))


def alternative_pool_name(
    maintenance: Connection, request: str, fingerprint: str, run: int
) -> str:
    """Return the name of a database for a pool if the requested name is taken."""
    name = names.database_of_fingerprint(request, fingerprint)
    return names.database_of_run(request, run) if exists(maintenance, name) else name


@contextmanager
def dropped_on_error(maintenance: Connection, name: str) -> Iterator[None]:
    """Drop a database if the caller fails between creating and marking it.

    Without a marker, no later run could tell who created it. A database that existed before
    stays.
    """
    existed = exists(maintenance, name)
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(psycopg.Error):
                drop(maintenance, name)
        raise


def drop(maintenance: Connection, name: str) -> None:
    """Drop a database if it exists. Raises ObjectInUse if a session is connected to it."""
    # Never with FORCE, because a session that is connected may need the database.
    maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def drop_of_run(maintenance: Connection, name: str, run: int) -> None:
    """Drop a database, after ending the sessions that tests of `run` left open in it."""
    sessions.end_test_sessions(maintenance, name, run)
    drop(maintenance, name)
