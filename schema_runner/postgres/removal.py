"""Removal, renaming and contents of databases that runs have made."""

from collections import Counter
from collections.abc import Iterable

import psycopg
from psycopg import errors, sql

from ..errors import SchemaRunnerError, listing
from . import (
    clones,
    databases,
    locks,
    move,
    names,
    prepared_transactions,
    schemas,
    sessions,
)
from .clones import Clones
from .databases import Database, MarkedDatabase
from .host import PUBLIC
from .host_request import HostRequest
from .lease import Lease
from .names import Marker, MarkerState
from .server import Connection, Server


def remove(
    maintenance: Connection, request: HostRequest, database: MarkedDatabase
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
        in_use = Lease.is_host_in_use(connection)
        if in_use or not _holds_nothing_else(connection, request, database):
            return None
        prepared_transactions.roll_back_all(connection)
        left = [schema.name for schema in schemas.list_own(connection)]
    try:
        databases.drop(maintenance, name)
    except (errors.ObjectInUse, errors.InsufficientPrivilege):
        return None  # Another session is connected to it, or it is another role's.
    return left


def leave(request: HostRequest, name: str, why: str) -> None:
    """Say that a database is left alone, and how to remove it."""
    import shlex  # Runs seldom come to this.

    request.log(
        f"Database {name!r} is left alone: {why}. "
        f"If nothing in it is needed, drop it: dropdb {shlex.quote(name)}"
    )


def refusal(request: HostRequest, what: list[str]) -> SchemaRunnerError:
    """Return the error for a database that the project's users work with."""
    return SchemaRunnerError(
        f"The tests would use the database {request.name!r} and remove it, but that is a NAME in "
        f"DATABASES, and it exists: tests would remove {', '.join(what)}. Give TEST another "
        f'"NAME", or leave it out. To make the schemas beside what is there, use '
        f"--host-database current. If nothing in it is needed, drop it: dropdb {request.name}"
    )


def is_in_use(maintenance: Connection, request: HostRequest, database: MarkedDatabase) -> bool:
    """Whether a live run has it, as far as can be seen from outside."""
    marker, name = database.marker, database.name
    # A database that is cloned, or is a clone, has no lease in it.
    in_use = [marker.run]
    if marker.state is MarkerState.KEPT:
        in_use.append(Clones.lock_of(marker.template or name))
    if any(locks.is_held(maintenance, lock) for lock in in_use):
        return True
    alive = sessions.live_runs_without_lease(maintenance)
    if any(locks.is_held(maintenance, lock) for lock in in_use):
        return True  # It has been taken again meanwhile.
    is_left = marker.run in alive or (bool(alive) and marker.state is MarkerState.KEPT)
    if is_left:
        request.log(f"Database {name!r} is left to {', '.join(alive.values())}.")
    return is_left


def _holds_nothing_else(
    connection: Connection, request: HostRequest, database: MarkedDatabase
) -> bool:
    """Whether runs have made all that is in it; raise where it is the project's own."""
    name, found = database.name, objects_outside_runs(connection)
    if found and request.is_projects_own and name == request.name:
        raise refusal(request, found)
    if foreign := foreign_objects(database.marker, found):
        leave(request, name, f"it has {listing(foreign)}, which no run has made")
    return not foreign


def rename_kept(request: HostRequest) -> None:
    """Rename the database of the name of a request if it is kept, for later runs to find it.

    Its clones go. Raises SchemaRunnerError where a live run uses it.
    """
    old = request.name
    with request.server.maintenance() as maintenance, request.holding_name(maintenance):
        found = databases.requested_as(maintenance, old)
        kept = next((one for one in found if one.name == old), None)
        if kept is None or kept.marker.state is not MarkerState.KEPT:
            return
        if is_in_use(maintenance, request, kept):
            raise _in_use_error(old)
        for one in found:
            if one.marker.template == old and one.name != old:
                remove(maintenance, request, one)
        marker = kept.marker
        new = databases.free_name(maintenance, old, str(marker.fingerprint), marker.run)
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        try:
            with maintenance.transaction():
                maintenance.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
                template = new if marker.template == old else marker.template
                databases.mark(maintenance, new, marker._replace(template=template))
        except errors.ObjectInUse as error:
            raise _in_use_error(old) from error
    request.log(f"Renamed database {old!r}, which earlier runs have kept, to {new!r}.")


def _in_use_error(name: str) -> SchemaRunnerError:
    return SchemaRunnerError(
        f"Database {name!r}, which runs keep with --keepdb, is in use. Run again when it is not, "
        f"or without --isolation database."
    )


def clear_databases(request: HostRequest) -> Counter[str]:
    """Remove the databases that are kept under the name of a request, with all pools in them."""
    cleared, told = Counter[str](), list[str]()

    def tell(text: str) -> None:
        told.append(text)
        request.log(text)

    with request.server.maintenance() as maintenance:
        sessions.refuse_transaction_pooler(maintenance, request.server)
        with request.holding_name(maintenance):
            found = databases.requested_as(maintenance, request.name)
            # Clones before what they are clones of.
            found.sort(key=lambda one: one.marker.template == one.name)
            for one in [one for one in found if one.marker.state is MarkerState.KEPT]:
                is_pool = one.marker.template in {None, one.name}
                told.clear()
                left = remove(maintenance, request._replace(log=tell), one)
                if left is not None:
                    workers = sum(names.worker_of_schema(name) is not None for name in left)
                    cleared.update({"pool": is_pool, "schema": workers, "database": 1})
                elif is_pool and not told:
                    cleared["pool in use"] += 1
    return cleared


def clear_schemas(request: HostRequest) -> Counter[str]:
    """Remove all pools in the project's own database."""
    cleared = Counter[str]()
    with request.server.connect(request.name) as connection:
        sessions.refuse_transaction_pooler(connection, request.server)
        batch = locks.tables_per_transaction(connection, request.workers)
        kept = [schema for schema in schemas.list_own(connection) if schema.pool is not None]
        alive = sessions.live_runs_without_lease(connection) if kept else {}
        for one in kept:
            is_pool = one.name == one.pool
            if not alive and schemas.drop_unused(connection, one, batch=batch):
                is_worker_s = names.worker_of_schema(one.name) is not None
                cleared.update({"pool": is_pool, "schema": is_worker_s})
            elif is_pool:
                cleared["pool in use"] += 1
    return cleared


def objects_outside_runs(connection: Connection) -> list[str]:
    """Name what is in `public`, and the schemas that are neither ours nor an extension's."""
    found = [str(one) for one in move.list_objects(connection, PUBLIC)]
    return found + [f"schema {name}" for name in schemas.list_others(connection)]


def foreign_objects(marker: Marker, found: Iterable[str]) -> list[str]:
    """Return what of that no run accounts for, as far as the marker of the database tells."""
    return [] if marker.beside is None else sorted({*found} - {*marker.beside})


def with_new_objects(marker: Marker, before: Iterable[str], after: Iterable[str]) -> Marker:
    """Return the marker with what has come while tests were run, by `contents` of both times."""
    if marker.beside is None:
        return marker
    return marker._replace(beside=tuple(sorted({*marker.beside} | ({*after} - {*before}))))


def drop_unmarked_copies(
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
        and _drop_unmarked(maintenance, one.name)
    ]


def _is_copy(server: Server, name: str, source: str) -> bool:
    """Whether nothing has been written in a database since it was created from the other."""
    try:
        with server.connect(name) as one, server.connect(source) as other:
            return clones.row_versions(one) == clones.row_versions(other)
    except (psycopg.Error, SchemaRunnerError):
        return False


def _drop_unmarked(maintenance: Connection, name: str) -> bool:
    try:
        databases.drop(maintenance, name)
    except psycopg.Error:
        return False  # Another session is connected to it.
    return True
