"""The project's own database as the host database (`--host-database current`)."""

from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from ..errors import SchemaRunnerError
from . import (
    locks,
    move,
    names,
    obstacles,
    pool,
    project_extensions,
    safe_search_path,
    schemas,
    sessions,
)
from .capacity import refuse_old_server
from .host import Host
from .host_request import HostRequest, PoolCriteria
from .lease import Lease
from .names import Marker, MarkerState
from .reset import vacuum
from .server import Connection
from .structure_script import CopyError

if TYPE_CHECKING:
    from .template import Template

# The schemas on the project's own search_path that contain extensions, whose types and functions
# tests need. Tests must not find the project's tables in the others.
_PATH = """
    SELECT schema
    FROM pg_catalog.unnest(%s::name[]) WITH ORDINALITY AS path (schema, nth)
    WHERE EXISTS (SELECT FROM pg_catalog.pg_extension
                  JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace WHERE nspname = schema)
      AND schema <> %s
    ORDER BY nth
"""


class ProjectDatabase(Host):
    """A database that exists before and after the run, which creates only schemas in it.

    A build migrates in the worker schema, which comes first on the search_path. Extensions go to
    a schema that all runs share, because a database can have each extension only once. The last
    of these runs drops it.
    """

    extensions = names.EXTENSIONS_SCHEMA

    @classmethod
    def open(cls, request: HostRequest, build_lock: ExitStack) -> "ProjectDatabase":
        """Take a lease in the database, drop leftovers of dead runs, and look for a pool.

        The caller closes `build_lock` after the build. Raises SchemaRunnerError if the role may
        not create schemas, or if the server is too old.
        """
        run = locks.new_run()
        request = request.for_run(run)
        with ExitStack() as taken:
            connection = taken.enter_context(closing(request.server.connect(request.name)))
            refuse_old_server(connection, request.oldest_version)
            sessions.refuse_transaction_pooler(connection, request.server)
            _check_privilege(connection)
            obstacles.refuse_observers(connection)
            request = request.with_wanted(connection)
            host = cls(request, request.name, Lease(connection, run))
            host.lease.acquire_shared(locks.EXTENSIONS_IN_USE)
            projects = safe_search_path.default_search_path(connection)
            rows = connection.execute(_PATH, [projects, names.EXTENSIONS_SCHEMA])
            projects = [schema for (schema,) in rows]
            host.path = (names.EXTENSIONS_SCHEMA, *projects)
            host._remove_leftover_extensions()
            if not project_extensions.create_extensions_schema(connection):
                host.path = tuple(projects)
                # Other runs may drop the schema while this one lasts.
                host.lease.release_shared(locks.EXTENSIONS_IN_USE)
            host._use_pools(build_lock)
            taken.pop_all()
        return host

    def _use_pools(self, build_lock: ExitStack) -> None:
        """Use a kept pool if there is one for this run, and drop leftovers and unused pools."""
        wanted = self._request.wanted
        kept = self._find_pool(wanted, build_lock) if wanted else None
        others = pool.list_kept(self.connection)
        if kept:
            others.pop(kept.name, None)
        # A run that keeps nothing does not remove pools.
        spared = wanted.select_kept(others) if wanted else [*others]
        if kept:
            self.use_pool(kept)
            if not self._is_usable(kept):
                self._forget_pool()
        self.sweep(spared)

    def _find_pool(self, wanted: PoolCriteria, build_lock: ExitStack) -> "Template | None":
        if not wanted.sharing.stays:
            # For as long as the lease, so that the last one to leave waits for this run.
            self.lease.acquire_shared(wanted.lock)
        if kept := pool.find_template(self.connection, wanted, self.path):
            return kept
        build_lock.enter_context(pool.build_lock(self.connect(), wanted, self.log))
        if kept := pool.find_template(self.connection, wanted, self.path):
            build_lock.close()
        else:
            pool.report_nearest(self.connection, wanted)
        return kept

    def _is_usable(self, kept: "Template") -> bool:
        """Whether a pool still exists and can be unpacked; drop it if it cannot be unpacked."""
        markers = {schema.name: schema.marker for schema in pool.list_templates(self.connection)}
        if kept.name not in markers:
            # A run with --clear-pools dropped it before this run locked it.
            return False
        from .snapshot import create_missing_extensions

        if self.extensions not in self.path:
            needed = [
                name for name, _, schema in kept.contents.extensions if schema == self.extensions
            ]
            project_extensions.refuse_extensions_of_others(self.connection, needed)
        try:
            create_missing_extensions(self.connection, kept, self.extensions)
        except CopyError:
            schemas.drop(self.connection, kept.name, markers[kept.name].run, batch=self._batch)
            return False
        return True

    def _remove_leftover_extensions(self) -> None:
        """Drop the extensions of killed runs, unless another run uses the shared extensions."""
        with self.lease.exclude_other_runs(locks.EXTENSIONS_IN_USE) as is_alone:
            if is_alone and (removed := self._remove_extensions()):
                leftovers = ", ".join(f"extension {name}" for name in removed)
                self.log(f"Removed leftovers of an earlier run in {self.name!r}: {leftovers}.")

    def _remove_extensions(self) -> list[str]:
        return project_extensions.remove_extensions(self.connection, self.log, batch=self._batch)

    def begin_build(self, worker: int) -> str | None:
        schema = schemas.create(self.connection, worker, self.lease.run)
        move.copy_grants(self.connection, "public", schema)
        self.own_schema = schema
        return schema

    def finish_build(self, worker: int) -> str:
        assert self.own_schema is not None
        marker = Marker(self.lease.run, MarkerState.READY)
        schemas.mark(self.connection, self.own_schema, marker)
        return self.own_schema

    def release(self, *, keep: bool) -> None:
        self.stop_dump()
        if not self.recovery.can_clean_up():
            return
        with closing(self.lease):
            connection, run = self.connection, self.lease.run
            sessions.end_test_sessions(connection, self.name, run)
            wanted = self._request.wanted
            if wanted and self.template and self._request.keeps_pool:
                with pool.record_use(connection, self.template, run, wanted.now):
                    pass
            if wanted or not keep:
                schemas.drop_remaining(connection, run, batch=self._batch)
            if wanted and self.template and not self._request.keeps_pool:
                self._drop_shared_pool(self.template, wanted.lock)
            # Best effort: autovacuum does the rest. New runs wait for the lock taken afterwards.
            with suppress(psycopg.Error):
                vacuum.vacuum_catalogs(connection)
            if self.extensions in self.path:
                with self.lease.last_use(locks.EXTENSIONS_IN_USE) as is_last:
                    if is_last:
                        self._remove_extensions()

    def _drop_shared_pool(self, template: str, users: int) -> None:
        """Drop the pool unless other runs use it, or wait until they can."""
        self.lease.release_shared(schemas.pool_lock_key(template))
        with self.lease.last_use(users) as is_last:
            if is_last and not sessions.live_runs_without_lease(self.connection):
                for schema in schemas.list_own(self.connection):
                    if schema.pool == template:
                        schemas.drop_unused(self.connection, schema, batch=self._batch)


def _check_privilege(connection: Connection) -> None:
    ((role, database, may_create),) = connection.execute(
        "SELECT current_user, current_database(),"
        " pg_catalog.has_database_privilege(current_database(), 'CREATE')"
    ).fetchall()
    if not may_create:
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {};").format(
            sql.Identifier(database), sql.Identifier(role)
        )
        raise SchemaRunnerError(
            f"The role {role!r} may not create schemas in the database {database!r}. Ask its "
            f"owner to run: {grant.as_string()}"
        )
