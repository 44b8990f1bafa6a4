"""Removal of all that runs have kept for each other, whatever their fingerprints.

What was removed is counted by what it is: "pool", "schema", "database"; and pools that live runs
use, which stay, as "pool in use".
"""

from collections import Counter

from .. import names
from . import backends, databases, locks, removal, schemas
from .marker import State
from .request import Request


def clear_databases(request: Request) -> Counter[str]:
    """Remove the databases that are kept under the name of a request, with all pools in them."""
    cleared, told = Counter[str](), list[str]()

    def tell(text: str) -> None:
        told.append(text)
        request.log(text)

    with request.server.maintenance() as maintenance:
        backends.refuse_shared(maintenance, request.server)
        with request.holding_name(maintenance):
            found = databases.requested_as(maintenance, request.name)
            # Clones before what they are clones of.
            found.sort(key=lambda one: one.marker.template == one.name)
            for one in [one for one in found if one.marker.state is State.KEPT]:
                is_pool = one.marker.template in {None, one.name}
                told.clear()
                left = removal.remove(maintenance, request._replace(log=tell), one)
                if left is not None:
                    workers = sum(names.worker_of_schema(name) is not None for name in left)
                    cleared.update({"pool": is_pool, "schema": workers, "database": 1})
                elif is_pool and not told:
                    cleared["pool in use"] += 1
    return cleared


def clear_schemas(request: Request) -> Counter[str]:
    """Remove all pools in the project's own database."""
    cleared = Counter[str]()
    with request.server.connect(request.name) as connection:
        backends.refuse_shared(connection, request.server)
        batch = locks.tables_per_transaction(connection, request.workers)
        kept = [schema for schema in schemas.found(connection) if schema.pool is not None]
        alive = backends.alive_without_lease(connection) if kept else {}
        for one in kept:
            is_pool = one.name == one.pool
            if not alive and schemas.drop_unused(connection, one, batch=batch):
                is_worker_s = names.worker_of_schema(one.name) is not None
                cleared.update({"pool": is_pool, "schema": is_worker_s})
            elif is_pool:
                cleared["pool in use"] += 1
    return cleared
