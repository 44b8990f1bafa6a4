"""Choosing and locking the name of a host database, and using a kept one."""

from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from functools import partial

from psycopg import errors, sql

from ..errors import SchemaRunnerError, advice
from . import databases, locks, move, names, removal, sessions
from .capacity import refuse_old_server
from .databases import MarkedDatabase
from .host import PUBLIC
from .host_request import HostRequest, PoolCriteria
from .lease import Lease
from .names import Marker, MarkerState
from .server import Connection
from .test_host import HostDatabase


class Reservation:
    """A locked name for a new host database, or a kept database to use instead.

    The name is the requested one, unless a live run uses that database or a pool is kept in it.
    Databases of dead runs are dropped.

    `name`: the name of the database.
    `kept`: the kept host database that the run can use, or None if it must create one.
    """

    def __init__(self, request: HostRequest, build_lock: ExitStack) -> None:
        """Choose a database; the caller closes `build_lock` after the build.

        Raises SchemaRunnerError if the database of this name must not be replaced, if the role
        may not create databases, or if the server is too old.
        """
        self._run = locks.new_run()
        request = request.for_run(self._run)
        with ExitStack() as entered:
            self._maintenance = entered.enter_context(request.server.maintenance())
            refuse_old_server(self._maintenance, request.oldest_version)
            sessions.refuse_transaction_pooler(self._maintenance, request.server)
            _check_privilege(self._maintenance)
            self._request = request = request.with_wanted(self._maintenance)
            if request.wanted and not request.wanted.sharing.stays:
                # Held until this run has a lease, so that the last one to leave waits for it.
                lock = request.wanted.lock
                locks.acquire(self._maintenance, lock, "advisory_lock_shared")
            self.kept = self._find_kept()
            if request.wanted and not self.kept:
                from . import pool

                opening = request.server.maintenance()
                build_lock.enter_context(pool.build_lock(opening, request.wanted, request.log))
                self.kept = self._find_kept()
                if self.kept:
                    build_lock.close()
                else:
                    self._report_nearest_pool(request.wanted)
            if self.kept:
                self.name = self.kept.name
                self._entered = ExitStack()
            else:
                entered.enter_context(request.hold_name(self._maintenance))
                self.name = self._choose_name()
                self._entered = entered.pop_all()

    def create_host(self, create: Callable[[], object]) -> "HostDatabase":
        """Call `create` to create the database, and release the lock of its name.

        Django's `create` raises SystemExit if that fails.
        """
        with self._entered:
            try:
                return self._create_host(create)
            except SystemExit as error:
                if not isinstance(
                    getattr(error.__context__, "__cause__", None), errors.UniqueViolation
                ):
                    raise
                # A dead run's session has just finished its own CREATE DATABASE of this name.
                self.name = self._choose_name()
                return self._create_host(create)

    def _create_host(self, create: Callable[[], object]) -> "HostDatabase":
        request = self._request
        with databases.dropped_on_error(self._maintenance, self.name), ExitStack() as opened:
            create()
            marker = self._marker
            databases.mark(self._maintenance, self.name, marker)
            connection = opened.enter_context(closing(request.server.connect(self.name)))
            lease = Lease(connection, self._run)
            inherited = [str(item) for item in move.list_objects(connection, PUBLIC)]
            self._drop_unmarked(partial(names.is_named_after_run, hosts=self._hosts), self.name)
            opened.pop_all()
        return HostDatabase(request, self.name, lease, marker, inherited)

    @property
    def _marker(self) -> Marker:
        """The marker of a database before its build."""
        run, request = self._run, self._request
        if request.wanted:
            return request.wanted.new_marker(run, request.name)._replace(
                state=MarkerState.BUILDING
            )
        return Marker(run, MarkerState.BUILDING, request.name)

    def close(self) -> None:
        self._entered.close()

    def _find_kept(self) -> "HostDatabase | None":
        """Return a kept database if its pool, or the database itself, can be used."""
        request, wanted = self._request, self._request.wanted
        if wanted is None:
            return None
        with request.hold_name(self._maintenance):
            found = databases.for_request(self._maintenance, request.name)
            for database in found:
                if database.marker.fingerprint == wanted.fingerprint:
                    with suppress(SchemaRunnerError):
                        if host := self._use_pool(database, wanted):
                            self._remove_temporary(found, host.name)
                            return host
        return None

    def _remove_temporary(self, found: list[MarkedDatabase], used: str) -> None:
        """Drop what dead runs shared, and the databases of their `own_database` classes."""
        for database in found:
            is_shared = database.marker.state is MarkerState.SHARED and database.name != used
            if is_shared or database.is_own_database:
                self._remove(database)

    def _report_nearest_pool(self, wanted: PoolCriteria) -> None:
        """Report the pool that is most like the wanted one."""
        from . import pool

        found = databases.for_request(self._maintenance, self._request.name)
        pools = _pools(found)
        name = wanted.nearest(pools)
        if name is None:
            return
        marker = pools[name]
        if marker.template == name:
            wanted.report_nearest(str(marker.fingerprint), marker.made, marker.extra or {})
            return
        with suppress(SchemaRunnerError), self._request.server.connect(name) as connection:
            pool.report_nearest(connection, wanted)

    def _use_pool(self, database: MarkedDatabase, wanted: PoolCriteria) -> "HostDatabase | None":
        from . import pool

        request = self._request
        if database.marker.template == database.name:
            return self._use_clones(database, wanted)
        with ExitStack() as opened:
            connection = opened.enter_context(request.server.connect(database.name))
            template = pool.find_template(connection, wanted, HostDatabase.path)
            if template is None:
                return None
            lease = Lease(connection, self._run)
            host = HostDatabase(request, database.name, lease, database.marker)
            host.use_pool(template)
            host.sweep([template.name])
            opened.pop_all()
        return host

    def _use_clones(self, database: MarkedDatabase, wanted: PoolCriteria) -> "HostDatabase | None":
        marker, request = database.marker, self._request
        if not wanted.accepts(marker) or not wanted.is_unchanged(marker.extra or {}):
            return None
        for other in databases.for_request(self._maintenance, request.name):
            is_clone = other.marker.template == database.name and other.name != database.name
            if is_clone and other.marker.state is not MarkerState.KEPT:
                self._remove(other)
        return HostDatabase.reuse(request, database, self._run)

    def _choose_name(self) -> str:
        request, maintenance = self._request, self._maintenance
        self._listing = databases.list_all(maintenance)
        found = databases.proven(self._listing, request.name)
        self._hosts = {request.name, *(database.name for database in found)}
        self._sweep_clones(found)
        taken = self._pools_to_keep(found)
        taken |= {
            database.name
            for database in found
            if database.marker.template in taken and database.marker.state is MarkerState.KEPT
        }
        taken |= {
            database.name
            for database in found
            if database.name not in taken and not self._remove(database)
        }
        unproven = self._report_unproven()
        if request.name not in taken and databases.exists(maintenance, request.name):
            if request.is_projects_own:
                raise removal.projects_database_error(request, ["its contents"])
            if request.keeps_existing or request.name in unproven:
                taken.add(request.name)
                if request.name not in unproven:
                    why = "it is not marked by a run, and runs that keep schemas do not replace it"
                    removal.log_left_alone(request, request.name, why)
        return self._alternative_name() if request.name in taken else request.name

    def _sweep_clones(self, found: list[MarkedDatabase]) -> None:
        """Drop unmarked clones: a run was killed between creating and marking them."""
        for source in found:
            # A database with worker schemas is not cloned.
            is_cloned = source.marker.beside is None and not source.is_own_database
            if is_cloned and not locks.is_held(self._maintenance, source.marker.run):
                self._drop_unmarked(partial(names.is_clone_name, host=source.name), source.name)

    def _drop_unmarked(self, is_named_so: Callable[[str], bool], source: str) -> None:
        candidates = [database for database in self._listing if is_named_so(database.name)]
        server = self._request.server
        self._log_removed(
            removal.drop_unmarked_copies(self._maintenance, server, candidates, source)
        )

    def _alternative_name(self) -> str:
        request, wanted = self._request, self._request.wanted
        if wanted is not None:
            return databases.alternative_pool_name(
                self._maintenance, request.name, wanted.fingerprint, self._run
            )
        return names.database_of_run(request.name, self._run)

    def _report_unproven(self) -> list[str]:
        """Log and return the names of marked databases without proof that runs created them.

        Databases that another role keeps are not logged: that role uses or removes them.
        """
        found = databases.unproven(self._listing, self._request.name)
        for database, marker in found:
            is_kept = marker.is_for_other_runs and marker.name == database.name
            if not is_kept and not locks.is_held(self._maintenance, marker.run):
                removal.log_left_alone(
                    self._request,
                    database.name,
                    f"its comment marks it as a run's, but {database.why_unproven}",
                )
        return [database.name for database, _ in found]

    def _pools_to_keep(self, found: list[MarkedDatabase]) -> set[str]:
        wanted = self._request.wanted
        pools = _pools(found)
        # A run that keeps nothing does not remove pools.
        return set(wanted.select_kept(pools) if wanted else pools)

    def _remove(self, database: MarkedDatabase) -> bool:
        """Drop a database of runs unless it is in use; return whether it was dropped."""
        dropped_schemas = removal.remove(self._maintenance, self._request, database)
        if dropped_schemas is None:
            return False
        if _is_of_pool(database):
            self._request.log(
                f"Removed pools beyond KEEP_POOLS or KEEP_DAYS: database {database.name}."
            )
        else:
            self._log_removed([database.name], *dropped_schemas)
        return True

    def _log_removed(self, removed: list[str], *schemas: str) -> None:
        if removed:
            leftovers = [f"database {name}" for name in removed]
            leftovers += [f"schema {name}" for name in schemas]
            self._request.log(f"Removed leftovers of an earlier run: {', '.join(leftovers)}.")


def _pools(found: list[MarkedDatabase]) -> dict[str, Marker]:
    """Return the markers of the databases that contain or are pools, by name."""
    return {
        database.name: database.marker
        for database in found
        if database.marker.fingerprint and database.marker.state is MarkerState.KEPT
    }


def _is_of_pool(database: MarkedDatabase) -> bool:
    """Whether a database is kept with a pool, or as a clone of such a database."""
    marker = database.marker
    return marker.state is MarkerState.KEPT and bool(marker.fingerprint or marker.template)


def _check_privilege(maintenance: Connection) -> None:
    row = maintenance.execute(
        "SELECT rolname, rolcreatedb OR rolsuper FROM pg_catalog.pg_roles"
        " WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    role, may_create = row
    if not may_create:
        grant = sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(role)).as_string()
        raise SchemaRunnerError(
            f"permission denied to create database: the role {role!r} has no CREATEDB. Use "
            f"{advice().host_current} to create the schemas in the project's own database, or "
            f"ask an administrator to run: {grant};",
            exit_code=2,
        )
