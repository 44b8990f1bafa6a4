"""The host database, which holds the worker schemas: the base class of both modes."""

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from psycopg import sql

from . import locks, names, schemas, sessions, structure
from .host_request import HostRequest
from .lease import Lease, LeaseRecovery
from .names import Marker, MarkerState
from .server import Connection

# Imported by functions, because only runs that copy or keep schemas need them.
if TYPE_CHECKING:
    from .pg_dump import Dump, PgDump
    from .snapshot import Snapshot
    from .template import Template
    from .worker_schemas import SchemaSource

# The schema in which stock Django's migrations create tables and extensions.
PUBLIC = "public"


class Host:
    """The database that holds the worker schemas, while a run's lease on it lasts."""

    # The search_path after the worker schema.
    path: tuple[str, ...] = (PUBLIC,)
    # Schemas between the worker schema and `path` once the build is done.
    shims_path: tuple[str, ...] = ()
    # The schema of the extensions, which all worker schemas share.
    extensions = PUBLIC

    def __init__(self, request: HostRequest, name: str, lease: Lease) -> None:
        self.name = name
        self.lease = lease
        self.log = request.log
        self.server = request.server
        self.recovery = LeaseRecovery(self)
        # The schema of the request's worker, built here or leased from the pool, while it is used.
        self.own_schema: str | None = None
        # The template of this run, or of the pool that it uses.
        self.template: str | None = None
        # When that pool was created, in seconds since the Unix epoch.
        self.pool_created_at = 0
        # The template that resets restore rows from: `template`, or one that holds only rows.
        self.reference: str | None = None
        self._request = request
        self._shims: str | None = None
        self._dump: Dump | None = None

    @cached_property
    def _batch(self) -> int:
        """The number of tables that one transaction may create, move or drop."""
        return locks.tables_per_transaction(self.lease.connection, self._request.workers)

    @property
    def connection(self) -> Connection:
        """The lease's connection. Raises LeaseLostError if the lease cannot be recovered."""
        self.recovery.wait()
        return self.lease.connection

    def connect(self) -> Connection:
        return self.server.connect(self.name)

    def begin_build(self, worker: int) -> str | None:
        """Prepare a build; return the schema for its tables, or None for `public`."""
        raise NotImplementedError

    def finish_build(self, worker: int) -> str:
        """Turn the tables of a build into the worker's schema, and return its name."""
        raise NotImplementedError

    def release(self, *, keep: bool) -> None:
        """Drop the objects of this run, unless `keep`, and close the lease."""
        raise NotImplementedError

    def add_shims(self, schema: str) -> list[str]:
        """Create the shims, which separate the workers' advisory locks.

        With the shims, pg_catalog comes after the worker schema on the search_path. Return the
        objects of `schema` that would hide PostgreSQL's own; if there are any, create no shims.
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
        """Start pg_dump for the template of a schema, whose structure must not change any more."""
        self._dump = pg_dump.start(self.server, self.name, source_schema)

    def start_tests(self) -> None:
        """End the build, before the tests start."""
        self.stop_dump()

    def stop_dump(self) -> None:
        if self._dump is not None:
            self._dump.close()
            self._dump = None

    def create_template(
        self, source_schema: str, extra: Mapping[str, Any], since: int | None
    ) -> None:
        """Create the template from the running dump, and store the `extra` facts in it.

        Mark the rows that the transaction `since`, or a later one, wrote. Raises CopyError if
        the schema cannot be copied.
        """
        from .template import Template, TemplateContents

        assert self._dump is not None
        try:
            contents = TemplateContents.read(self.connection, source_schema, self._dump, self.path)
        finally:
            self.stop_dump()
        contents = contents._replace(extra=extra)
        marker = Marker(self.lease.run, MarkerState.READY)
        self._share(Template.create(self.connection, contents, marker, self.path, since))
        self._keep_shims()
        if self._request.wanted:
            schemas.mark_ready(self.connection, source_schema, self.lease.run)

    def create_reference(self, source_schema: str, since: int | None) -> None:
        """Copy the rows of `source_schema` for resets, unless a template holds them."""
        if self.reference is None:
            from .template import Template

            path = [schema for schema in self.path if schema != source_schema]
            marker = Marker(self.lease.run, MarkerState.READY)
            template = Template.create_rows_only(
                self.connection, source_schema, marker, path, since
            )
            self.reference = template.name

    def restore(self, snapshot: "Snapshot") -> Callable[[], None]:
        """Create the template from a snapshot; return a function that undoes this.

        Raises CopyError if the snapshot cannot be restored.
        """
        marker = Marker(self.lease.run, MarkerState.READY)
        template, created = snapshot.restore_template(
            self.connection, marker, path=self.path, extensions=self.extensions
        )
        # KEEP_DAYS counts from the creation of the snapshot.
        self._share(template, made=snapshot.made)
        return partial(self._discard, template, created)

    def _discard(self, template: "Template", extensions: list[str]) -> None:
        self._forget_pool()
        schemas.drop(self.connection, template.name, self.lease.run, batch=self._batch)
        # In the project's own database, other runs may use them by now.
        for name in reversed(extensions if self.extensions == PUBLIC else []):
            drop = sql.SQL("DROP EXTENSION IF EXISTS {}").format(sql.Identifier(name))
            self.connection.execute(drop)

    def snapshot(self, fingerprint: str, now: int) -> "Snapshot":
        """Return a snapshot of the template, for a file.

        Raises CopyError if a snapshot would not reproduce it.
        """
        from .snapshot import Snapshot
        from .template import Template

        assert self.template is not None
        template = Template.read(self.connection, self.template, self.path)
        markers = {schema.name: schema.marker for schema in schemas.list_own(self.connection)}
        # A pool's template may be older than this run.
        made = markers[self.template].made or now
        facts = {"fingerprint": fingerprint, "made": made, "extra": template.contents.extra}
        return Snapshot.of_template(self.connection, template.name, **facts)

    def verify_template(self) -> None:
        """Verify the template, unless it is verified already. See `SchemaSource.verify`."""
        from .template import Template

        assert self.template is not None
        if not Template.read(self.connection, self.template, self.path).is_verified:
            source = self.schema_source("")._replace(is_pooled=False)
            source.verify(self._request.worker)

    def _share(self, template: "Template", made: int | None = None) -> None:
        """Use a new template, and let other runs use it, but only once it is locked."""
        self.use_template(template)
        if wanted := self._request.wanted:
            marker = wanted.new_marker(self.lease.run)
            marker = marker._replace(made=made or marker.made)
            schemas.mark(self.connection, template.name, marker)

    def use_template(self, template: "Template") -> None:
        """Use this template for copies and resets, and lock it so that no run drops it."""
        self.template = self.reference = template.name
        self.lease.acquire_shared(schemas.pool_lock_key(template.name))

    def use_pool(self, template: "Template") -> None:
        """Use the pool of this template, and lease the schema of the request's worker from it."""
        from .pool import lease_schema

        self.use_template(template)
        for schema in schemas.list_own(self.connection):
            if schema.pool == template.name and names.is_shims_schema(schema.name):
                self.shims_path = (schema.name, "pg_catalog")
            if schema.name == template.name:
                self.pool_created_at = schema.marker.made
        worker, run = self._request.worker, self.lease.run
        self.own_schema = lease_schema(self.connection, template.name, worker, run)

    def _forget_pool(self) -> None:
        self.template = self.reference = self.own_schema = None

    def _keep_shims(self) -> None:
        if self._shims and self.template and (wanted := self._request.wanted):
            marker = Marker(self.lease.run, wanted.state, template=self.template)
            schemas.mark(self.connection, self._shims, marker)

    def schema_source(self, source_schema: str, reasons: tuple[str, ...] = ()) -> "SchemaSource":
        """Return what workers need to create schemas like `source_schema`.

        `reasons`: why they need databases instead, if they do.
        """
        from .worker_schemas import SchemaSource

        is_built = not (self.template or reasons)
        return SchemaSource(
            server=self.server,
            host=self.name,
            request=self._request.name,
            run=self.lease.run,
            source_schema=source_schema,
            template=self.template,
            is_pooled=self.template is not None and self._request.keeps_pool,
            inventory=structure.inventory(self.connection, source_schema) if is_built else None,
            pg_dump=self._request.pg_dump,
            path=self.path,
            shims_path=self.shims_path,
            batch=self._batch,
            reasons=reasons,
        )

    def sweep(self, spared: Collection[str] = ()) -> None:
        """Drop the schemas of dead runs, and unused pools except those in `spared`."""
        alive = sessions.live_runs_without_lease(self.connection)
        for run in alive.values():
            self.log(f"Removing no schemas from {self.name!r}: {run} is still connected.")
        if swept := schemas.sweep(
            self.connection, batch=self._batch, spared=spared, alive=alive.keys()
        ):
            self.log(f"Removed leftovers of an earlier run in {self.name!r}: {', '.join(swept)}.")
        if left_alone := schemas.list_left_by_other_roles(self.connection):
            self.log(
                f"Schemas in {self.name!r} are left alone because they belong to other roles: "
                f"{', '.join(left_alone)}. If you do not need them, drop them with DROP SCHEMA."
            )

    def keep_schema(self, schema: str, source: "SchemaSource | None") -> str:
        """Keep a schema after the run; return its name. See `SchemaSource.keep`."""
        self.own_schema = None
        self.recovery.can_clean_up()
        if source is not None:
            return source.keep_with(self.connection, schema)
        schemas.mark(self.connection, schema, Marker(self.lease.run, MarkerState.KEPT))
        return schema

    def exists(self) -> bool:
        """Whether the database still exists, and is not another one of the same name."""
        return True

    def missing_objects(self) -> list[str]:
        """List the schemas that the run needs and that others have dropped."""
        needed = {
            self.template,
            self.reference,
            self._shims,
            self.own_schema,
            *self.shims_path,
        }
        existing = {schema.name for schema in schemas.list_own(self.lease.connection)}
        existing |= {"pg_catalog"}
        return [f"schema {name}" for name in needed if name and name not in existing]

    def drop_worker_schemas(self, worker: int) -> None:
        """End the remaining sessions of a worker, and drop all of its schemas."""
        if not self.recovery.can_clean_up():
            return
        if worker == self._request.worker:
            self.own_schema = None
        connection, run = self.connection, self.lease.run
        sessions.end_test_sessions(connection, self.name, run, worker)
        for schema in schemas.list_of_worker(connection, run, worker):
            schemas.drop(connection, schema, run, batch=self._batch)
