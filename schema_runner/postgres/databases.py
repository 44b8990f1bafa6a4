"""Databases that runs have made: marked, listed and dropped, and proved to be ours."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psycopg
from psycopg import sql

from . import names
from .names import Marker, MarkerState
from .server import Connection

# A comment proves nothing by itself: any role that may create a database or a schema can write
# one. A superuser passes pg_has_role for every role, so that only what superusers own counts for
# one. USAGE is of roles whose rights are inherited: what we could not drop is not ours.
_IS_OURS = """
    (SELECT CASE WHEN we.rolsuper THEN owner.rolsuper
                 ELSE pg_catalog.pg_has_role(owner.oid, 'USAGE') END
     FROM pg_catalog.pg_roles we, pg_catalog.pg_roles owner
     WHERE we.rolname = current_user AND owner.oid = {owner})
"""


def is_ours(owner: str) -> sql.Composed:
    """Return SQL that tells of a column with a role's OID whether that is us.

    It is if it is the current role, or one that this is a member of.
    """
    return sql.SQL(_IS_OURS).format(owner=sql.Identifier(owner))


_LISTING = sql.SQL("""
    SELECT datname, pg_catalog.shobj_description(oid, 'pg_database'), {is_ours},
           pg_catalog.pg_get_userbyid(datdba)
    FROM pg_catalog.pg_database ORDER BY datname
""").format(is_ours=is_ours("datdba"))

_COMMENT = """
    SELECT pg_catalog.shobj_description(oid, 'pg_database')
    FROM pg_catalog.pg_database WHERE datname = %s
"""


class MarkedDatabase(NamedTuple):
    """A database that is some run's: its comment says so, under its name, and we own it."""

    name: str
    marker: Marker

    @property
    def is_own_database(self) -> bool:
        """Whether it is for the classes of one worker that share none."""
        return names.is_own_database(self.name, self.marker.run)


class Database(NamedTuple):
    """Any database of the server, with its comment, and whether its owner is us."""

    name: str
    comment: str | None
    is_ours: bool
    owner: str

    @property
    def marker(self) -> Marker | None:
        return Marker.parse(self.comment)

    @property
    def why_unproven(self) -> str | None:
        """Why a marked database is none of ours, if it is not."""
        marker = self.marker
        assert marker is not None
        if marker.name != self.name:
            # A person has renamed it, or copied the comment.
            made_as = f"a run has made it as {marker.name!r}"
            return made_as if marker.name else "it does not say under which name"
        return None if self.is_ours else f"it belongs to the role {self.owner!r}"


def exists(maintenance: Connection, name: str) -> bool:
    row = maintenance.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name])
    return row.fetchone() is not None


def list_all(maintenance: Connection) -> list[Database]:
    return [Database(*row) for row in maintenance.execute(_LISTING)]


def is_foreign(maintenance: Connection, name: str) -> bool:
    """Whether there is a database of this name that is no run's."""
    return exists(maintenance, name) and not for_request(maintenance, name, only=name)


def for_request(
    maintenance: Connection, request: str, *, only: str | None = None
) -> list[MarkedDatabase]:
    """List the databases that runs, dead or alive, have made when they asked for `request`.

    With `only`, look at no other than that.
    """
    return [one for one in proven(list_all(maintenance), request) if only in {None, one.name}]


def proven(listing: Iterable[Database], request: str) -> list[MarkedDatabase]:
    """Return those of a listing that such runs have made."""
    return [
        MarkedDatabase(one.name, marker._replace(name=None))
        for one, marker in _marked(listing, request)
        if one.why_unproven is None
    ]


def unproven(listing: Iterable[Database], request: str) -> list[tuple[Database, Marker]]:
    """Return those that are marked as if such runs had made them, and are none of ours."""
    return [one for one in _marked(listing, request) if one[0].why_unproven]


def _marked(listing: Iterable[Database], request: str) -> list[tuple[Database, Marker]]:
    return [
        (one, marker)
        for one in listing
        if (marker := one.marker) and request in {one.name, marker.request}
    ]


def missing(maintenance: Connection, request: str, needed: Mapping[str, int]) -> list[str]:
    """List those of the databases `needed`, with the runs of their markers, that are gone."""
    found = {one.name: one.marker.run for one in for_request(maintenance, request)}
    return [f"database {name}" for name, run in needed.items() if found.get(name) != run]


def mark(maintenance: Connection, name: str, marker: Marker) -> None:
    text = str(marker._replace(name=name))
    maintenance.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), text))


def alternative_pool_name(
    maintenance: Connection, request: str, fingerprint: str, run: int
) -> str:
    """Return what a database with a pool is called where the first choice is taken."""
    name = names.database_of_fingerprint(request, fingerprint)
    return names.database_of_run(request, run) if exists(maintenance, name) else name


@contextmanager
def dropped_on_error(maintenance: Connection, name: str) -> Iterator[None]:
    """Have the body of the `with` create a database and mark it.

    Where that fails or is broken off, drop it, unless it had been there before: without a
    marker no later run could know whose it is.
    """
    was_there = exists(maintenance, name)
    try:
        yield
    except BaseException:
        if not was_there:
            with suppress(psycopg.Error):
                drop(maintenance, name)
        raise


def drop(maintenance: Connection, name: str) -> None:
    """Drop a database, or raise ObjectInUse."""
    # Never with FORCE: that somebody is connected means that somebody needs it.
    maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def drop_if_marked(maintenance: Connection, name: str) -> None:
    """Drop a database that no lease was held in: leave what has come to bear its name since."""
    row = maintenance.execute(_COMMENT, [name]).fetchone()
    marker = Marker.parse(row[0]) if row else None
    if marker is not None and marker.name == name:
        drop(maintenance, name)


def is_of_run(maintenance: Connection, name: str, request: str, run: int) -> bool:
    """Return whether a run has made this database, named after `request`, and not kept it."""
    return any(
        database.name == name
        and database.marker.run == run
        and database.marker.state is not MarkerState.KEPT
        for database in for_request(maintenance, request)
    )
