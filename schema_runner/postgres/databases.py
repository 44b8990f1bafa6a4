"""Databases that runs have made: marked, listed and dropped, from another database."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psycopg
from psycopg import sql

from .. import names
from .marker import Marker
from .server import Connection


class MarkedDatabase(NamedTuple):
    """A database whose comment proves it to be some run's."""

    name: str
    marker: Marker

    @property
    def is_worker_s(self) -> bool:
        """Whether it is for the classes of one worker that share none."""
        return names.is_own_database(self.name, self.marker.run)


def exists(maintenance: Connection, name: str) -> bool:
    row = maintenance.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name])
    return row.fetchone() is not None


def is_of_others(maintenance: Connection, name: str) -> bool:
    """Whether there is a database of this name that no run has marked."""
    row = maintenance.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database')"
        " FROM pg_catalog.pg_database WHERE datname = %s",
        [name],
    ).fetchone()
    return row is not None and Marker.parse(row[0]) is None


def requested_as(maintenance: Connection, request: str) -> list[MarkedDatabase]:
    """List the databases that runs, dead or alive, have made when they asked for `request`."""
    rows = maintenance.execute(
        "SELECT datname, pg_catalog.shobj_description(oid, 'pg_database')"
        " FROM pg_catalog.pg_database ORDER BY datname"
    )
    return [
        MarkedDatabase(name, marker)
        for name, comment in rows
        if (marker := Marker.parse(comment)) and request in {name, marker.request}
    ]


def without(maintenance: Connection, request: str, needed: Mapping[str, int]) -> list[str]:
    """List those of the databases `needed`, with the runs of their markers, that are gone."""
    found = {one.name: one.marker.run for one in requested_as(maintenance, request)}
    return [f"database {name}" for name, run in needed.items() if found.get(name) != run]


def mark(maintenance: Connection, name: str, marker: Marker) -> None:
    maintenance.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), str(marker))
    )


@contextmanager
def creation(maintenance: Connection, name: str) -> Iterator[None]:
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
