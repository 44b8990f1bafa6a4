"""Host databases: created, adopted and removed under an advisory lock."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from psycopg import errors, sql

from ..errors import SchemaRunnerError
from . import backends, locks, relocation, schemas
from .marker import Marker, State
from .server import Connection, Server

Log: TypeAlias = Callable[[str], None]

_STOCK_RUNNER = "test with django.test.runner.DiscoverRunner"
_LOCK_TIMEOUT = "60s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run asks for: a host database of this `name`.

    `create` makes it, and replaces one that is not ours, asking the user first. Where
    `is_projects_own`, a database of that name holds what users work with. `workers` is how many
    schemas are going to be dropped at once.
    """

    server: Server
    name: str
    create: Callable[[], None]
    is_projects_own: bool
    workers: int
    log: Log


@dataclass(frozen=True, slots=True)
class Build:
    """A worker schema in the making; `is_alone` if there is no other one in the database."""

    schema: str
    is_alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDatabase:
    """The database that worker schemas live in, for as long as a run's lease lasts."""

    server: Server
    name: str
    is_projects_own: bool
    lease: locks.Lease
    batch: int
    log: Log

    @classmethod
    def obtain(cls, request: Request) -> "HostDatabase":
        """Share the host database of live runs, or make a new one.

        One that is ours but that no live run uses is replaced: whatever the last run has left
        in it beside its schemas, this one begins without. Raises SchemaRunnerError where what
        would be replaced is not ours to remove.
        """
        server, name, run = request.server, request.name, locks.new_run()
        with server.maintenance() as maintenance, _held(maintenance, name):
            if not _is_shared(maintenance, request):
                request.create()
                _refuse_inheritance(maintenance, request)
                _mark(maintenance, name, Marker(run, State.READY))
            connection = server.connect(name)
            lease = locks.Lease(connection, run)
        return cls(
            server=server,
            name=name,
            is_projects_own=request.is_projects_own,
            lease=lease,
            batch=locks.tables_per_transaction(connection, request.workers),
            log=request.log,
        )

    def connect(self) -> Connection:
        return self.server.connect(self.name)

    @contextmanager
    def building(self, worker: int) -> Iterator[Build]:
        """Make a worker schema of what the body of the `with` creates in `public`.

        `public` is one build's at a time, and empty but for extensions before and after. The
        schema is marked ready only once everything has moved.
        """
        with self.lease.building(self._announce_wait), self.connect() as connection:
            self._clear_public(connection)
            is_alone = not schemas.found(connection)
            if not is_alone:
                _refuse_other_schemas(connection)
            name = schemas.create(connection, worker, self.lease.run)
            yield Build(name, is_alone)
            self._move_out_of_public(connection, name)
            schemas.mark(connection, name, Marker(self.lease.run, State.READY))

    def _announce_wait(self) -> None:
        self.log(f"Waiting for another run to finish its build in database {self.name!r}...")

    def _clear_public(self, connection: Connection) -> None:
        """Remove what a build that was cut off has left: it may still be half made."""
        backends.end_those_of_dead_runs(connection)
        if relocation.contents(connection, "public"):
            remains = schemas.create(connection, 1, self.lease.run)
            connection.execute(sql.SQL("SET lock_timeout = {}").format(_LOCK_TIMEOUT))
            try:
                relocation.move(connection, "public", remains, batch=self.batch)
            except errors.LockNotAvailable as error:
                raise SchemaRunnerError(
                    f"In database {self.name!r}, somebody's open transaction holds what a build "
                    f"that was cut off has left in public. End that session, and run again."
                ) from error
            finally:
                connection.execute("SET lock_timeout = 0")
            self.drop(remains)

    def _move_out_of_public(self, connection: Connection, schema: str) -> None:
        if left := relocation.move(connection, "public", schema, batch=self.batch):
            raise SchemaRunnerError(
                f"After the migrations these objects cannot be moved out of the schema "
                f"public of database {self.name!r}: {', '.join(map(str, left))}. Remove them "
                f"in a migration, or {_STOCK_RUNNER}."
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
        with (
            closing(self.lease),
            self.server.maintenance() as maintenance,
            _held(maintenance, self.name),
        ):
            needed = keep or self._is_occupied()
            if self.lease.leave_host() and not needed:
                self.lease.close()
                backends.end(maintenance, self.name, self.lease.run)
                _drop(maintenance, self.name)

    def _is_occupied(self) -> bool:
        with self.connect() as connection:
            if self.is_projects_own and (others := _of_others(connection)):
                self.log(f"Database {self.name!r} stays: it has {', '.join(others)}.")
                return True
            return bool(schemas.found(connection))


def _is_shared(maintenance: Connection, request: Request) -> bool:
    """Whether live runs use the database; if they do not, and it is ours, it is removed."""
    exists, marker = _look_up(maintenance, request.name)
    if not exists:
        return False
    if marker is None:
        if request.is_projects_own:
            raise _refusal(request, ["what is in it"])
        return False
    with request.server.connect(request.name) as connection:
        if locks.Lease.is_host_in_use(connection):
            return True
        if request.is_projects_own and (others := _of_others(connection)):
            raise _refusal(request, others)
        backends.end_those_of_dead_runs(connection)
        left = [schema.name for schema in schemas.found(connection)]
    try:
        _drop(maintenance, request.name)
    except errors.ObjectInUse:
        return True  # Somebody looks into it: then there is nothing for it but to share it.
    if left:
        request.log(f"Removed what an earlier run left in {request.name!r}: {', '.join(left)}.")
    return False


def _refuse_inheritance(maintenance: Connection, request: Request) -> None:
    """Refuse what CREATE DATABASE has copied: workers would share it, or lose it."""
    with request.server.connect(request.name) as connection:
        inherited = relocation.contents(connection, "public")
    if inherited:
        _drop(maintenance, request.name)
        raise SchemaRunnerError(
            f"A new database has objects in its schema public, from the template it is made "
            f"of: {', '.join(map(str, inherited))}. Workers cannot each have their own. Set "
            f'TEST["TEMPLATE"] to "template0", or {_STOCK_RUNNER}.'
        )


def _refuse_other_schemas(connection: Connection) -> None:
    """A schema that migrations make beside `public` cannot be made once more."""
    if others := schemas.others(connection):
        raise SchemaRunnerError(
            f"The migrations make schemas beside public, which all workers, and all runs at "
            f"the same time, would share: {', '.join(others)}. Run one at a time and without "
            f"--parallel, or {_STOCK_RUNNER}."
        )


def _refusal(request: Request, what: list[str]) -> SchemaRunnerError:
    return SchemaRunnerError(
        f"The tests would use the database {request.name!r} and remove it, but that is a NAME in "
        f"DATABASES, and it exists: tests would remove {', '.join(what)}. Give TEST another "
        f'"NAME", or leave it out. If nothing in it is needed, drop it: dropdb {request.name}'
    )


def _of_others(connection: Connection) -> list[str]:
    """Name what no build and no run of ours accounts for."""
    found = [str(one) for one in relocation.contents(connection, "public")]
    return found + [f"schema {name}" for name in schemas.others(connection)]


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


def _drop(maintenance: Connection, name: str) -> None:
    # Never with FORCE: that somebody is connected means that somebody needs it.
    maintenance.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
