"""A database beside the host database for one worker alone: made, filled and dropped."""

from collections.abc import Callable

import psycopg

from . import databases, locks, names, schemas, sessions, structure
from .host import PUBLIC
from .host_request import Log
from .lease import Lease
from .names import Marker, MarkerState
from .server import Connection
from .snapshot import Snapshot, refuse_database_changes
from .structure_script import CopyError, TemplateContents
from .template import Template
from .worker_schemas import SchemaSource


def create(source: SchemaSource, worker: int, create: Callable[[], object]) -> Lease:
    """Call `create` for the database of this name, mark it, and return a lease on it.

    One that a process left which had the same number, and died, goes first.
    """
    name = names.own_database(source.host, source.run, worker)
    with (
        source.server.maintenance() as maintenance,
        locks.held(maintenance, locks.key(f"host database {source.request}")),
    ):
        _drop(maintenance, name, source.run)
        with databases.creation(maintenance, name):
            create()
            _mark(maintenance, source, name, MarkerState.BUILDING)
            return Lease(source.server.connect(name), source.run)


def mark_ready(source: SchemaSource, worker: int, connection: Connection) -> None:
    """Mark the database as what tests use."""
    name = names.own_database(source.host, source.run, worker)
    _mark(connection, source, name, MarkerState.READY)


def _mark(connection: Connection, source: SchemaSource, name: str, state: MarkerState) -> None:
    databases.mark(connection, name, Marker(source.run, state, source.request))


def fill(
    source: SchemaSource, worker: int, connection: Connection, *, keep_template: bool
) -> str | None:
    """Make in `public` what the template of the host database has.

    Return the name of a copy of the template, if resets have rows to restore from it. Raises
    CopyError or SnapshotError.
    """
    with source.connect(worker) as host:
        refuse_database_changes(host)
        assert source.template is not None
        template = Template.read(host, source.template, source.path)
        snapshot = Snapshot.from_template(host, template, fingerprint="", made=0)
    copied = snapshot.restore(
        connection, Marker(source.run, MarkerState.READY), path=(), extensions=PUBLIC
    )
    copied.copy(connection, PUBLIC, batch=source.batch)
    _prove(snapshot.contents, connection)
    if keep_template or copied.contents.marked:
        return copied.name
    # Tests of a class that looks into the catalog find nothing but what stock Django makes.
    schemas.drop(connection, copied.name, source.run, batch=source.batch)
    return None


def _prove(contents: TemplateContents, connection: Connection) -> None:
    """Raise CopyError where `public` lacks what a template says that copies have."""
    wanted, found = map(_comparable, (contents.inventory, structure.inventory(connection, PUBLIC)))
    # Besides, extensions have theirs there.
    if missing := structure.differences(wanted, wanted & found):
        raise CopyError(*missing)


def _comparable(inventory: frozenset[str]) -> frozenset[str]:
    """Return what is the same for a worker's schema and `public`, where its extensions are."""
    return frozenset(
        fact.replace("public.", "")
        for fact in inventory
        if not fact.startswith("schema privileges")
    )


def drop(source: SchemaSource, worker: int) -> None:
    with source.server.maintenance() as maintenance:
        _drop(maintenance, names.own_database(source.host, source.run, worker), source.run)


def drop_all(source: SchemaSource, log: Log) -> None:
    """Drop those of this run that are left: by workers which were killed, or as one was in use."""
    with source.server.maintenance() as maintenance:
        found = maintenance.execute("SELECT datname FROM pg_catalog.pg_database").fetchall()
        # The number of the run in the name is proof enough: a marker may be missing by now.
        for name in [name for (name,) in found if names.is_own_database(name, source.run)]:
            try:
                _drop(maintenance, name, source.run)
            except psycopg.Error as error:
                log(f"Database {name!r} stays, for the next run to remove: {error}")


def _drop(maintenance: Connection, name: str, run: int) -> None:
    sessions.end_tests_sessions(maintenance, name, run)
    databases.drop(maintenance, name)
