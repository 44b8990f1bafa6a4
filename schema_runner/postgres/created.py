"""Host databases that runs create: reserved, made, and removed under an advisory lock."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from psycopg import errors, sql

from .. import names
from ..errors import SchemaRunnerError
from . import backends, databases, locks, obstacles, pool, relocation, schemas
from .databases import OwnDatabase
from .hosts import PUBLIC, Host, Request, refuse_old_server
from .marker import Marker, State
from .server import Connection
from .snapshot import Snapshot, refuse_changes_beside


class Reservation:
    """The name of a host database that is going to be made, which nobody else can take.

    It is the one that was asked for, unless a live run has that, or it is kept. What dead runs
    have left is removed. There is nothing to make where a `kept` one can be used. Raises
    SchemaRunnerError where what would be replaced is not ours to remove, where the role may not
    create databases, and where the server is too old.
    """

    def __init__(self, request: Request, turn: ExitStack) -> None:
        """Enter into `turn` what has to be left once there is something for others to use."""
        self._request = request
        self._run = locks.new_run()
        with ExitStack() as entered:
            self._maintenance = entered.enter_context(request.server.maintenance())
            refuse_old_server(self._maintenance, request)
            backends.refuse_shared(self._maintenance, request.server)
            _refuse_without_right(self._maintenance)
            self.kept = self._find_kept()
            if request.wanted and not self.kept:
                opening = request.server.maintenance()
                turn.enter_context(pool.turn(opening, request.wanted, request.log))
                self.kept = self._find_kept()
            if self.kept:
                self.name = self.kept.name
                self._entered = ExitStack()
            else:
                entered.enter_context(_held(self._maintenance, request))
                self.name = self._free_name()
                self._entered = entered.pop_all()

    def claim(self, create: Callable[[], object]) -> "HostDatabase":
        """Have the database created; others can ask for the name from then on."""
        request = self._request
        with (
            self._entered,
            databases.creation(self._maintenance, self.name),
            ExitStack() as opened,
        ):
            create()
            marker = _marker(self._run, request)
            databases.mark(self._maintenance, self.name, marker)
            connection = opened.enter_context(closing(request.server.connect(self.name)))
            lease = locks.Lease(connection, self._run)
            inherited = [str(one) for one in relocation.contents(connection, PUBLIC)]
            opened.pop_all()
        return HostDatabase(request, self.name, lease, marker, inherited)

    def close(self) -> None:
        self._entered.close()

    def _find_kept(self) -> "HostDatabase | None":
        """Return a database that runs have kept, if its pool can be used."""
        request, wanted = self._request, self._request.wanted
        if wanted is None:
            return None
        with _held(self._maintenance, request):
            for database in databases.requested_as(self._maintenance, request.name):
                if database.marker.fingerprint == wanted.fingerprint:
                    with suppress(SchemaRunnerError):
                        if host := self._adopt(database, wanted):
                            return host
        return None

    def _adopt(self, database: OwnDatabase, wanted: pool.Wanted) -> "HostDatabase | None":
        request = self._request
        with ExitStack() as opened, request.server.connect(database.name) as connection:
            template = pool.find(connection, wanted, HostDatabase.path)
            if template is None:
                return None
            lease = locks.Lease(request.server.connect(database.name), self._run)
            opened.enter_context(closing(lease))
            host = HostDatabase(request, database.name, lease, database.marker)
            host.adopt(connection, template)
            host.reap(connection, spared=[template.name])
            opened.pop_all()
        return host

    def _free_name(self) -> str:
        request, wanted = self._request, self._request.wanted
        found = databases.requested_as(self._maintenance, request.name)
        taken = self._pools_that_stay(found)
        taken |= {
            one.name for one in found if one.name not in taken and not self._remove(one.name)
        }
        if request.name in taken:
            if wanted is not None:
                kept = names.database_of_fingerprint(request.name, wanted.fingerprint)
                if not databases.exists(self._maintenance, kept):
                    return kept
            return names.database_of_run(request.name, self._run)
        if request.is_projects_own and databases.exists(self._maintenance, request.name):
            raise _refusal(request, ["what is in it"])
        return request.name

    def _pools_that_stay(self, found: list[OwnDatabase]) -> set[str]:
        wanted = self._request.wanted
        if wanted is None:
            # As with stock Django, a run without --keepdb removes what others have kept.
            return set()
        others = {
            one.name: one.marker
            for one in found
            if one.marker.fingerprint and one.marker.state is State.KEPT
        }
        return set(wanted.that_stay(others))

    def _remove(self, name: str) -> bool:
        """Remove a database of ours unless somebody needs it; return whether that was done."""
        request = self._request
        try:
            connection = request.server.connect(name)
        except SchemaRunnerError:
            return False  # Another role's, which does not let us in.
        with connection:
            if locks.Lease.is_host_in_use(connection):
                return False
            is_projects_own = request.is_projects_own and name == request.name
            if is_projects_own and (others := _of_others(connection)):
                raise _refusal(request, others)
            backends.end_those_of_dead_runs(connection)
            left = [schema.name for schema in schemas.found(connection)]
        try:
            databases.drop(self._maintenance, name)
        except (errors.ObjectInUse, errors.InsufficientPrivilege):
            return False  # Somebody looks into it, or it is another role's.
        request.log(f"Removed what an earlier run left: {', '.join([f'database {name}', *left])}.")
        return True


class HostDatabase(Host):
    """A database that a run has made for itself: `test_<NAME>`, or named after that.

    Builds are stock Django's: they create everything in `public`, and it moves from there.
    """

    def __init__(
        self,
        request: Request,
        name: str,
        lease: locks.Lease,
        marker: Marker,
        inherited: Sequence[str] = (),
    ) -> None:
        super().__init__(request, name, lease)
        self._marker = marker
        self._inherited = inherited
        # Whether `public` has what a build is making, or what workers get clones of.
        self._is_public_in_use = False
        # The leases of the clone databases by worker.
        self._clones: dict[int, locks.Lease] = {}

    def begin(self, worker: int) -> str | None:
        self._is_public_in_use = True
        return None

    def obstacles(self) -> list[str]:
        """Name what a build has left that cannot be moved to a worker schema."""
        with self.connect() as connection:
            found = [str(one) for one in obstacles.obstacles(connection, PUBLIC)]
        return [f"{one} of the database's template" for one in self._inherited] + found

    def finish(self, worker: int) -> str:
        run = self.lease.run
        with self.connect() as connection:
            schema = schemas.create(connection, worker, run)
            relocation.move(connection, PUBLIC, schema, batch=self._batch)
            relocation.repoint_routines(connection, PUBLIC, schema)
            relocation.copy_grants(connection, PUBLIC, schema)
            schemas.mark(connection, schema, Marker(run, State.READY))
        self._is_public_in_use = False
        return schema

    def add_template(self, model: str, extra: Mapping[str, Any]) -> None:
        super().add_template(model, extra)
        if self._request.wanted:
            with self._server.maintenance() as maintenance:
                databases.mark(maintenance, self.name, replace(self._marker, state=State.KEPT))

    def restore(self, snapshot: Snapshot) -> Callable[[], None]:
        undo = super().restore(snapshot)
        if self._request.wanted:
            self._marker = replace(self._marker, made=snapshot.made)
            with self._server.maintenance() as maintenance:
                databases.mark(maintenance, self.name, replace(self._marker, state=State.KEPT))
        return undo

    def snapshot(self, fingerprint: str, now: int) -> Snapshot:
        with self.connect() as connection:
            refuse_changes_beside(connection)
        return super().snapshot(fingerprint, now)

    @contextmanager
    def cloning(self, worker: int) -> Iterator[None]:
        """Have the body of the `with` make a clone of this database for a worker."""
        name, run = names.clone_database(self.name, worker), self.lease.run
        with self._server.maintenance() as maintenance, _held(maintenance, self._request):
            # Nobody may be connected to what CREATE DATABASE copies. The lock that is held here
            # keeps others from taking this run for dead.
            self.lease.close()
            try:
                backends.end(maintenance, self.name, run)
                with databases.creation(maintenance, name):
                    yield
                    databases.mark(maintenance, name, _marker(run, self._request))
                self._clones[worker] = locks.Lease(self._server.connect(name), run)
            finally:
                self.lease = locks.Lease(self.connect(), run)

    def drop_worker(self, worker: int) -> None:
        super().drop_worker(worker)
        name = names.clone_database(self.name, worker)
        with self._server.maintenance() as maintenance:
            is_ours = any(
                database.name == name and database.marker.run == self.lease.run
                for database in databases.requested_as(maintenance, self._request.name)
            )
        if is_ours:
            self.drop_clone(worker)

    def drop_clone(self, worker: int) -> None:
        """Drop a worker's database: a clone of this one, or what a worker has made for itself."""
        name = names.clone_database(self.name, worker)
        with self._server.maintenance() as maintenance:
            if lease := self._clones.pop(worker, None):
                lease.close()
            backends.end(maintenance, name, self.lease.run)
            databases.drop(maintenance, name)

    def release(self, *, keep: bool) -> None:
        if self.lease.lost:
            self.log(f"The connection to {self.name!r} was lost; the next run cleans up there.")
            return
        with (
            closing(self.lease),
            self._server.maintenance() as maintenance,
            _held(maintenance, self._request),
        ):
            for lease in self._clones.values():
                lease.close()
            if keep:
                self._keep(maintenance)
            elif not self._has_others():
                self.lease.close()
                backends.end(maintenance, self.name, self.lease.run)
                databases.drop(maintenance, self.name)

    def _keep(self, maintenance: Connection) -> None:
        with self.connect() as connection:
            backends.end(connection, self.name, self.lease.run)
            wanted = self._request.wanted
            if wanted is None or self.template is None:
                return
            if pool.close(connection, self.template, wanted.now):
                marker = replace(self._marker, state=State.KEPT, used=wanted.now)
            else:
                marker = replace(self._marker, state=State.READY)
            databases.mark(maintenance, self.name, marker)
            schemas.drop_rest(connection, self.lease.run, batch=self._batch)

    def _has_others(self) -> bool:
        """Whether something is in the project's own database that no run has put there."""
        is_projects_own = self._request.is_projects_own and self.name == self._request.name
        if self._is_public_in_use or not is_projects_own:
            return False
        with self.connect() as connection:
            others = _of_others(connection)
        if others:
            self.log(f"Database {self.name!r} stays: it has {', '.join(others)}.")
        return bool(others)


def _refuse_without_right(maintenance: Connection) -> None:
    row = maintenance.execute(
        "SELECT rolname, rolcreatedb OR rolsuper FROM pg_catalog.pg_roles"
        " WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    role, may_create = row
    if not may_create:
        grant = sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(role)).as_string()
        raise SchemaRunnerError(
            f"permission denied to create database: the role {role!r} may not. Make the "
            f"schemas in the project's own database instead, with --host-database current, or "
            f"have an administrator say: {grant};",
            exit_code=2,
        )


def _refusal(request: Request, what: list[str]) -> SchemaRunnerError:
    return SchemaRunnerError(
        f"The tests would use the database {request.name!r} and remove it, but that is a NAME in "
        f"DATABASES, and it exists: tests would remove {', '.join(what)}. Give TEST another "
        f'"NAME", or leave it out. To make the schemas beside what is there, use '
        f"--host-database current. If nothing in it is needed, drop it: dropdb {request.name}"
    )


def _of_others(connection: Connection) -> list[str]:
    """Name what no build and no run of ours accounts for."""
    found = [str(one) for one in relocation.contents(connection, PUBLIC)]
    return found + [f"schema {name}" for name in schemas.others(connection)]


def _held(maintenance: Connection, request: Request) -> locks.Held:
    return locks.held(maintenance, locks.key(f"host database {request.name}"))


def _marker(run: int, request: Request) -> Marker:
    if request.wanted:
        # A pool's only once there is a template.
        return replace(request.wanted.marker(run, request.name), state=State.BUILDING)
    return Marker(run, State.READY, request.name)
