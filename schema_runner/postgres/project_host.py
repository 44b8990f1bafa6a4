"""The project's own database as a host: schemas beside what users work with."""

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
from .host_request import HostRequest
from .lease import Lease
from .names import Marker, MarkerState
from .reset import vacuum
from .server import Connection

if TYPE_CHECKING:
    from .template import Template

# Of what is on the project's own path: where extensions are, whose types and functions the
# tests need. Elsewhere there is nothing but the project's tables, which they must not find.
_PATH = """
    SELECT schema
    FROM pg_catalog.unnest(%s::name[]) WITH ORDINALITY AS path (schema, nth)
    WHERE EXISTS (SELECT FROM pg_catalog.pg_extension
                  JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace WHERE nspname = schema)
      AND schema <> %s
    ORDER BY nth
"""


class ProjectDatabase(Host):
    """A database that was there before the run and stays: nothing but schemas is made in it.

    A build creates its objects in the worker schema itself, ahead on the path. Extensions, of
    which a database has one each, go to a schema that the runs share and that the last of them
    removes.
    """

    extensions = names.EXTENSIONS_SCHEMA

    @classmethod
    def obtain(cls, request: HostRequest, build_lock: ExitStack) -> "ProjectDatabase":
        """Take a lease in the database and remove what dead runs have left there.

        Enter into `build_lock` what to leave once other runs can use what was built. Raises
        SchemaRunnerError if the role may not create schemas in it.
        """
        run = locks.new_run()
        request = request.of(run)
        with ExitStack() as taken:
            connection = taken.enter_context(closing(request.server.connect(request.name)))
            refuse_old_server(connection, request.oldest_version)
            sessions.refuse_transaction_pooler(connection, request.server)
            _refuse_without_right(connection)
            obstacles.refuse_observers(connection)
            request = request.on(connection)
            host = cls(request, request.name, Lease(connection, run))
            host.lease.share(locks.EXTENSIONS_IN_USE)
            projects = safe_search_path.default_search_path(connection)
            rows = connection.execute(_PATH, [projects, names.EXTENSIONS_SCHEMA])
            projects = [schema for (schema,) in rows]
            host.path = (names.EXTENSIONS_SCHEMA, *projects)
            host._remove_what_was_left()
            if not project_extensions.create_extensions_schema(connection):
                host.path = tuple(projects)
                # Whoever uses that removes it, beside this run too.
                host.lease.unshare(locks.EXTENSIONS_IN_USE)
            host._use_kept(build_lock)
            taken.pop_all()
        return host

    def _use_kept(self, build_lock: ExitStack) -> None:
        """Use what is kept, if it is wanted, and drop what is of no use to anybody."""
        connection = self.connection
        wanted, kept = self._request.wanted, None
        if wanted is not None:
            kept = pool.find_template(connection, wanted, self.path)
            if not kept:
                opening = self.connect()
                build_lock.enter_context(pool.build_lock(opening, wanted, self.log))
                kept = pool.find_template(connection, wanted, self.path)
            if not kept:
                pool.report_nearest(connection, wanted)
        others = {
            one.name: one.marker
            for one in pool.list_templates(connection)
            if not kept or one.name != kept.name
        }
        # A run that keeps nothing has no say in what others keep.
        spared = wanted.select_kept(others) if wanted else [*others]
        if kept:
            self.adopt(kept)
            if not self._is_usable(kept):
                self.template, self.leased, self.reference = None, None, None
        self.reap(spared)

    def _is_usable(self, kept: "Template") -> bool:
        """Whether a pool is there and has what it needs; drop it where it cannot have that."""
        markers = {one.name: one.marker for one in pool.list_templates(self.connection)}
        if kept.name not in markers:
            # Just before this run could hold it, one with --clear-pools has taken it away.
            return False
        # Few runs need it.
        from . import packed_templates

        if self.extensions not in self.path and (
            needed := packed_templates.needed_extensions(self.connection, kept)
        ):
            project_extensions.refuse_extensions_of_others(self.connection, needed)
        if packed_templates.unpack_template(self.connection, kept):
            return True
        schemas.drop(self.connection, kept.name, markers[kept.name].run, batch=self._batch)
        return False

    def _remove_what_was_left(self) -> None:
        """Remove extensions of a run that was killed, if no run is there to need them."""
        with self.lease.alone() as is_alone:
            if is_alone and (removed := self._remove_extensions()):
                left = ", ".join(f"extension {name}" for name in removed)
                self.log(f"Removed what an earlier run left in {self.name!r}: {left}.")

    def _remove_extensions(self) -> list[str]:
        connection, path = self.connection, self.path
        return project_extensions.remove_extensions(connection, path, self.log, batch=self._batch)

    def begin(self, worker: int) -> str | None:
        schema = schemas.create(self.connection, worker, self.lease.run)
        move.copy_grants(self.connection, "public", schema)
        self._building = schema
        return schema

    def finish(self, worker: int) -> str:
        marker = Marker(self.lease.run, MarkerState.READY)
        schemas.mark(self.connection, self._building, marker)
        self.source_schema = self._building
        return self._building

    def release(self, *, keep: bool) -> None:
        self.stop_dump()
        if not self.recovery.is_anything_left():
            return
        with closing(self.lease):
            connection, run = self.connection, self.lease.run
            sessions.end_tests_sessions(connection, self.name, run)
            wanted = self._request.wanted
            if wanted and self.template:
                with pool.record_use(connection, self.template, run, wanted.now):
                    pass
            if wanted or not keep:
                schemas.drop_remaining(connection, run, batch=self._batch)
            # What it cannot do is left to autovacuum. Afterwards, runs that begin have to wait.
            with suppress(psycopg.Error):
                vacuum.vacuum_catalogs(connection)
            if self.extensions in self.path and self.lease.leave_extensions():
                self._remove_extensions()


def _refuse_without_right(connection: Connection) -> None:
    row = connection.execute(
        "SELECT current_user, current_database(),"
        " pg_catalog.has_database_privilege(current_database(), 'CREATE')"
    ).fetchone()
    assert row is not None
    role, database, may_create = row
    if not may_create:
        grant = sql.SQL("GRANT CREATE ON DATABASE {} TO {};").format(
            sql.Identifier(database), sql.Identifier(role)
        )
        raise SchemaRunnerError(
            f"The role {role!r} may not create schemas in the database {database!r}. Have its "
            f"owner say: {grant.as_string()}"
        )
