"""What a worker needs to make a place of its own, like the one that the run has built."""

from typing import TYPE_CHECKING, NamedTuple

from ..errors import SchemaRunnerError
from . import move, names, prepared_transactions, schemas, sessions, structure
from .clones import CloneSource
from .names import Marker, MarkerState
from .schemas import OwnSchema
from .server import Connection, Server
from .structure_script import CopyError
from .template import Template

if TYPE_CHECKING:
    from .pg_dump import Dump


class SchemaSource(NamedTuple):
    """One host database as its workers find it, whatever process or machine they run on.

    `host` is its name, and `request` the one that was asked for. The run has built the schema
    `source_schema`. Others are copies from the `template` of that name, taken from its pool where
    it `is_pooled`, and proved to be copies by the program `pg_dump` if that names one; or else
    they are built likewise, with the `inventory` of the model. `path` follows a schema on the
    search_path, with `shims_path` in between once it is built. `batch` is how many tables one
    transaction may drop. `reasons` says why schemas cannot be made beside the model, if they
    cannot.
    """

    server: Server
    host: str
    request: str
    run: int
    source_schema: str
    path: tuple[str, ...]
    shims_path: tuple[str, ...]
    batch: int
    template: str | None = None
    is_pooled: bool = False
    inventory: frozenset[str] | None = None
    pg_dump: str | None = None
    reasons: tuple[str, ...] = ()

    def connect(self, worker: int | None) -> Connection:
        """Connect as a worker, so that the run can end what a dead one has left at work."""
        return self.server.connect(self.host, names.application(self.run, worker))

    def drop_leftovers(self, worker: int) -> None:
        """Remove what another process has left as this worker: one that was killed."""
        with self.connect(worker) as connection:
            sessions.end_tests_sessions(connection, self.host, self.run, worker)
            for schema in schemas.list_of_worker(connection, self.run, worker):
                if schema != self.source_schema:
                    schemas.drop(connection, schema, self.run, batch=self.batch)

    def create_schema(self, worker: int) -> str:
        """Create a schema in which nothing is built yet, and return its name."""
        with self.connect(worker) as connection:
            schema = schemas.create(connection, worker, self.run)
            move.copy_grants(connection, "public", schema)
        return schema

    def mark_built(self, schema: str) -> None:
        """Mark a schema as built; raise SchemaRunnerError where it differs from the model."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            wanted = self.inventory
            if wanted is None:
                wanted = self._read_template(connection).read_contents(connection).inventory
            found = structure.inventory(connection, schema)
            if different := structure.differences(wanted, found):
                raise SchemaRunnerError(
                    f"Schema {schema} has come out unlike {self.source_schema}, in "
                    f"{', '.join(different[:3])}: migrations found things of other schemas.\n"
                    f"Test without --parallel, or with --host-database test."
                )
            schemas.mark(connection, schema, Marker(self.run, MarkerState.READY))

    def lease_or_copy(self, worker: int) -> str:
        """Return a schema as the template has it; raise CopyError where there can be none."""
        with self.connect(worker) as connection:
            if pooled := self._lease(connection, worker):
                return pooled
            template = self._read_template(connection)
            if template.is_verified is False:
                raise CopyError("what an earlier copy has shown")
            schema = schemas.create(connection, worker, self.run)
            try:
                template.copy(connection, schema, batch=self.batch)
                template.verify(connection, schema, lambda: self._dump(connection, schema))
            except CopyError:
                schemas.drop(connection, schema, self.run, batch=self.batch)
                raise
            self._mark_ready(connection, schema)
        return schema

    def recreate(self, schema: str) -> None:
        """Have a schema be as the template has it, though its structure is another."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            template = self._read_template(connection)
            schemas.recreate(connection, schema, self.run, batch=self.batch)
            template.copy(connection, schema, batch=self.batch)
            self._mark_ready(connection, schema)

    def drop(self, schema: str) -> None:
        with self.connect(names.worker_of_schema(schema)) as connection:
            schemas.drop(connection, schema, self.run, batch=self.batch)

    def keep(self, schema: str) -> str:
        """Leave a schema in place as the run ends, and return its name."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            return self.keep_with(connection, schema)

    def keep_with(self, connection: Connection, schema: str) -> str:
        """Do the same on a given connection.

        The schema stays as tests left it. One of a pool is restored from the template or replaced.
        """
        found = {one.name: one for one in schemas.list_own(connection)}
        leased = found.get(schema) or OwnSchema(schema, Marker(self.run, MarkerState.READY))
        if leased.pool:
            return schema
        if not self.is_pooled:
            schemas.mark(connection, schema, Marker(self.run, MarkerState.KEPT))
            return schema
        # What a thread has left open may hold locks.
        sessions.end_tests_sessions(
            connection, self.host, self.run, names.worker_of_schema(schema)
        )
        prepared_transactions.roll_back(
            connection, prepared_transactions.of_schema(connection, schema)
        )
        from . import pool

        template = self._read_template(connection)
        return pool.return_schema(connection, template, leased, batch=self.batch)

    def _lease(self, connection: Connection, worker: int) -> str | None:
        if not self.is_pooled or self.template is None:
            return None
        from . import pool

        return pool.lease_schema(connection, self.template, worker, self.run)

    def _mark_ready(self, connection: Connection, schema: str) -> None:
        if self.is_pooled:
            schemas.mark_ready(connection, schema, self.run)
        else:
            schemas.mark(connection, schema, Marker(self.run, MarkerState.READY))

    def _dump(self, connection: Connection, schema: str) -> "Dump | None":
        """Begin with a dump of a schema; None where there is no program for it."""
        from .pg_dump import DumpError, PgDump

        try:
            program = PgDump.find(connection.info.server_version, self.pg_dump)
        except DumpError:
            return None
        return program.start(self.server, self.host, schema)

    def _read_template(self, connection: Connection) -> Template:
        assert self.template is not None
        return Template.read(connection, self.template, self.path)

    @property
    def clone_source(self) -> CloneSource:
        """The database that is cloned for workers that cannot have schemas."""
        return CloneSource(self.server, self.host, self.request, self.run)
