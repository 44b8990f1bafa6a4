"""The number of workers: the choice of --parallel auto, and the limit by connections."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..connections import server_of
from ..errors import SchemaRunnerError, count
from ..postgres import sessions
from ..postgres.capacity import connections_left
from ..postgres.server import CLOSE_TIMEOUT

# The most workers for each processor, however long tests wait, because workers need memory and
# connections.
_MAX_PER_PROCESSOR = 4
# Fewer workers are chosen if the run then takes at most this many times the shortest duration.
_TOLERANCE = 1.05


class Limits(NamedTuple):
    """The limits of --parallel auto. Times are in seconds."""

    # The processors that the process may use.
    processors: float
    # The number of workers that the servers have connections for; None if tests use no database.
    connections: int | None
    # The duration of each test class.
    parts: Sequence[float]
    # Whether most of these durations come from the history.
    is_measured: bool
    # How long a worker takes to start.
    start: float
    # CPU time of the tests divided by their duration; None if it is unknown.
    processor_share: float | None


class WorkerCount(NamedTuple):
    """A number of workers, 1 for a run without workers, and the line that explains it."""

    workers: int
    why: str


def choose_worker_count(limits: Limits) -> WorkerCount:
    """Choose the fewest workers that run the suite in about the shortest time."""
    parts = max(len(limits.parts), 1)
    are = "is" if parts == 1 else "are"
    # The most workers by each limit, with the reason.
    maximums = [
        _processor_limit(limits),
        (parts, f"there {are} {count(parts, 'test class', 'test classes')}"),
    ]
    if limits.connections is not None:
        maximums.insert(1, connection_limit(limits.connections))
    most, why = min(maximums, key=lambda maximum: maximum[0])
    durations = {number: _duration(limits, number) for number in range(1, most + 1)}
    shortest = min(durations.values())
    best = next(n for n, seconds in durations.items() if seconds <= shortest * _TOLERANCE)
    if best == 1 and most > 1:
        why = f"the tests take only about {sum(limits.parts):.1f} s"
    elif best < most:
        why = "more would not make the run noticeably shorter"
    if not limits.is_measured:
        why += " (estimated, because the history lacks most of these tests)"
    return WorkerCount(best, explain_worker_count("auto", best, why))


def explain_worker_count(requested: int | str, number: int, why: str) -> str:
    """Return the line for a number of workers that differs from the value of --parallel."""
    workers = f"{number} workers" if number > 1 else "no workers"
    return f"--parallel {requested}: {workers}, because {why}."


def connection_limit(workers: int) -> tuple[int, str]:
    """Return the most workers that there are connections for, at least 1, and the reason."""
    number = max(workers, 1)
    return number, f"the server has connections left for at most {number}"


def _processor_limit(limits: Limits) -> tuple[int, str]:
    usable = max(math.floor(limits.processors), 1)
    why = f"the process may use {count(usable, 'CPU')}"
    # Workers whose tests wait leave processors free.
    share = 1.0 if limits.processor_share is None else limits.processor_share
    waiting = math.floor(limits.processors / max(share, 1 / _MAX_PER_PROCESSOR))
    if waiting <= usable:
        return usable, why
    return waiting, f"{why}, and tests spend {1 - share:.0%} of their time waiting"


def _duration(limits: Limits, workers: int) -> float:
    """Estimate the seconds of the run with this number of workers."""
    total, longest = sum(limits.parts), max(limits.parts, default=0.0)
    if workers == 1:
        return total
    # Each worker keeps a processor busy while it starts.
    starting = limits.start * max(workers / limits.processors, 1.0)
    return starting + max(total / workers, longest)


# Connections of the run itself: its leases, and those of the main process.
_OWN_CONNECTIONS = 4
# Seconds between two counts of the connections that are still being closed.
_POLL_INTERVAL = 0.2


def workers_by_connections(
    aliases: Iterable[str], *, wanted: int = 0, is_current: bool = False
) -> int | None:
    """Return the number of workers that the servers of these aliases have connections for.

    A worker needs two connections for each database: for its tests and for its resets. If
    `is_current`, the limits of the project's own databases apply too. If the result is less than
    `wanted`, wait while other connections are being closed. Return None if no alias is PostgreSQL,
    or if a server cannot be queried: the run then fails with its own error.
    """
    servers: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for alias in aliases:
        connection = connections[connections[alias].settings_dict["TEST"]["MIRROR"] or alias]
        if connection.vendor == "postgresql":
            settings = connection.settings_dict
            server = tuple(str(settings[key]) for key in ("HOST", "PORT", "USER"))
            servers[server][str(settings["NAME"])] = connection.alias
    numbers = []
    for names in servers.values():
        for name, alias in names.items() if is_current else [*names.items()][:1]:
            database = name if is_current else None
            number = _workers_of_server(alias, 2 * len(names), wanted=wanted, database=database)
            if number is not None:
                numbers.append(number)
    return min(numbers, default=None)


def _workers_of_server(
    alias: str, per_worker: int, *, wanted: int, database: str | None
) -> int | None:
    connection: Any = connections[alias]
    deadline = time.monotonic() + CLOSE_TIMEOUT
    previous = -1
    try:
        server = server_of(connection)
        with server.maintenance() as maintenance:
            # A transaction pooler would pass our session's settings on to its next client.
            sessions.refuse_transaction_pooler(maintenance, server)
            while True:
                left = connections_left(maintenance, database)
                workers = max(left - _OWN_CONNECTIONS, 0) // per_worker
                if workers >= wanted or left <= previous or time.monotonic() > deadline:
                    return workers
                previous = left
                time.sleep(_POLL_INTERVAL)
    except (psycopg.Error, SchemaRunnerError, ImproperlyConfigured):
        return None
