"""How many workers the servers of a suite have room for."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..errors import SchemaRunnerError
from ..postgres.capacity import connections_left
from .servers import server_of

# What a run itself has open at the same time: its leases, and connections of the main process.
_OWN = 4


def workers_by_connections(aliases: Iterable[str]) -> int | None:
    """Return for how many workers, at least, all servers of these aliases have connections.

    A worker needs two for each database: that of its tests, and that of its resets. None where no
    alias is PostgreSQL, and where a server does not tell: the run will say what is wrong then.
    """
    databases: dict[tuple[str, ...], set[str]] = defaultdict(set)
    servers: dict[tuple[str, ...], str] = {}
    for alias in aliases:
        connection = connections[connections[alias].settings_dict["TEST"]["MIRROR"] or alias]
        if connection.vendor == "postgresql":
            settings = connection.settings_dict
            place = tuple(str(settings[key]) for key in ("HOST", "PORT", "USER"))
            databases[place].add(str(settings["NAME"]))
            servers[place] = connection.alias
    rooms = [_room(servers[place], each=2 * len(names)) for place, names in databases.items()]
    return min((room for room in rooms if room is not None), default=None)


def _room(alias: str, *, each: int) -> int | None:
    connection: Any = connections[alias]
    try:
        with server_of(connection).maintenance() as maintenance:
            return max(connections_left(maintenance) - _OWN, 0) // each
    except (psycopg.Error, SchemaRunnerError, ImproperlyConfigured):
        return None
