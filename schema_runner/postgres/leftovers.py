"""What a test has left open on the server, which would be in the way of a reset."""

import time

from . import backends
from .backends import Backend
from .server import Connection

# How long, in seconds, it may stay idle in a transaction, and how long it may be at work. Stock
# Django's flush waits for ever.
_IDLE = 2.0
_AT_WORK = 30.0
# Nothing tells when a transaction of somebody else ends.
_SOON = 0.02


def outlast(connection: Connection, schema: str, run: int, worker: int) -> list[Backend]:
    """Wait for transactions of a worker in a schema; end, and return, those that take too long."""
    begun, ended = time.monotonic(), list[Backend]()
    while found := backends.of_worker_in(connection, schema, run, worker):
        waited = time.monotonic() - begun
        if waited > _IDLE:
            late = [one for one in found if one.is_idle or waited > _AT_WORK]
            backends.end_these(connection, late)
            ended += late
        time.sleep(_SOON)
    return ended
