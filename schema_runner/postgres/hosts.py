"""Host databases: created, adopted and removed under an advisory lock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from psycopg import errors, sql

from .. import names
from ..errors import SchemaRunnerError
from . import locks, relocation, schemas
from .marker import Marker, State
from .server import Connection, Server

Log: TypeAlias = Callable[[str], None]

_END_BACKENDS = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000)
    FROM pg_catalog.pg_stat_activity
    WHERE datname = %s AND application_name = %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDatabase:
    """The database that worker schemas live in, for as long as a run's lease lasts."""

    server: Server
    name: str
    lease: locks.Lease
    batch: int
    log: Log

    @classmethod
    def obtain(  # noqa: PLR0913
        cls,
        server: Server,
        name: str,
        *,
        run: int,
        workers: int,
        create: Callable[[], None],
        log: Log,
    ) -> "HostDatabase":
        """Adopt the host database of that name if it is ours, or have `create` make it.

        `create` is called as well where a database of that name is not ours: replacing it,
        asking the user first, is its business. The project's own database is refused.
        """
        with server.maintenance() as maintenance, _held(maintenance, name):
            exists, marker = _look_up(maintenance, name)
            if exists and name == server.params.get("dbname"):
                _refuse_unless_empty(server, name, marker)
            if marker is None:
                create()
                _mark(maintenance, name, Marker(run, State.READY))
            connection = server.connect(name)
            lease = locks.Lease(connection, run)
        batch = locks.tables_per_transaction(connection, workers)
        host = cls(server=server, name=name, lease=lease, batch=batch, log=log)
        if marker is None:
            host._refuse_inheritance(relocation.contents(connection, "public"))
        return host

    def _refuse_inheritance(self, inherited: list[relocation.SchemaObject]) -> None:
        """Refuse what CREATE DATABASE has copied: workers would share it, or lose it."""
        if inherited:
            self.release(keep=False)
            raise SchemaRunnerError(
                f"A new database has objects in its schema public, from the template it is made "
                f"of: {', '.join(map(str, inherited))}. Workers cannot each have their own. Set "
                f'TEST["TEMPLATE"] to "template0", or test with django.test.runner.DiscoverRunner.'
            )

    def connect(self) -> Connection:
        return self.server.connect(self.name)

    @contextmanager
    def building(self, worker: int) -> Iterator[str]:
        """Make a worker schema of what the body of the `with` creates in `public`.

        `public` is one build's at a time, and empty but for extensions before and after.
        Yield the schema's name; it is marked ready only once everything has moved.
        """
        with self.lease.building(self._announce_wait), self.connect() as connection:
            self._clear_public(connection)
            if worker > 1:
                self._refuse_other_schemas(connection)
            name = schemas.create(connection, worker, self.lease.run)
            yield name
            self._move_out_of_public(connection, name)
            schemas.mark(connection, name, Marker(self.lease.run, State.READY))

    def _announce_wait(self) -> None:
        self.log(f"Waiting for another run to finish its build in database {self.name!r}...")

    def _clear_public(self, connection: Connection) -> None:
        """Remove what a build that was cut off has left: it may still be half made."""
        if relocation.contents(connection, "public"):
            remains = schemas.create(connection, 1, self.lease.run)
            relocation.move(connection, "public", remains, batch=self.batch)
            self.drop(remains)

    def _refuse_other_schemas(self, connection: Connection) -> None:
        """A schema that migrations make beside `public` cannot be made once more."""
        if others := schemas.others(connection):
            raise SchemaRunnerError(
                f"The migrations make schemas of their own, which all workers would share: "
                f"{', '.join(others)}. Run without --parallel, or test with "
                f"django.test.runner.DiscoverRunner."
            )

    def _move_out_of_public(self, connection: Connection, schema: str) -> None:
        if left := relocation.move(connection, "public", schema, batch=self.batch):
            raise SchemaRunnerError(
                f"After the migrations these objects cannot be moved out of the schema "
                f"public of database {self.name!r}: {', '.join(map(str, left))}. Remove them "
                f"in a migration, or test with django.test.runner.DiscoverRunner."
            )
        relocation.repoint_routines(connection, "public", schema)
        relocation.copy_grants(connection, "public", schema)
        for routine in relocation.routines_naming(connection, "public", within=schema):
            self.log(
                f"Warning: the body of {routine} names the schema public, where no table of "
                f"yours is during tests. Leave the schema out, so that search_path decides."
            )

    def drop(self, schema: str) -> None:
        """Drop one of this run's schemas; do nothing if it is gone."""
        with self.connect() as connection:
            schemas.drop(connection, schema, self.lease.run, batch=self.batch)

    def keep(self, schema: str) -> None:
        """Mark a schema to stay when the run ends."""
        with self.connect() as connection:
            schemas.mark(connection, schema, Marker(self.lease.run, State.KEPT))

    def reap(self) -> list[str]:
        """Drop what runs that are no more have left; return the schemas' names."""
        with self.connect() as connection:
            return schemas.reap(connection, batch=self.batch)

    def release(self, *, keep: bool) -> None:
        """End the lease, and remove the database unless somebody needs it."""
        if self.lease.lost:
            self.log(f"The connection to {self.name!r} was lost; the next run cleans up there.")
            return
        with self.server.maintenance() as maintenance, _held(maintenance, self.name):
            with self.connect() as connection:
                occupied = bool(schemas.found(connection))
            last = self.lease.leave_host()
            self.lease.close()
            if keep or occupied or not last:
                return
            # What tests have left open, in threads that live on, would be in the way.
            maintenance.execute(_END_BACKENDS, [self.name, names.application(self.lease.run)])
            try:
                maintenance.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(self.name))
                )
            except errors.ObjectInUse as error:
                self.log(f"Database {self.name!r} stays, for the next run to remove: {error}")


def _held(maintenance: Connection, name: str) -> locks.Held:
    return locks.held(maintenance, locks.key(f"host database {name}"))


def _look_up(maintenance: Connection, name: str) -> tuple[bool, Marker | None]:
    row = maintenance.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database')"
        " FROM pg_catalog.pg_database WHERE datname = %s",
        [name],
    ).fetchone()
    return (True, Marker.parse(row[0])) if row else (False, None)


def _mark(maintenance: Connection, name: str, marker: Marker) -> None:
    maintenance.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), str(marker))
    )


def _refuse_unless_empty(server: Server, name: str, marker: Marker | None) -> None:
    """Refuse the project's own database, unless all it has been used for is our tests."""
    if marker is not None:
        with server.connect(name) as connection:
            if not relocation.contents(connection, "public"):
                return
    raise SchemaRunnerError(
        f'TEST["NAME"] is {name!r}, which is NAME, and that database exists: tests would remove '
        f'what is in it. Give TEST another "NAME", or leave it out for {"test_" + name!r}.'
    )
