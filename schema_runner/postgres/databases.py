"""Databases that runs have made: marked, listed and dropped, from another database."""

from dataclasses import dataclass

from psycopg import sql

from .marker import Marker
from .server import Connection


@dataclass(frozen=True, slots=True)
class OwnDatabase:
    """A database whose comment proves it to be some run's."""

    name: str
    marker: Marker


def exists(maintenance: Connection, name: str) -> bool:
    row = maintenance.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name])
    return row.fetchone() is not None


def requested_as(maintenance: Connection, request: str) -> list[OwnDatabase]:
    """List the databases that runs, dead or alive, have made when they asked for `request`."""
    rows = maintenance.execute(
        "SELECT datname, pg_catalog.shobj_description(oid, 'pg_database')"
        " FROM pg_catalog.pg_database ORDER BY datname"
    )
    return [
        OwnDatabase(name, marker)
        for name, comment in rows
        if (marker := Marker.parse(comment)) and request in {name, marker.request}
    ]


def mark(maintenance: Connection, name: str, marker: Marker) -> None:
    maintenance.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), str(marker))
    )


def drop(maintenance: Connection, name: str) -> None:
    """Drop a database, or raise ObjectInUse."""
    # Never with FORCE: that somebody is connected means that somebody needs it.
    maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
