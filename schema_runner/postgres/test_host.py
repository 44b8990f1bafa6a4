"""Host databases that runs create, keep, clone and drop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import (
    databases,
    function_bodies,
    lock_waits,
    locks,
    move,
    names,
    prepared_transactions,
    removal,
    schemas,
    sessions,
)
from .clones import Clones, CloneSource
from .databases import MarkedDatabase
from .host import PUBLIC, Host
from .host_request import HostRequest
from .lease import Lease
from .names import Marker, MarkerState
from .server import Connection

if TYPE_CHECKING:
    from .pg_dump import PgDump
    from .snapshot import Snapshot
    from .template import Template


class HostDatabase(Host):
    """A database that a run created, `test_<NAME>` or similar. Builds migrate in its `public`."""

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
        # Whether `public` holds an unfinished build, or the tables that clones copy.
        self._is_public_in_use = False
        # Whether workers use clones of this database instead of schemas.
        self._is_cloned = False
        self._extra: Mapping[str, Any] = {}
        # The objects outside the schemas of runs when the tests start.
        self._other_objects: list[str] | None = None

    def begin_build(self, worker: int) -> str | None:
        self._is_public_in_use = True
        return None

    def obstacles(self) -> list[str]:
        """List the objects of a build that cannot be moved to a worker schema."""
        from .obstacles import find_obstacles

        found = [str(obstacle) for obstacle in find_obstacles(self.connection, PUBLIC)]
        return [f"{name} of the database's template" for name in self._inherited] + found

    def finish_build(self, worker: int) -> str:
        run, connection = self.lease.run, self.connection
        schema = schemas.create(connection, worker, run)
        with lock_waits.lock_timeout(connection, PUBLIC, "moved"):
            move.move(connection, PUBLIC, schema, batch=self._batch)
        move.extend_search_paths(connection, PUBLIC, schema)
        function_bodies.rewrite_functions(connection, PUBLIC, schema)
        move.copy_grants(connection, PUBLIC, schema)
        schemas.mark(connection, schema, Marker(run, MarkerState.READY))
        self._is_public_in_use = False
        self.own_schema = schema
        return schema

    def create_template(
        self, source_schema: str, extra: Mapping[str, Any], since: int | None
    ) -> None:
        self._extra = extra
        super().create_template(source_schema, extra, since)
        if self._request.wanted:
            self._mark_built(self._request.wanted.state)

    def restore(self, snapshot: "Snapshot") -> Callable[[], None]:
        undo = super().restore(snapshot)
        if self._request.wanted:
            self._marker = self._marker._replace(made=snapshot.made)
            self._mark_built(self._request.wanted.state)
        return undo

    def use_pool(self, template: "Template") -> None:
        super().use_pool(template)
        self._other_objects = removal.objects_outside_runs(self.connection)

    def start_tests(self) -> None:
        super().start_tests()
        if self._other_objects is None and not self._is_public_in_use:
            self._mark_built(MarkerState.READY)

    def _mark_built(self, state: MarkerState) -> None:
        """Record the objects outside runs' schemas in the marker; later ones are not the run's."""
        self._other_objects = removal.objects_outside_runs(self.connection)
        self._marker = self._marker._replace(beside=tuple(self._other_objects))
        databases.mark(self.connection, self.name, self._marker._replace(state=state))

    def snapshot(self, fingerprint: str, now: int) -> "Snapshot":
        from .snapshot import refuse_database_changes

        refuse_database_changes(self.connection)
        return super().snapshot(fingerprint, now)

    def dump_database(self, pg_dump: "PgDump", **facts: Any) -> "Snapshot":
        """Return a snapshot of the whole database. Raises CopyError if none can be made."""
        from .snapshot import Snapshot
        from .structure_script import CopyError

        if self._inherited:
            raise CopyError("the database's template is not empty")
        return Snapshot.of_database(self.server, self.name, pg_dump, **facts)

    def restore_database(self, snapshot: "Snapshot", create: Callable[[], object]) -> None:
        """Restore a snapshot into this empty database.

        Raises CopyError, after replacing the database by one that `create` creates.
        """
        from .structure_script import CopyError

        try:
            with self.connect() as connection:
                snapshot.restore_database(connection)
                self.reference = schemas.find_template(connection)
        except CopyError:
            self._replace(create)
            raise
        self._is_public_in_use = True
        self._marker = self._marker._replace(made=snapshot.made)

    def _replace(self, create: Callable[[], object]) -> None:
        """Drop this database, and call `create` to create it again."""
        run = self.lease.run
        self._replace_lease(Lease.outside_host(self.server, run))
        with self.server.maintenance() as maintenance, self._request.hold_name(maintenance):
            databases.drop_of_run(maintenance, self.name, run)
            with databases.dropped_on_error(maintenance, self.name):
                create()
                databases.mark(maintenance, self.name, self._marker)
            self._replace_lease(Lease(self.connect(), run))

    def _replace_lease(self, lease: Lease) -> None:
        before, self.lease = self.lease, lease
        before.close()

    def prepare_clones(self, extra: Mapping[str, Any]) -> None:
        """Move the lease out of this database, so that it can be cloned; mark it."""
        lease = Lease.outside_host(self.server, self.lease.run)
        lease.acquire_shared(Clones.lock_key(self.name))
        self._replace_lease(lease)
        self._is_cloned = True
        self._marker = self._marker._replace(state=MarkerState.READY)
        if self._request.wanted:
            self._marker = self._marker._replace(
                state=self._request.wanted.state, template=self.name, extra=extra
            )
        databases.mark(self.connection, self.name, self._marker)

    @classmethod
    def reuse(cls, request: HostRequest, kept: MarkedDatabase, run: int) -> "HostDatabase":
        """Use a kept database and its clones."""
        with request.server.connect(kept.name) as connection:
            reference = schemas.find_template(connection)
        lease = Lease.outside_host(request.server, run)
        lease.acquire_shared(Clones.lock_key(kept.name))
        host = cls(request, kept.name, lease, kept.marker)
        host.reference, host.pool_created_at = reference, kept.marker.made
        host._is_public_in_use = host._is_cloned = True
        return host

    @cached_property
    def clones(self) -> Clones:
        """The clones of this database, or of the clone source that a worker built."""
        source = self.name if self._is_cloned else names.clone_database(self.name, 0)
        return Clones(self._request, source, self.lease.run)

    @property
    def is_kept_for_clones(self) -> bool:
        return self._is_cloned and self._request.wanted is not None

    @property
    def clone_reason(self) -> str | None:
        """Why workers use clones, as the run that built this kept database recorded it."""
        return (self._marker.extra or {}).get("why")

    def keep_clone(self, name: str) -> bool:
        """Keep a worker's clone if the run keeps any; return False if tests changed it."""
        return self._request.wanted is None or self.clones.give_back(name)

    def exists(self) -> bool:
        return not self._missing({self.name: self._marker.run})

    def missing_objects(self) -> list[str]:
        if self.lease.is_in_host:
            return super().missing_objects()
        return self._missing(dict.fromkeys(self.clones.names.values(), self.lease.run))

    def _missing(self, needed: Mapping[str, int]) -> list[str]:
        return databases.missing(self.lease.connection, self._request.name, needed)

    def drop_worker_schemas(self, worker: int) -> None:
        super().drop_worker_schemas(worker)
        if self._request.workers > 1 and self.recovery.can_clean_up():
            self.clones.drop(names.clone_database(self.name, worker))

    def release(self, *, keep: bool) -> None:
        self.stop_dump()
        if not self.recovery.can_clean_up():
            return
        with closing(self.lease):
            if keep and not self._keep_clone_source():
                self._keep()
            else:
                self._drop()

    def _drop(self) -> None:
        with self.server.maintenance() as maintenance, self._request.hold_name(maintenance):
            self._drop_leftover_clones(maintenance)
            with self._last_use(maintenance) as is_last:
                if is_last and not self._has_users_objects():
                    prepared_transactions.roll_back_all(self.connection)
                    self.lease.close()
                    # Another database may have its name now.
                    if databases.find_marker(maintenance, self._request.name, self.name):
                        databases.drop_of_run(maintenance, self.name, self.lease.run)
                elif self.lease.is_in_host:
                    schemas.drop_remaining(self.connection, self.lease.run, batch=self._batch)

    @contextmanager
    def _last_use(self, maintenance: Connection) -> Iterator[bool]:
        """Lock this database; yield False if other runs use it, or wait until they can."""
        wanted = self._request.wanted
        lock = locks.HOST_IN_USE if self.lease.is_in_host else Clones.lock_key(self.name)
        waiting = locks.try_hold(maintenance, wanted.lock) if wanted else nullcontext(True)
        with self.lease.last_use(lock) as is_last, waiting as is_unneeded:
            alive = sessions.live_runs_without_lease(maintenance) if wanted else None
            yield is_last and is_unneeded and not alive

    def _drop_leftover_clones(self, connection: Connection) -> None:
        """Drop this run's clones that were not kept, such as those of killed workers."""
        if self._request.workers == 1:
            return
        for name, marker in databases.for_request(connection, self._request.name):
            is_ours = marker.run == self.lease.run and name != self.name
            if is_ours and marker.state is not MarkerState.KEPT:
                databases.drop_of_run(connection, name, marker.run)

    def _keep_clone_source(self) -> bool:
        """Keep the clone source instead of this database; return False if there is none."""
        wanted, run, request = self._request.wanted, self.lease.run, self._request
        if wanted is None or self._is_cloned or request.workers == 1:
            return False
        clone_source = CloneSource(self.server, self.name, request.name, run)
        if is_ready := clone_source.is_ready():
            marker = wanted.new_marker(run, request.name)
            marker = marker._replace(template=clone_source.name, extra=self._extra)
            with self.server.maintenance() as maintenance:
                databases.mark(maintenance, clone_source.name, marker)
        return is_ready

    def _keep(self) -> None:
        connection, run, wanted = self.connection, self.lease.run, self._request.wanted
        self._drop_leftover_clones(connection)
        # The lease keeps other runs from dropping the database.
        sessions.end_test_sessions(connection, self.name, run)
        if wanted is not None and self._is_cloned:
            with self.server.maintenance() as maintenance:
                databases.mark(maintenance, self.name, self._marker._replace(used=wanted.now))
        if wanted is None or self.template is None:
            return
        from . import pool

        with pool.record_use(connection, self.template, run, wanted.now) as is_usable:
            state = MarkerState.KEPT if is_usable else MarkerState.READY
            found = removal.objects_outside_runs(connection)
            marker = removal.with_new_objects(self._marker, self._other_objects or (), found)
            used = wanted.now if is_usable else marker.used
            databases.mark(connection, self.name, marker._replace(state=state, used=used))
        schemas.drop_remaining(connection, run, batch=self._batch)

    def _has_users_objects(self) -> bool:
        """Whether the project's own database contains objects that no run created."""
        is_projects_own = self._request.is_projects_own and self.name == self._request.name
        if self._is_public_in_use or not is_projects_own:
            return False
        if others := removal.objects_outside_runs(self.connection):
            self.log(f"Database {self.name!r} is not dropped: it contains {', '.join(others)}.")
        return bool(others)
