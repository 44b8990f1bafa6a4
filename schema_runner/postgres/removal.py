"""Dropping and renaming databases that runs created, and checking their contents."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import psycopg
from psycopg import errors, sql

from ..errors import SchemaRunnerError, advice, listing
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
    """Drop a database of runs and return the names of the schemas that it contained.

    Return None if the database stays, because it is in use or contains objects of others. The
    caller holds the lock of the request's name.
    """
    name = database.name
    if is_in_use(maintenance, request, database):
        return None
    try:
        connection = request.server.connect(name)
    except SchemaRunnerError:
        return None  # It belongs to another role, and this one may not connect.
    with connection:
        in_use = Lease.is_host_in_use(connection)
        if in_use or not _has_only_our_objects(connection, request, database):
            return None
        prepared_transactions.roll_back_all(connection)
        schema_names = [schema.name for schema in schemas.list_own(connection)]
    try:
        databases.drop(maintenance, name)
    except (errors.ObjectInUse, errors.InsufficientPrivilege):
        return None  # Another session is connected to it, or it belongs to another role.
    return schema_names


def log_left_alone(request: HostRequest, name: str, why: str) -> None:
    """Log that a database is left alone, why, and how to drop it."""
    import shlex  # Rarely needed.

    request.log(
        f"Database {name!r} is left alone: {why}. "
        f"If you do not need it, drop it: dropdb {shlex.quote(name)}"
    )


def projects_database_error(request: HostRequest, what: list[str]) -> SchemaRunnerError:
    """Return the error for a request that would replace one of the project's databases.

    `what`: the objects that would be lost.
    """
    return SchemaRunnerError(
        f"The name of the test database, {request.name!r}, is also a NAME in DATABASES, and that "
        f"database exists: tests would remove {', '.join(what)}. Set another TEST NAME, or none. "
        f"To create the schemas next to the existing tables, use {advice().host_current}. If you "
        f"do not need the database, drop it: dropdb {request.name}"
    )


def is_in_use(maintenance: Connection, request: HostRequest, database: MarkedDatabase) -> bool:
    """Whether a live run uses a database, as far as connections to another database can tell."""
    marker, name = database.marker, database.name
    # No lease is held in a clone or in its source.
    in_use = [marker.run]
    if marker.is_for_other_runs:
        in_use.append(Clones.lock_key(marker.template or name))
    if any(locks.is_held(maintenance, lock) for lock in in_use):
        return True
    alive = sessions.live_runs_without_lease(maintenance)
    if any(locks.is_held(maintenance, lock) for lock in in_use):
        return True  # The run recovered its lease in the meantime.
    may_be_used = marker.run in alive or (bool(alive) and marker.is_for_other_runs)
    if may_be_used:
        runs = " and ".join(alive.values())
        request.log(f"Database {name!r} is left alone: {runs} may be using it.")
    return may_be_used


def _has_only_our_objects(
    connection: Connection, request: HostRequest, database: MarkedDatabase
) -> bool:
    """Whether runs created everything in the database; log or raise if not."""
    name, found = database.name, objects_outside_runs(connection)
    if found and request.is_projects_own and name == request.name:
        raise projects_database_error(request, found)
    known = database.marker.beside
    if foreign := [] if known is None else sorted({*found} - {*known}):
        log_left_alone(request, name, f"it contains {listing(foreign)}, which no run created")
    return not foreign


def rename_kept_database(request: HostRequest) -> None:
    """Rename a kept database that has the requested name, and drop its clones.

    Later runs find it under the new name. Raises SchemaRunnerError if it is in use.
    """
    old = request.name
    with request.server.maintenance() as maintenance, request.hold_name(maintenance):
        found = databases.for_request(maintenance, old)
        marker = dict(found).get(old)
        if marker is None or marker.state is not MarkerState.KEPT:
            return
        if is_in_use(maintenance, request, MarkedDatabase(old, marker)):
            raise _in_use_error(old)
        for database in found:
            if database.marker.template == old and database.name != old:
                remove(maintenance, request, database)
        new = databases.alternative_pool_name(
            maintenance, old, str(marker.fingerprint), marker.run
        )
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        try:
            with maintenance.transaction():
                maintenance.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
                template = new if marker.template == old else marker.template
                databases.mark(maintenance, new, marker._replace(template=template))
        except errors.ObjectInUse as error:
            raise _in_use_error(old) from error
    request.log(f"Renamed database {old!r}, kept by earlier runs, to {new!r}.")


def _in_use_error(name: str) -> SchemaRunnerError:
    return SchemaRunnerError(
        f"Database {name!r}, kept by earlier runs, is in use. Try again later, or run without "
        f"{advice().isolation_database}."
    )


def clear_databases(request: HostRequest) -> Counter[str]:
    """Drop the databases kept for requests of this name, with the pools in them.

    Return how many of each "pool", "schema" and "database" were dropped, and of "pool in use".
    """
    cleared, logged = Counter[str](), list[str]()

    def log(text: str) -> None:
        logged.append(text)
        request.log(text)

    with request.server.maintenance() as maintenance:
        sessions.refuse_transaction_pooler(maintenance, request.server)
        with request.hold_name(maintenance):
            found = databases.for_request(maintenance, request.name)
            kept = [database for database in found if database.marker.state is MarkerState.KEPT]
            # Clones before their source.
            for database in sorted(kept, key=lambda kept: kept.marker.template == kept.name):
                is_pool = database.marker.template in {None, database.name}
                logged.clear()
                removed = remove(maintenance, request._replace(log=log), database)
                if removed is not None:
                    workers = sum(names.worker_of_schema(name) is not None for name in removed)
                    cleared.update({"pool": is_pool, "schema": workers, "database": 1})
                elif is_pool and not logged:
                    cleared["pool in use"] += 1
    return cleared


def clear_schemas(request: HostRequest) -> Counter[str]:
    """Drop all pools in the project's own database.

    Return how many of each "pool" and "schema" were dropped, and of "pool in use".
    """
    cleared = Counter[str]()
    with request.server.connect(request.name) as connection:
        sessions.refuse_transaction_pooler(connection, request.server)
        batch = locks.tables_per_transaction(connection, request.workers)
        kept = [schema for schema in schemas.list_own(connection) if schema.pool is not None]
        alive = sessions.live_runs_without_lease(connection) if kept else {}
        for schema in kept:
            is_pool = schema.name == schema.pool
            if not alive and schemas.drop_unused(connection, schema, batch=batch):
                is_worker_schema = names.worker_of_schema(schema.name) is not None
                cleared.update({"pool": is_pool, "schema": is_worker_schema})
            elif is_pool:
                cleared["pool in use"] += 1
    return cleared


def objects_outside_runs(connection: Connection) -> list[str]:
    """List the objects in `public`, and the schemas that neither runs nor extensions own."""
    found = [str(item) for item in move.list_objects(connection, PUBLIC)]
    return found + [f"schema {name}" for name in schemas.list_others(connection)]


def with_new_objects(marker: Marker, before: Iterable[str], after: Iterable[str]) -> Marker:
    """Add the objects that tests created, those in `after` and not in `before`, to the marker."""
    if marker.beside is None:
        return marker
    return marker._replace(beside=tuple(sorted({*marker.beside} | ({*after} - {*before}))))


def drop_unmarked_copies(
    maintenance: Connection, server: Server, candidates: Iterable[Database], source: str
) -> list[str]:
    """Drop the candidates without a comment that equal `source`; return their names."""
    dropped = []
    for database in candidates:
        name = database.name
        is_used = any(locks.is_held(maintenance, run) for run in names.runs_in(name))
        if database.comment is not None or not database.is_ours or is_used:
            continue
        # Another session may be connected to it, for example.
        with suppress(psycopg.Error, SchemaRunnerError):
            with server.connect(name) as copy, server.connect(source) as original:
                is_unchanged = clones.row_versions(copy) == clones.row_versions(original)
            if is_unchanged:
                databases.drop(maintenance, name)
                dropped.append(name)
    return dropped
