"""The number of workers: what --parallel auto chooses, and what connections allow."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..connections import server_of
from ..errors import SchemaRunnerError, count
from ..postgres import sessions
from ..postgres.capacity import connections_left
from ..postgres.server import CLOSE_TIMEOUT

# Tests that do nothing but wait could have any number of workers, each of which takes memory and
# connections.
_MOST_EACH = 4
# Fewer workers are as good where they take so much longer at most.
_TOLERANCE = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What decides about the number of workers. Times are in seconds.

    `processors` are those that can be used, and `connections` says for how many workers servers
    have some left, None where no tests use a database. The `parts` of the suite take so long each,
    and a part is run as a whole; that `is_measured`, or else a guess. A worker takes `start`
    before its first test. For `processor_share` of the time in tests a processor is busy; None if
    nobody knows.
    """

    processors: float
    connections: int | None
    parts: Sequence[float]
    is_measured: bool
    start: float
    processor_share: float | None


@dataclass(frozen=True, slots=True)
class WorkerCount:
    """A number of workers, 1 for a run without them, and a line that says why."""

    workers: int
    why: str


def choose_worker_count(situation: Limits) -> WorkerCount:
    """Choose as few workers as will be through with the suite in about the shortest time."""
    most, why = min(_limits(situation), key=lambda limit: limit[0])
    durations = {number: _duration(situation, number) for number in range(1, most + 1)}
    shortest = min(durations.values())
    best = next(n for n, seconds in durations.items() if seconds <= shortest * _TOLERANCE)
    if best == 1 and most > 1:
        why = f"the tests take about {sum(situation.parts):.1f} s, too short for more to pay"
    elif best < most:
        why = "more would hardly be through sooner"
    if not situation.is_measured:
        why += " (how long tests take is a guess, until they have been run)"
    return WorkerCount(best, explained("auto", best, why))


def explained(wanted: int | str, number: int, why: str) -> str:
    """Return the line about a number of workers that is not what --parallel says."""
    named = f"{number} workers" if number > 1 else "no workers"
    return f"--parallel {wanted}: {named}, because {why}."


def by_connections(left: int) -> tuple[int, str]:
    """Return the number of workers for which there are connections, and the reason to give."""
    number = max(left, 1)
    return number, f"the server has connections for {number} at most"


def _limits(situation: Limits) -> list[tuple[int, str]]:
    """List how many workers there can be, and what says so."""
    usable = max(math.floor(situation.processors), 1)
    limits = [_limit_of_processors(situation, usable)]
    if situation.connections is not None:
        limits.append(by_connections(situation.connections))
    parts = max(len(situation.parts), 1)
    are = "is" if parts == 1 else "are"
    limits.append((parts, f"there {are} {count(parts, 'class', 'classes')} of tests"))
    return limits


def _limit_of_processors(situation: Limits, usable: int) -> tuple[int, str]:
    can_be_used = f"{count(usable, 'processor')} can be used"
    share = situation.processor_share
    if share is None:
        return usable, can_be_used
    waiting = math.floor(situation.processors / max(share, 1 / _MOST_EACH))
    if waiting <= usable:
        return usable, can_be_used
    return waiting, f"{can_be_used}, and tests wait for {1 - share:.0%} of their time"


def _duration(situation: Limits, workers: int) -> float:
    """Estimate how long so many workers take."""
    total, longest = sum(situation.parts), max(situation.parts, default=0.0)
    if workers == 1:
        return total
    # Being set up is work for a processor, all of it.
    starting = situation.start * max(workers / situation.processors, 1.0)
    return starting + max(total / workers, longest)


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
    deadline = time.monotonic() + CLOSE_TIMEOUT
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
