"""Host databases that runs create: filled, kept, cloned and removed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from .. import names
from . import backends, bodies, databases, locks, relocation, schemas
from .hosts import PUBLIC, Host, Request
from .marker import Marker, State
from .server import Connection

if TYPE_CHECKING:
    from .snapshot import Snapshot


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
        from .obstacles import obstacles

        found = [str(one) for one in obstacles(self.connection, PUBLIC)]
        return [f"{one} of the database's template" for one in self._inherited] + found

    def finish(self, worker: int) -> str:
        run, connection = self.lease.run, self.connection
        schema = schemas.create(connection, worker, run)
        relocation.move(connection, PUBLIC, schema, batch=self._batch)
        relocation.repoint_routines(connection, PUBLIC, schema)
        bodies.rewrite(connection, PUBLIC, schema)
        relocation.copy_grants(connection, PUBLIC, schema)
        schemas.mark(connection, schema, Marker(run, State.READY))
        self._is_public_in_use = False
        return schema

    def add_template(self, model: str, extra: Mapping[str, Any], since: int | None) -> None:
        super().add_template(model, extra, since)
        if self._request.wanted:
            with self._server.maintenance() as maintenance:
                databases.mark(maintenance, self.name, self._marker._replace(state=State.KEPT))

    def restore(self, snapshot: "Snapshot") -> Callable[[], None]:
        undo = super().restore(snapshot)
        if self._request.wanted:
            self._marker = self._marker._replace(made=snapshot.made)
            with self._server.maintenance() as maintenance:
                databases.mark(maintenance, self.name, self._marker._replace(state=State.KEPT))
        return undo

    def snapshot(self, fingerprint: str, now: int) -> "Snapshot":
        from .snapshot import refuse_changes_beside

        refuse_changes_beside(self.connection)
        return super().snapshot(fingerprint, now)

    @contextmanager
    def cloning(self, worker: int) -> Iterator[None]:
        """Have the body of the `with` make a clone of this database for a worker."""
        name, run = names.clone_database(self.name, worker), self.lease.run
        with self._server.maintenance() as maintenance, holding_name(maintenance, self._request):
            # Nobody may be connected to what CREATE DATABASE copies. The lock that is held here
            # keeps others from taking this run for dead.
            self.lease.close()
            try:
                backends.end(maintenance, self.name, run)
                with databases.creation(maintenance, name):
                    yield
                    databases.mark(maintenance, name, marker_of(run, self._request))
                self._clones[worker] = locks.Lease(self._server.connect(name), run)
            finally:
                self.lease = locks.Lease(self.connect(), run)

    def drop_worker(self, worker: int) -> None:
        super().drop_worker(worker)
        if self._request.workers <= 1:
            return
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
        self.stop_dump()
        if self.lease.lost:
            self.log(f"The connection to {self.name!r} was lost; the next run cleans up there.")
            return
        with closing(self.lease):
            for lease in self._clones.values():
                lease.close()
            if keep:
                self._keep()
            else:
                self._drop()

    def _drop(self) -> None:
        with (
            self._server.maintenance() as maintenance,
            holding_name(maintenance, self._request),
        ):
            if not self._has_others():
                self.lease.close()
                backends.end(maintenance, self.name, self.lease.run)
                databases.drop(maintenance, self.name)

    def _keep(self) -> None:
        # The lease keeps other runs from dropping the database.
        connection, run, wanted = self.connection, self.lease.run, self._request.wanted
        backends.end(connection, self.name, run)
        if wanted is None or self.template is None:
            return
        from . import pool

        with pool.noting_use(connection, self.template, run, wanted.now) as is_usable:
            marker = self._marker._replace(state=State.READY)
            if is_usable:
                marker = self._marker._replace(state=State.KEPT, used=wanted.now)
            databases.mark(connection, self.name, marker)
        schemas.drop_rest(connection, run, batch=self._batch)

    def _has_others(self) -> bool:
        """Whether something is in the project's own database that no run has put there."""
        is_projects_own = self._request.is_projects_own and self.name == self._request.name
        if self._is_public_in_use or not is_projects_own:
            return False
        if others := of_others(self.connection):
            self.log(f"Database {self.name!r} stays: it has {', '.join(others)}.")
        return bool(others)


def of_others(connection: Connection) -> list[str]:
    """Name what no build and no run of ours accounts for."""
    found = [str(one) for one in relocation.contents(connection, PUBLIC)]
    return found + [f"schema {name}" for name in schemas.others(connection)]


def holding_name(maintenance: Connection, request: Request) -> locks.Held:
    return locks.held(maintenance, locks.key(f"host database {request.name}"))


def marker_of(run: int, request: Request) -> Marker:
    if request.wanted:
        # A pool's only once there is a template.
        return request.wanted.marker(run, request.name)._replace(state=State.BUILDING)
    return Marker(run, State.READY, request.name)
