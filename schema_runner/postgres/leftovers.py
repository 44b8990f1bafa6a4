"""What a test has left open on the server, which would be in the way of a reset."""

import time

from . import backends, prepared
from .backends import Backend
from .server import Connection

# How long, in seconds, it may stay idle in a transaction, or prepared, and how long it may be at
# work. Stock Django's flush waits for ever.
_IDLE = 2.0
_AT_WORK = 30.0
# Nothing tells when a transaction of somebody else ends.
_SOON = 0.02


def outlast(connection: Connection, schema: str, run: int, worker: int) -> list[str]:
    """Wait for transactions of a worker in a schema; end, and describe, what takes too long."""
    begun, ended = time.monotonic(), list[str]()
    while backends.may_have_left(connection, run, worker):
        found = backends.of_worker_in(connection, schema, run, worker)
        gids = prepared.of_schema(connection, schema)
        if not found and not gids:
            break
        waited = time.monotonic() - begun
        if waited > _IDLE:
            late = [one for one in found if one.is_idle or waited > _AT_WORK]
            backends.end_these(connection, late)
            prepared.roll_back(connection, gids)
            ended += [_described(one) for one in late]
            ended += [f"{gid!r} as a prepared transaction, which was rolled back" for gid in gids]
        time.sleep(_SOON)
    return ended


def _described(backend: Backend) -> str:
    state = "idle in a transaction" if backend.is_idle else "at work"
    statement = backend.query.strip()[:200]
    return f"a connection {state}, which has been ended. Its last statement: {statement}"
