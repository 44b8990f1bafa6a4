"""The databases that worker schemas live in: what those of both modes have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import SchemaRunnerError
from . import backends, catalog, locks, schemas, shims
from .blueprint import Blueprint
from .marker import Marker, State
from .server import Connection, Server

Log: TypeAlias = Callable[[str], None]

# Where stock Django's migrations make tables, and where extensions are.
PUBLIC = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run asks for: a host database of this `name`.

    Where `is_projects_own`, a database of that name holds what users work with. `workers` is
    how many schemas are going to be dropped at once, `oldest_version` the least server version
    that will do, as libpq counts them (150004 is 15.4).
    """

    server: Server
    name: str
    is_projects_own: bool
    workers: int
    oldest_version: int
    log: Log


class Host:
    """The database that worker schemas live in, for as long as a run's lease lasts."""

    # What follows the worker schema on the search_path of its connections during a build.
    path: tuple[str, ...] = (PUBLIC,)
    # What comes between the two once it is over.
    ahead: tuple[str, ...] = ()
    # Where extensions are put that all worker schemas of the database share.
    extensions = PUBLIC

    def __init__(self, request: Request, name: str, lease: locks.Lease) -> None:
        self.name = name
        self.lease = lease
        self.log = request.log
        self._server = request.server
        self._request = request
        self._shims: str | None = None
        with self.connect() as connection:
            self._batch = locks.tables_per_transaction(connection, request.workers)

    def connect(self) -> Connection:
        return self._server.connect(self.name)

    def begin(self, worker: int) -> str | None:
        """Prepare a build; return the schema that it is to create tables in, if not `public`."""
        raise NotImplementedError

    def finish(self, worker: int) -> str:
        """Make what a build has created the worker's schema, and return that."""
        raise NotImplementedError

    def release(self, *, keep: bool) -> None:
        """Drop what is left of this run, unless it is kept, and end the lease."""
        raise NotImplementedError

    def add_shims(self, schema: str) -> list[str]:
        """Give each worker advisory locks of its own from now on.

        This puts pg_catalog behind the worker schemas, all of which are like `schema`. Return
        what in that one would then be found instead of a thing of PostgreSQL's: if there is
        any, nothing is done.
        """
        with self.connect() as connection:
            if collisions := shims.collisions(connection, schema):
                return collisions
            self._shims = schemas.create_for_shims(connection, self.lease.run)
            shims.create(connection, self._shims)
            schemas.mark(connection, self._shims, Marker(self.lease.run, State.READY))
        self.ahead = (self._shims, "pg_catalog")
        return []

    def blueprint(self, model: str, reasons: tuple[str, ...] = ()) -> Blueprint:
        """Describe a schema of this run so that workers can make others like it."""
        with self.connect() as connection:
            structure = catalog.digest(connection, model)
        return Blueprint(
            server=self._server,
            host=self.name,
            request=self._request.name,
            run=self.lease.run,
            model=model,
            structure=structure,
            path=self.path,
            ahead=self.ahead,
            batch=self._batch,
            reasons=reasons,
        )

    def drop_worker(self, worker: int) -> None:
        """Drop all schemas that a worker has, and end what it still has open."""
        with self.connect() as connection:
            backends.end(connection, self.name, self.lease.run, worker)
            for schema in schemas.of_worker(connection, self.lease.run, worker):
                schemas.drop(connection, schema, self.lease.run, batch=self._batch)

    def keep(self, schema: str) -> None:
        """Mark a schema to stay when the run ends."""
        with self.connect() as connection:
            schemas.mark(connection, schema, Marker(self.lease.run, State.KEPT))


def refuse_old_server(connection: Connection, request: Request) -> None:
    """Raise SchemaRunnerError where the server is older than Django supports."""
    found, needed = connection.info.server_version, request.oldest_version
    if found < needed:
        raise SchemaRunnerError(
            f"The server is PostgreSQL {found // 10000}; this version of Django needs "
            f"{needed // 10000} or later. Use a newer server, or an older Django."
        )
