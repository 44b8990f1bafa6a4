"""Removal of all that runs have kept for each other, whatever their fingerprints."""

from typing import NamedTuple

from .. import names
from . import backends, databases, locks, removal, schemas
from .databases import MarkedDatabase
from .marker import State
from .request import Request


class Cleared(NamedTuple):
    """How much was removed, and how many pools others use."""

    pools: int = 0
    schemas: int = 0
    databases: int = 0
    in_use: int = 0

    def plus(self, other: "Cleared") -> "Cleared":
        return Cleared(*map(sum, zip(self, other, strict=True)))


def clear_databases(request: Request) -> Cleared:
    """Remove the databases that are kept under the name of a request, with all pools in them."""
    cleared, told = Cleared(), list[str]()
    # Where something is left alone for another reason, that is told.

    def tell(text: str) -> None:
        told.append(text)
        request.log(text)

    own = request._replace(log=tell)
    with request.server.maintenance() as maintenance, request.holding_name(maintenance):
        for database in _kept(databases.requested_as(maintenance, request.name)):
            is_pool = database.marker.template in {None, database.name}
            told.clear()
            left = removal.remove(maintenance, own, database)
            if left is None:
                cleared = cleared.plus(Cleared(in_use=is_pool and not told))
            else:
                workers = sum(names.worker_of_schema(name) is not None for name in left)
                cleared = cleared.plus(Cleared(is_pool, workers, databases=1))
    return cleared


def _kept(found: list[MarkedDatabase]) -> list[MarkedDatabase]:
    """Select what is kept; clones come before what they are clones of."""
    kept = [one for one in found if one.marker.state is State.KEPT]
    return sorted(kept, key=lambda one: one.marker.template == one.name)


def clear_schemas(request: Request) -> Cleared:
    """Remove all pools in the project's own database."""
    with request.server.connect(request.name) as connection:
        batch = locks.tables_per_transaction(connection, request.workers)
        kept = [schema for schema in schemas.found(connection) if schema.pool is not None]
        alive = backends.alive_without_lease(connection) if kept else {}
        dropped = {
            schema.name
            for schema in kept
            if not alive and schemas.drop_unused(connection, schema, batch=batch)
        }
    pools = {schema.name for schema in kept if schema.name == schema.pool}
    workers = [name for name in dropped if names.worker_of_schema(name) is not None]
    return Cleared(len(pools & dropped), len(workers), in_use=len(pools - dropped))
