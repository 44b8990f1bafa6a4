"""The database of a worker for classes with `own_database`: create, fill and drop it."""

from collections.abc import Callable

import psycopg

from . import databases, names, schemas, structure
from .host import PUBLIC
from .host_request import Log
from .lease import Lease
from .names import Marker, MarkerState
from .server import Connection
from .snapshot import Snapshot, refuse_database_changes
from .structure_script import CopyError
from .template import TemplateContents
from .worker_schemas import SchemaSource


def create(source: SchemaSource, worker: int, create: Callable[[], object]) -> Lease:
    """Call `create`, mark the database that it creates, and return a lease on it.

    First drop the database of a dead process with the same worker number.
    """
    name = names.own_database(source.host, source.run, worker)
    with (
        source.server.maintenance() as maintenance,
        databases.hold_name(maintenance, source.request),
    ):
        databases.drop_of_run(maintenance, name, source.run)
        with databases.dropped_on_error(maintenance, name):
            create()
            marker = Marker(source.run, MarkerState.BUILDING, source.request)
            databases.mark(maintenance, name, marker)
            return Lease(source.server.connect(name), source.run)


def mark_ready(source: SchemaSource, worker: int, connection: Connection) -> None:
    """Mark the database as ready for tests."""
    name = names.own_database(source.host, source.run, worker)
    databases.mark(connection, name, Marker(source.run, MarkerState.READY, source.request))


def fill(
    source: SchemaSource, worker: int, connection: Connection, *, keep_template: bool
) -> str | None:
    """Copy the template of the host database to `public`.

    Return the name of a copy of the template if resets need it, or if `keep_template` is set;
    otherwise None. Raises CopyError.
    """
    with source.connect(worker) as host:
        refuse_database_changes(host)
        assert source.template is not None
        snapshot = Snapshot.of_template(host, source.template, fingerprint="", made=0, extra={})
    copied, _ = snapshot.restore_template(
        connection, Marker(source.run, MarkerState.READY), path=(), extensions=PUBLIC
    )
    copied.copy(connection, PUBLIC, batch=source.batch)
    _verify(copied.read_contents(connection), connection)
    if keep_template or copied.contents.marked:
        return copied.name
    # Tests that query the catalog should find the same schemas as with stock Django.
    schemas.drop(connection, copied.name, source.run, batch=source.batch)
    return None


def _verify(contents: TemplateContents, connection: Connection) -> None:
    """Raise CopyError if `public` lacks objects of the template's inventory."""
    expected = _comparable(contents.inventory)
    actual = _comparable(structure.inventory(connection, PUBLIC))
    # `public` also has the members of extensions.
    if missing := structure.differences(expected, expected & actual):
        raise CopyError(*missing)


def _comparable(inventory: frozenset[str]) -> frozenset[str]:
    """Remove from an inventory what differs between a worker's schema and `public`."""
    return frozenset(
        fact.replace("public.", "")
        for fact in inventory
        if not fact.startswith("schema privileges")
    )


def drop(source: SchemaSource, worker: int) -> None:
    """Drop the database of a worker."""
    with source.server.maintenance() as maintenance:
        name = names.own_database(source.host, source.run, worker)
        databases.drop_of_run(maintenance, name, source.run)


def drop_all(source: SchemaSource, log: Log) -> None:
    """Drop the remaining databases of this run, for instance those of killed workers."""
    with source.server.maintenance() as maintenance:
        rows = maintenance.execute("SELECT datname FROM pg_catalog.pg_database").fetchall()
        # The name contains the run, which is sufficient proof: a marker may be missing.
        for name in [name for (name,) in rows if names.is_own_database(name, source.run)]:
            try:
                databases.drop_of_run(maintenance, name, source.run)
            except psycopg.Error as error:
                log(f"Database {name!r} is left for the next run to remove: {error}")
