"""Removal of databases that runs have made: not what a live run uses, nor what is not ours."""

from psycopg import errors

from ..errors import SchemaRunnerError
from ..wording import listing
from . import backends, beside, databases, locks, prepared, schemas
from .clones import Clones
from .databases import MarkedDatabase
from .marker import State
from .request import Request
from .server import Connection


def remove(
    maintenance: Connection, request: Request, database: MarkedDatabase
) -> list[str] | None:
    """Remove a database of ours unless it is needed; return the names of the schemas in it.

    Return None where it stays. The caller holds the name of the request.
    """
    name = database.name
    if is_in_use(maintenance, request, database):
        return None
    try:
        connection = request.server.connect(name)
    except SchemaRunnerError:
        return None  # Another role's, which does not let us in.
    with connection:
        in_use = locks.Lease.is_host_in_use(connection)
        if in_use or not _holds_nothing_else(connection, request, database):
            return None
        prepared.roll_back_all(connection)
        left = [schema.name for schema in schemas.found(connection)]
    try:
        databases.drop(maintenance, name)
    except (errors.ObjectInUse, errors.InsufficientPrivilege):
        return None  # Another session is connected to it, or it is another role's.
    return left


def leave(request: Request, name: str, why: str) -> None:
    """Say that a database is left alone, and how to remove it."""
    import shlex  # Runs seldom come to this.

    request.log(
        f"Database {name!r} is left alone: {why}. "
        f"If nothing in it is needed, drop it: dropdb {shlex.quote(name)}"
    )


def refusal(request: Request, what: list[str]) -> SchemaRunnerError:
    """Return the error for a database that the project's users work with."""
    return SchemaRunnerError(
        f"The tests would use the database {request.name!r} and remove it, but that is a NAME in "
        f"DATABASES, and it exists: tests would remove {', '.join(what)}. Give TEST another "
        f'"NAME", or leave it out. To make the schemas beside what is there, use '
        f"--host-database current. If nothing in it is needed, drop it: dropdb {request.name}"
    )


def is_in_use(maintenance: Connection, request: Request, database: MarkedDatabase) -> bool:
    """Whether a live run has it, as far as can be seen from outside."""
    marker, name = database.marker, database.name
    # A database that is cloned, or is a clone, has no lease in it.
    in_use = [marker.run]
    if marker.state is State.KEPT:
        in_use.append(Clones.lock_of(marker.template or name))
    if any(locks.is_held(maintenance, lock) for lock in in_use):
        return True
    alive = backends.alive_without_lease(maintenance)
    if any(locks.is_held(maintenance, lock) for lock in in_use):
        return True  # It has been taken again meanwhile.
    is_left = marker.run in alive or (bool(alive) and marker.state is State.KEPT)
    if is_left:
        request.log(f"Database {name!r} is left to {', '.join(alive.values())}.")
    return is_left


def _holds_nothing_else(
    connection: Connection, request: Request, database: MarkedDatabase
) -> bool:
    """Whether runs have made all that is in it; raise where it is the project's own."""
    name, found = database.name, beside.contents(connection)
    if found and request.is_projects_own and name == request.name:
        raise refusal(request, found)
    if foreign := beside.foreign(database.marker, found):
        leave(request, name, f"it has {listing(foreign)}, which no run has made")
    return not foreign
