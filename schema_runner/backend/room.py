"""How many workers the servers of a suite have room for."""

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..connections import server_of
from ..errors import SchemaRunnerError
from ..postgres import sessions
from ..postgres.capacity import connections_left
from ..postgres.server import SECONDS_FOR_CLOSING

# What a run itself has open at the same time: its leases, and connections of the main process.
_OWN = 4
# How long, in seconds, none of the connections that are being closed may take to be closed.
_CLOSING = 0.2


def workers_by_connections(
    aliases: Iterable[str], *, wanted: int = 0, is_current: bool = False
) -> int | None:
    """Return for how many workers, at least, all servers of these aliases have connections.

    A worker needs two for each database: that of its tests, and that of its resets. Where
    `is_current` the limits of the project's own databases count. As long as there are fewer than
    `wanted`, and connections are being closed, wait a moment. None where no alias is PostgreSQL,
    and where a server does not tell: the run will say what is wrong then.
    """
    places: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for alias in aliases:
        connection = connections[connections[alias].settings_dict["TEST"]["MIRROR"] or alias]
        if connection.vendor == "postgresql":
            settings = connection.settings_dict
            place = tuple(str(settings[key]) for key in ("HOST", "PORT", "USER"))
            places[place][str(settings["NAME"])] = connection.alias
    rooms = [
        _room(alias, each=2 * len(names), wanted=wanted, database=name if is_current else None)
        for names in places.values()
        for name, alias in list(names.items())[: None if is_current else 1]
    ]
    return min((room for room in rooms if room is not None), default=None)


def _room(alias: str, *, each: int, wanted: int, database: str | None) -> int | None:
    connection: Any = connections[alias]
    deadline = time.monotonic() + SECONDS_FOR_CLOSING
    before = -1
    try:
        server = server_of(connection)
        with server.maintenance() as maintenance:
            # Else the next client of a pooler would meet what we have set.
            sessions.refuse_transaction_pooler(maintenance, server)
            while True:
                left = connections_left(maintenance, database)
                room = max(left - _OWN, 0) // each
                if room >= wanted or left <= before or time.monotonic() > deadline:
                    return room
                before = left
                time.sleep(_CLOSING)
    except (psycopg.Error, SchemaRunnerError, ImproperlyConfigured):
        return None
