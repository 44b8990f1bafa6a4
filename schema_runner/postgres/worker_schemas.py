"""Create the schemas of workers, like the one that the run has built."""

from typing import TYPE_CHECKING, NamedTuple

from ..errors import SchemaRunnerError, advice
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
    """How workers of a run create schemas in a host database. It can be pickled."""

    server: Server
    # The name of the host database, and the one that the run asked for.
    host: str
    request: str
    run: int
    # The schema that the run has built.
    source_schema: str
    # What follows a worker's schema on the search_path: after a build, `shims_path` comes first.
    path: tuple[str, ...]
    shims_path: tuple[str, ...]
    # How many tables one transaction may create or drop.
    batch: int
    # The template to copy. Without one, each worker runs the migrations.
    template: str | None = None
    # Whether the template belongs to a pool, from which to lease schemas.
    is_pooled: bool = False
    # The inventory of `source_schema`, to which each build is compared if there is no template.
    inventory: frozenset[str] | None = None
    # The path of pg_dump from the setting PG_DUMP.
    pg_dump: str | None = None
    # Why the other workers need databases instead, if they do.
    reasons: tuple[str, ...] = ()

    def connect(self, worker: int | None) -> Connection:
        """Connect with a worker's application_name, by which the run can end its sessions."""
        return self.server.connect(self.host, names.application_name(self.run, worker))

    def drop_leftovers(self, worker: int) -> None:
        """End the sessions and drop the schemas of a killed process with this worker number."""
        with self.connect(worker) as connection:
            sessions.end_test_sessions(connection, self.host, self.run, worker)
            for schema in schemas.list_of_worker(connection, self.run, worker):
                if schema != self.source_schema:
                    schemas.drop(connection, schema, self.run, batch=self.batch)

    def create_schema(self, worker: int) -> str:
        """Create an empty schema for a build, and return its name."""
        with self.connect(worker) as connection:
            schema = schemas.create(connection, worker, self.run)
            move.copy_grants(connection, "public", schema)
        return schema

    def mark_built(self, schema: str) -> None:
        """Mark a built schema as ready.

        Raises SchemaRunnerError if it differs from the first build.
        """
        with self.connect(names.worker_of_schema(schema)) as connection:
            wanted = self.inventory
            if wanted is None:
                wanted = self._read_template(connection).read_contents(connection).inventory
            built = structure.inventory(connection, schema)
            if differing := structure.differences(wanted, built):
                raise SchemaRunnerError(
                    f"Schema {schema} differs from {self.source_schema} in "
                    f"{', '.join(differing[:3])}: migrations found objects of other schemas.\n"
                    f"Run without {advice().workers}, or with {advice().host_test}."
                )
            schemas.mark(connection, schema, Marker(self.run, MarkerState.READY))

    def lease_or_copy(self, worker: int) -> str:
        """Lease a schema from the pool, or copy the template. Raises CopyError."""
        with self.connect(worker) as connection:
            if pooled := self._lease(connection, worker):
                return pooled
            template = self._read_template(connection)
            if template.is_verified is False:
                raise CopyError("an earlier copy differed")
            schema = schemas.create(connection, worker, self.run)
            try:
                template.copy(connection, schema, batch=self.batch)
                template.verify(connection, schema, lambda: self._dump(connection, schema))
            except CopyError:
                schemas.drop(connection, schema, self.run, batch=self.batch)
                raise
            self._mark_ready(connection, schema)
        return schema

    def verify(self, worker: int) -> None:
        """Make and drop a copy. If that fails, raises CopyError, and no run uses the template."""
        try:
            self.drop(self.lease_or_copy(worker))
        except CopyError:
            self.reject(worker)
            raise

    def reject(self, worker: int) -> None:
        """Keep other runs from using the template, because it cannot be copied."""
        with self.connect(worker) as connection:
            self._read_template(connection).reject(connection)

    def recreate(self, schema: str) -> None:
        """Drop a schema whose structure has changed, and copy the template to the same name."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            template = self._read_template(connection)
            schemas.recreate(connection, schema, self.run, batch=self.batch)
            template.copy(connection, schema, batch=self.batch)
            self._mark_ready(connection, schema)

    def drop(self, schema: str) -> None:
        """Drop a schema of this run."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            schemas.drop(connection, schema, self.run, batch=self.batch)

    def keep(self, schema: str) -> str:
        """Keep a schema when the run ends; return the name of the kept one."""
        with self.connect(names.worker_of_schema(schema)) as connection:
            return self.keep_with(connection, schema)

    def keep_with(self, connection: Connection, schema: str) -> str:
        """Keep a schema, using this connection.

        A schema of a pool is restored from the template, or replaced. Any other stays as tests
        left it.
        """
        by_name = {own.name: own for own in schemas.list_own(connection)}
        leased = by_name.get(schema) or OwnSchema(schema, Marker(self.run, MarkerState.READY))
        if leased.pool:
            return schema
        if not self.is_pooled:
            schemas.mark(connection, schema, Marker(self.run, MarkerState.KEPT))
            return schema
        # Sessions that tests left open may hold locks.
        sessions.end_test_sessions(connection, self.host, self.run, names.worker_of_schema(schema))
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
        """Start a dump of a schema; return None if there is no pg_dump for the server."""
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
        """The database to clone for workers that cannot have schemas."""
        return CloneSource(self.server, self.host, self.request, self.run)
