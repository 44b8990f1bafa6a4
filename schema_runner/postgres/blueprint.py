"""What a worker needs to make a place of its own, like the one that the run has built."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .. import names
from ..errors import SchemaRunnerError
from . import backends, catalog, databases, locks, relocation, schemas
from .marker import Marker, State
from .server import Connection, Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """One host database as its workers find it, whatever process or machine they run on.

    `host` is its name, and `request` the one that was asked for. `model` is the schema that the
    run has built, and `structure` what `catalog.digest` returned of it then. `path` follows a
    schema on the search_path, with `ahead` in between once it is built. `batch` is how many
    tables one transaction may drop. `reasons` says why schemas cannot be built beside the
    model, if they cannot.
    """

    server: Server = field(repr=False)
    host: str
    request: str
    run: int
    model: str
    structure: str
    path: tuple[str, ...]
    ahead: tuple[str, ...]
    batch: int
    reasons: tuple[str, ...] = ()

    def connect(self, worker: int | None) -> Connection:
        """Connect as a worker, so that the run can end what a dead one has left at work."""
        return self.server.connect(self.host, names.application(self.run, worker))

    def clear(self, worker: int) -> None:
        """Remove what another process has left as this worker: one that was killed."""
        with self.connect(worker) as connection:
            backends.end(connection, self.host, self.run, worker)
            for schema in schemas.of_worker(connection, self.run, worker):
                if schema != self.model:
                    schemas.drop(connection, schema, self.run, batch=self.batch)

    def begin(self, worker: int) -> str:
        """Create a schema in which nothing is built yet, and return its name."""
        with self.connect(worker) as connection:
            schema = schemas.create(connection, worker, self.run)
            relocation.copy_grants(connection, "public", schema)
        return schema

    def finish(self, schema: str) -> None:
        """Mark a schema as built; raise SchemaRunnerError where it differs from the model."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            if catalog.digest(connection, schema) != self.structure:
                different = catalog.differences(connection, self.model, schema)
                listed = ", ".join(different[:3]) or "what tests have changed by now"
                raise SchemaRunnerError(
                    f"Schema {schema} has come out unlike {self.model}, in {listed}: migrations "
                    f"found things of other schemas.\nTest without --parallel, or with "
                    f"--host-database test."
                )
            schemas.mark(connection, schema, Marker(self.run, State.READY))

    def drop(self, schema: str) -> None:
        with self.connect(names.worker_of_schema(schema)) as connection:
            schemas.drop(connection, schema, self.run, batch=self.batch)

    def keep(self, schema: str) -> None:
        """Mark a schema to stay when the run ends."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            schemas.mark(connection, schema, Marker(self.run, State.KEPT))

    @contextmanager
    def database(self, worker: int) -> Iterator[None]:
        """Have the body of the `with` create a database for this worker, and mark it."""
        name = names.clone_database(self.host, worker)
        with (
            self.server.maintenance() as maintenance,
            locks.held(maintenance, locks.key(f"host database {self.request}")),
            databases.creation(maintenance, name),
        ):
            backends.end(maintenance, name, self.run)
            yield
            databases.mark(maintenance, name, Marker(self.run, State.READY, self.request))

    def lease(self, worker: int) -> locks.Lease:
        """Hold this worker's database, as no lease of another process does."""
        return locks.Lease(self.server.connect(names.clone_database(self.host, worker)), self.run)
