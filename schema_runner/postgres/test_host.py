"""Host databases that runs create: filled, kept, cloned and removed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import (
    databases,
    function_bodies,
    lock_waits,
    move,
    names,
    prepared_transactions,
    removal,
    schemas,
    sessions,
)
from .clones import Clones, CloneSource, drop_unfinished
from .databases import MarkedDatabase
from .host import PUBLIC, Host
from .host_request import HostRequest
from .lease import Lease
from .names import Marker, MarkerState
from .server import Connection

if TYPE_CHECKING:
    from .database_snapshot import DatabaseSnapshot
    from .pg_dump import PgDump
    from .snapshot import Snapshot
    from .template import Template


class HostDatabase(Host):
    """A database made by a run: `test_<NAME>` or similar. Builds create all in its `public`."""

    def __init__(
        self,
        request: HostRequest,
        name: str,
        lease: Lease,
        marker: Marker,
        inherited: Sequence[str] = (),
    ) -> None:
        super().__init__(request, name, lease)
        self._marker = marker
        self._inherited = inherited
        # Whether `public` has what a build is making, or what workers get clones of.
        self._is_public_in_use = False
        # Whether workers have clones of this database, and no schemas.
        self._is_cloned = False
        self._extra: Mapping[str, Any] = {}
        # What is in this database beside schemas of runs, as the tests begin.
        self._beside: list[str] | None = None

    def begin(self, worker: int) -> str | None:
        self._is_public_in_use = True
        return None

    def obstacles(self) -> list[str]:
        """Name what a build has left that cannot be moved to a worker schema."""
        from .obstacles import find_obstacles

        found = [str(one) for one in find_obstacles(self.connection, PUBLIC)]
        return [f"{one} of the database's template" for one in self._inherited] + found

    def finish(self, worker: int) -> str:
        run, connection = self.lease.run, self.connection
        schema = schemas.create(connection, worker, run)
        with lock_waits.lock_timeout(connection, PUBLIC, "moved"):
            move.move(connection, PUBLIC, schema, batch=self._batch)
        move.extend_search_paths(connection, PUBLIC, schema)
        function_bodies.rewrite_functions(connection, PUBLIC, schema)
        move.copy_grants(connection, PUBLIC, schema)
        schemas.mark(connection, schema, Marker(run, MarkerState.READY))
        self._is_public_in_use = False
        self.source_schema = schema
        return schema

    def add_template(
        self, source_schema: str, extra: Mapping[str, Any], since: int | None
    ) -> None:
        self._extra = extra
        super().add_template(source_schema, extra, since)
        if self._request.wanted:
            self._mark_built(MarkerState.KEPT)

    def restore(self, snapshot: "Snapshot") -> Callable[[], None]:
        undo = super().restore(snapshot)
        if self._request.wanted:
            self._marker = self._marker._replace(made=snapshot.made)
            self._mark_built(MarkerState.KEPT)
        return undo

    def adopt(self, template: "Template") -> None:
        super().adopt(template)
        self._beside = removal.objects_outside_runs(self.connection)

    def settle(self) -> None:
        super().settle()
        if self._beside is None and not self._is_public_in_use:
            self._mark_built(MarkerState.READY)

    def _mark_built(self, state: MarkerState) -> None:
        """Note what the build has left beside schemas: whatever comes later is not ours."""
        self._beside = removal.objects_outside_runs(self.connection)
        self._marker = self._marker._replace(beside=tuple(self._beside))
        databases.mark(self.connection, self.name, self._marker._replace(state=state))

    def snapshot(self, fingerprint: str, now: int) -> "Snapshot":
        from .snapshot import refuse_database_changes

        refuse_database_changes(self.connection)
        return super().snapshot(fingerprint, now)

    def dump(self, pg_dump: "PgDump", **facts: Any) -> "DatabaseSnapshot":
        """Return all that is in this database as it can be written to a file.

        Raises SnapshotError.
        """
        from .database_snapshot import DatabaseSnapshot
        from .snapshot import SnapshotError

        if self._inherited:
            raise SnapshotError("the database's template is not empty")
        return DatabaseSnapshot.from_database(self.server, self.name, pg_dump, **facts)

    def fill(self, snapshot: "DatabaseSnapshot", create: Callable[[], object]) -> None:
        """Make all of that in this database, which is new.

        Raises SnapshotError, and the database is new again: `create` has created it.
        """
        from .snapshot import SnapshotError

        try:
            with self.connect() as connection:
                snapshot.restore(connection)
                self.reference = schemas.find_template(connection)
        except SnapshotError:
            self._replace(create)
            raise
        self._is_public_in_use = True
        self._marker = self._marker._replace(made=snapshot.made)

    def _replace(self, create: Callable[[], object]) -> None:
        """Drop this database, and have another created in its place."""
        run = self.lease.run
        before, self.lease = self.lease, Lease.outside(self.server, run)
        before.close()
        with self.server.maintenance() as maintenance, self._request.holding_name(maintenance):
            sessions.end_tests_sessions(maintenance, self.name, run)
            databases.drop(maintenance, self.name)
            with databases.creation(maintenance, self.name):
                create()
                databases.mark(maintenance, self.name, self._marker)
            outside, self.lease = self.lease, Lease(self.connect(), run)
            outside.close()

    def prepare_clones(self, extra: Mapping[str, Any]) -> None:
        """Leave this database alone so that it can be cloned; it is kept if that is wanted."""
        before, self.lease = self.lease, Lease.outside(self.server, self.lease.run)
        self.lease.share(Clones.lock_of(self.name))
        before.close()
        self._is_cloned = True
        self._marker = self._marker._replace(state=MarkerState.READY)
        if self._request.wanted:
            self._marker = self._marker._replace(
                state=MarkerState.KEPT, template=self.name, extra=extra
            )
        databases.mark(self.connection, self.name, self._marker)

    @classmethod
    def of_kept(cls, request: HostRequest, kept: MarkedDatabase, run: int) -> "HostDatabase":
        """Use a database that is kept, and its clones."""
        with request.server.connect(kept.name) as connection:
            reference = schemas.find_template(connection)
        lease = Lease.outside(request.server, run)
        lease.share(Clones.lock_of(kept.name))
        host = cls(request, kept.name, lease, kept.marker)
        host.reference, host.made = reference, kept.marker.made
        host._is_public_in_use = host._is_cloned = True
        return host

    @cached_property
    def clones(self) -> Clones:
        """The clones of this database, or of the one that workers have made for theirs."""
        source = self.name if self._is_cloned else self._clone_source
        return Clones(self._request, source, self.lease.run)

    @property
    def _clone_source(self) -> str:
        return names.clone_database(self.name, 0)

    @property
    def is_kept_for_clones(self) -> bool:
        return self._is_cloned and self._request.wanted is not None

    @property
    def why_clones(self) -> str | None:
        """What the run has said that has built this database, which is kept."""
        return (self._marker.extra or {}).get("why")

    def keep_clone(self, name: str) -> bool:
        """Leave a worker's database for other runs as it was made; drop it if it cannot be."""
        return self._request.wanted is None or self.clones.give_back(name)

    def is_there(self) -> bool:
        return not self._without({self.name: self._marker.run})

    def missing(self) -> list[str]:
        if self.lease.is_in_host:
            return super().missing()
        return self._without(dict.fromkeys(self.clones.names.values(), self.lease.run))

    def _without(self, needed: Mapping[str, int]) -> list[str]:
        return databases.without(self.lease.connection, self._request.name, needed)

    def drop_worker(self, worker: int) -> None:
        super().drop_worker(worker)
        if self._request.workers <= 1 or not self.recovery.is_anything_left():
            return
        name = names.clone_database(self.name, worker)
        with self.server.maintenance() as maintenance:
            is_ours = databases.is_of_run(maintenance, name, self._request.name, self.lease.run)
        if is_ours:
            self.clones.drop(name)

    def release(self, *, keep: bool) -> None:
        self.stop_dump()
        if not self.recovery.is_anything_left():
            return
        with closing(self.lease):
            if keep and not self._keep_spare():
                self._keep()
            else:
                self._drop()

    def _drop(self) -> None:
        with self.server.maintenance() as maintenance, self._request.holding_name(maintenance):
            self._drop_spare(maintenance)
            if not self._has_others():
                prepared_transactions.roll_back_all(self.connection)
                self.lease.close()
                sessions.end_tests_sessions(maintenance, self.name, self.lease.run)
                databases.drop_of_run(maintenance, self.name)

    def _drop_spare(self, maintenance: Connection) -> None:
        """Drop what workers' own databases are clones of, if one of them has made it."""
        if self._request.workers > 1 and databases.is_of_run(
            maintenance, self._clone_source, self._request.name, self.lease.run
        ):
            sessions.end_tests_sessions(maintenance, self._clone_source, self.lease.run)
            databases.drop(maintenance, self._clone_source)

    def _keep_spare(self) -> bool:
        """Keep that in place of this database, if it is there; return whether it is."""
        wanted, run, request = self._request.wanted, self.lease.run, self._request
        if wanted is None or self._is_cloned or request.workers == 1:
            return False
        clone_source = CloneSource(self.server, self.name, request.name, run)
        if is_ready := clone_source.is_ready():
            marker = wanted.new_marker(run, request.name)
            with self.server.maintenance() as maintenance:
                marker = marker._replace(template=clone_source.name, extra=self._extra)
                databases.mark(maintenance, clone_source.name, marker)
        return is_ready

    def _keep(self) -> None:
        if self._request.workers > 1:
            drop_unfinished(self.connection, self._request.name, self.lease.run, spared=self.name)
        # The lease keeps other runs from dropping the database.
        connection, run, wanted = self.connection, self.lease.run, self._request.wanted
        sessions.end_tests_sessions(connection, self.name, run)
        if wanted is not None and self._is_cloned:
            with self.server.maintenance() as maintenance:
                databases.mark(maintenance, self.name, self._marker._replace(used=wanted.now))
        if wanted is None or self.template is None:
            return
        from . import pool

        with pool.record_use(connection, self.template, run, wanted.now) as is_usable:
            state = MarkerState.KEPT if is_usable else MarkerState.READY
            found = removal.objects_outside_runs(connection)
            marker = removal.with_new_objects(self._marker, self._beside or (), found)
            used = wanted.now if is_usable else marker.used
            databases.mark(connection, self.name, marker._replace(state=state, used=used))
        schemas.drop_remaining(connection, run, batch=self._batch)

    def _has_others(self) -> bool:
        """Whether something is in the project's own database that no run has put there."""
        is_projects_own = self._request.is_projects_own and self.name == self._request.name
        if self._is_public_in_use or not is_projects_own:
            return False
        if others := removal.objects_outside_runs(self.connection):
            self.log(f"Database {self.name!r} stays: it has {', '.join(others)}.")
        return bool(others)
