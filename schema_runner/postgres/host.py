"""The databases that worker schemas live in: what those of both modes have in common."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from psycopg import sql

from . import names, schemas, sessions, structure
from .host_request import HostRequest
from .lease import Lease, LeaseRecovery
from .names import Marker, MarkerState
from .server import Connection

# Only runs that copy, keep or find a template need what makes one.
if TYPE_CHECKING:
    from .pg_dump import Dump, PgDump
    from .snapshot import Snapshot
    from .template import Template
    from .worker_schemas import SchemaSource

# Where stock Django's migrations make tables, and where extensions are.
PUBLIC = "public"


class Host:
    """The database that worker schemas live in, for as long as a run's lease lasts."""

    # What follows the worker schema on the search_path of its connections during a build.
    path: tuple[str, ...] = (PUBLIC,)
    # What comes between the two once it is over.
    shims_path: tuple[str, ...] = ()
    # Where extensions are put that all worker schemas of the database share.
    extensions = PUBLIC

    def __init__(self, request: HostRequest, name: str, lease: Lease) -> None:
        self.name = name
        self.lease = lease
        self.log = request.log
        self.server = request.server
        self.recovery = LeaseRecovery(self)
        # What this run has built, as long as that is to be there.
        self.source_schema: str | None = None
        # The template of this run, or of the pool that it uses, and what it has leased there.
        self.template: str | None = None
        self.leased: str | None = None
        # When that pool was made, in seconds since the Unix epoch.
        self.made = 0
        # The template from which resets restore: that one, or another with nothing but rows.
        self.reference: str | None = None
        self._request = request
        self._shims: str | None = None
        self._dump: Dump | None = None

    @cached_property
    def _batch(self) -> int:
        """How many tables one transaction may make, move or drop."""
        return self.lease.tables_per_transaction(self._request.workers)

    @property
    def connection(self) -> Connection:
        """The lease's connection, for what the run itself does in this database.

        Raises LeaseLostError.
        """
        self.recovery.insist()
        return self.lease.connection

    def connect(self) -> Connection:
        return self.server.connect(self.name)

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
        from . import advisory_locks

        connection = self.connection
        if collisions := advisory_locks.find_collisions(connection, schema):
            return collisions
        self._shims = schemas.create_shims_schema(connection, self.lease.run)
        advisory_locks.create_shims(connection, self._shims)
        schemas.mark(connection, self._shims, Marker(self.lease.run, MarkerState.READY))
        self._keep_shims()
        self.shims_path = (self._shims, "pg_catalog")
        return []

    def start_dump(self, source_schema: str, pg_dump: "PgDump") -> None:
        """Begin with a template of a schema: only rows may be added to it from now on."""
        self._dump = pg_dump.start(self.server, self.name, source_schema)

    def settle(self) -> None:
        """Leave the build: tests begin."""
        self.stop_dump()

    def stop_dump(self) -> None:
        if self._dump is not None:
            self._dump.close()
            self._dump = None

    def add_template(
        self, source_schema: str, extra: Mapping[str, Any], since: int | None
    ) -> None:
        """Make the template that is begun, which knows the `extra` facts. Raises CopyError.

        Rows that the transaction `since`, or a later one, has written are marked in it.
        """
        from .structure_script import TemplateContents
        from .template import Template

        assert self._dump is not None
        try:
            contents = TemplateContents.read(self.connection, source_schema, self._dump, self.path)
        finally:
            self.stop_dump()
        contents, marker = contents._replace(extra=extra), self._marker_of_template
        self.use(Template.create(self.connection, contents, marker, self.path, since))
        self._keep_shims()
        if self._request.wanted:
            schemas.mark_ready(self.connection, source_schema, self.lease.run)

    def add_reference(self, source_schema: str, since: int | None) -> None:
        """Copy the rows of `source_schema` for resets, unless a template has them."""
        if self.reference is None:
            from .template import Template

            path = [schema for schema in self.path if schema != source_schema]
            marker = Marker(self.lease.run, MarkerState.READY)
            template = Template.create_rows_only(
                self.connection, source_schema, marker, path, since
            )
            self.reference = template.name

    def restore(self, snapshot: "Snapshot") -> Callable[[], None]:
        """Make a template of a snapshot; return what undoes it. Raises SnapshotError."""
        missing = snapshot.missing_extensions(self.connection)
        template = snapshot.restore(
            self.connection,
            # As old as what it is made of.
            self._marker_of_template._replace(made=snapshot.made),
            path=self.path,
            extensions=self.extensions,
        )
        self.use(template)
        return partial(self._discard, template, list(missing))

    def _discard(self, template: "Template", extensions: list[str]) -> None:
        self.template, self.reference = None, None
        schemas.drop(self.connection, template.name, self.lease.run, batch=self._batch)
        for name in reversed(extensions):
            drop = sql.SQL("DROP EXTENSION IF EXISTS {}").format(sql.Identifier(name))
            self.connection.execute(drop)

    def snapshot(self, fingerprint: str, now: int) -> "Snapshot":
        """Return the template as it can be written to a file. Raises SnapshotError."""
        from .snapshot import Snapshot
        from .template import Template

        assert self.template is not None
        template = Template.read(self.connection, self.template, self.path)
        markers = {one.name: one.marker for one in schemas.list_own(self.connection)}
        # That of a pool may be older than this run.
        made = markers[self.template].made or now
        return Snapshot.from_template(self.connection, template, fingerprint, made)

    def prove_template(self) -> None:
        """Make sure that copies of the template are like the original. Raises CopyError."""
        from .template import Template

        assert self.template is not None
        if not Template.read(self.connection, self.template, self.path).is_verified:
            source = self.source("")._replace(is_pooled=False)
            source.drop(source.lease_or_copy(1))

    @property
    def _marker_of_template(self) -> Marker:
        run, wanted = self.lease.run, self._request.wanted
        return wanted.new_marker(run) if wanted else Marker(run, MarkerState.READY)

    def use(self, template: "Template") -> None:
        """Make schemas from that template, and keep it from being dropped."""
        self.template = self.reference = template.name
        self.lease.share(schemas.pool_lock_key(template.name))

    def adopt(self, template: "Template") -> None:
        """Use a pool, and lease worker 1's schema in it."""
        from .pool import lease_schema

        self.use(template)
        for schema in schemas.list_own(self.connection):
            if schema.pool == template.name and names.is_shims_schema(schema.name):
                self.shims_path = (schema.name, "pg_catalog")
            if schema.name == template.name:
                self.made = schema.marker.made
        self.leased = lease_schema(self.connection, template.name, 1, self.lease.run)

    def _keep_shims(self) -> None:
        if self._shims and self.template and self._request.wanted:
            marker = Marker(self.lease.run, MarkerState.KEPT, template=self.template)
            schemas.mark(self.connection, self._shims, marker)

    def source(self, source_schema: str, reasons: tuple[str, ...] = ()) -> "SchemaSource":
        """Describe a schema of this run so that workers can make others like it."""
        from .worker_schemas import SchemaSource

        is_built = not (self.template or reasons)
        return SchemaSource(
            server=self.server,
            host=self.name,
            request=self._request.name,
            run=self.lease.run,
            source_schema=source_schema,
            template=self.template,
            is_pooled=self.template is not None and self._request.wanted is not None,
            inventory=structure.inventory(self.connection, source_schema) if is_built else None,
            pg_dump=self._request.pg_dump,
            path=self.path,
            shims_path=self.shims_path,
            batch=self._batch,
            reasons=reasons,
        )

    def reap(self, spared: Collection[str] = ()) -> None:
        """Drop what dead runs have left, and pools that nobody uses, but for those `spared`."""
        alive = sessions.live_runs_without_lease(self.connection)
        for one in alive.values():
            self.log(f"Nothing of {one} is removed from {self.name!r}, nor what is kept there.")
        if reaped := schemas.sweep(
            self.connection, batch=self._batch, spared=spared, alive=alive.keys()
        ):
            left = ", ".join(reaped)
            self.log(f"Removed what an earlier run left in {self.name!r}: {left}.")
        if left_alone := schemas.list_left_by_other_roles(self.connection):
            self.log(
                f"Schemas in {self.name!r} are left alone: they belong to other roles: "
                f"{', '.join(left_alone)}. If nothing in them is needed, drop them: DROP SCHEMA"
            )

    def keep(self, schema: str, source: "SchemaSource | None") -> str:
        """Leave a schema in place as the run ends; return its name. See `Blueprint.keep`."""
        self.source_schema = self.leased = None
        self.recovery.is_anything_left()
        if source is not None:
            return source.keep_with(self.connection, schema)
        schemas.mark(self.connection, schema, Marker(self.lease.run, MarkerState.KEPT))
        return schema

    def is_there(self) -> bool:
        """Whether the database is still the one that the run has begun with."""
        return True

    def missing(self) -> list[str]:
        """Name what others have removed of what the run needs: all that does not come and go."""
        needed = {
            self.template,
            self.reference,
            self._shims,
            self.leased,
            self.source_schema,
            *self.shims_path,
        }
        found = {one.name for one in schemas.list_own(self.lease.connection)} | {"pg_catalog"}
        return [f"schema {name}" for name in needed if name and name not in found]

    def drop_worker(self, worker: int) -> None:
        """Drop all schemas that a worker has, and end what it still has open."""
        if not self.recovery.is_anything_left():
            return
        if worker == 1:
            self.source_schema = self.leased = None
        connection, run = self.connection, self.lease.run
        sessions.end_tests_sessions(connection, self.name, run, worker)
        for schema in schemas.list_of_worker(connection, run, worker):
            schemas.drop(connection, schema, run, batch=self._batch)
