"""Databases over which a run was killed: created, and not marked yet.

Whoever creates one holds the lock of its request until it is marked, and so does whoever looks for
these: a live run is never between the two. They are proved by name, by owner, and by being what
CREATE DATABASE has made, to the last row of the catalogs.
"""

from collections.abc import Iterable

import psycopg

from .. import names
from ..errors import SchemaRunnerError
from . import databases, locks, versions
from .databases import Database
from .server import Connection, Server


def drop_copies(
    maintenance: Connection, server: Server, candidates: Iterable[Database], source: str
) -> list[str]:
    """Drop those of the candidates that are as their `source` is; return their names."""
    return [
        one.name
        for one in candidates
        if one.comment is None
        and one.is_ours
        and not any(locks.is_held(maintenance, run) for run in names.runs_in(one.name))
        and _is_copy(server, one.name, source)
        and _drop(maintenance, one.name)
    ]


def _is_copy(server: Server, name: str, source: str) -> bool:
    """Whether nothing has been written in a database since it was created from the other."""
    try:
        with server.connect(name) as one, server.connect(source) as other:
            return versions.of_rows(one) == versions.of_rows(other)
    except (psycopg.Error, SchemaRunnerError):
        return False


def _drop(maintenance: Connection, name: str) -> bool:
    try:
        databases.drop(maintenance, name)
    except psycopg.Error:
        return False  # Another session is connected to it.
    return True
