"""The host databases of a run with their schemas and clones, by alias."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from ..errors import SchemaRunnerError
from ..postgres.host import PUBLIC, Host
from ..postgres.host_request import HostRequest, Log
from ..postgres.host_reservation import Reservation
from ..postgres.lease import LeaseWatcher
from ..postgres.test_host import HostDatabase
from .usage import Usage

if TYPE_CHECKING:
    from ..postgres.pg_dump import PgDump
    from ..postgres.snapshot import Snapshot
    from ..postgres.worker_schemas import SchemaSource


class TestDatabases:
    """The host databases, worker schemas and clone databases of a run, by database alias."""

    def __init__(self, *, workers: int, keeps: bool, log: Log) -> None:
        self.log = log
        self.workers = workers
        self.keeps = keeps  # Whether schemas and clones stay for other runs (--keepdb).
        self._by_alias: dict[str, TestDatabase] = {}
        self.usage = Usage()

    def host_name(self, alias: str) -> str | None:
        """Return the name of the host database of `alias`, once it is reserved, or None."""
        return self._by_alias[alias].name if alias in self._by_alias else None

    def host(self, alias: str) -> Host:
        host = self._by_alias[alias].host
        assert host is not None, "the host database must be claimed before it is used"
        return host

    def watch(self) -> LeaseWatcher:
        databases = self._by_alias
        return LeaseWatcher(lambda: [each.host for each in databases.values() if each.host])

    def schemas(self, alias: str) -> dict[int, str]:
        return dict(self._by_alias[alias].schemas)

    def clones(self, alias: str) -> dict[int, str]:
        return dict(self._by_alias[alias].clones)

    def source(self, alias: str) -> "SchemaSource | None":
        return self._by_alias[alias].source

    def start_dump(self, alias: str, pg_dump: "PgDump") -> None:
        self.host(alias).start_dump(self._by_alias[alias].schemas[1], pg_dump)

    def add_template(self, alias: str, extra: Mapping[str, Any], since: int | None) -> None:
        """Create the template from worker 1's schema. Raises CopyError if it cannot be copied.

        `since` is the transaction after which reference data was loaded, or None.
        """
        self.host(alias).create_template(self._by_alias[alias].schemas[1], extra, since)
        self.plan(alias)

    def add_reference(self, alias: str, since: int | None) -> None:
        """Store copies of reference data for resets, unless there is a template."""
        source_schema = self._by_alias[alias].schemas.get(1, PUBLIC)
        self.host(alias).create_reference(source_schema, since)

    def plan(self, alias: str, *, reasons: tuple[str, ...] = ()) -> None:
        """Set what workers create their schemas from; if there are `reasons`, they use clones."""
        database = self._by_alias[alias]
        database.source = self.host(alias).schema_source(database.schemas[1], reasons)

    def restore(self, alias: str, snapshot: "Snapshot") -> str:
        """Create worker 1's schema from a snapshot; return its name.

        Raises CopyError, after undoing its changes.
        """
        from ..postgres.structure_script import CopyError

        database, host = self._by_alias[alias], self.host(alias)
        undo = host.restore(snapshot)
        try:
            database.schemas[1] = host.schema_source("").lease_or_copy(1)
        except CopyError:
            undo()
            raise
        self.usage.add(database.name, database.schemas[1])
        return database.schemas[1]

    def verify_template(self, alias: str) -> None:
        """Raise CopyError if a copy of the template differs from the original."""
        self.host(alias).verify_template()

    def lease_from_pool(self, alias: str) -> bool:
        """Lease or create worker 1's schema from a pool; return whether there is a pool.

        Raises CopyError if every schema is leased and the template cannot be copied.
        """
        database, host = self._by_alias[alias], self._by_alias[alias].host
        if host is None or host.template is None:
            return False
        database.schemas[1] = host.leased or host.schema_source("").lease_or_copy(1)
        self.usage.add(database.name, database.schemas[1])
        database.source = host.schema_source(database.schemas[1])
        return True

    def record_location(self, alias: str, worker: int, *, database: str, schema: str) -> None:
        """Record the schema or clone that a worker process created."""
        test_database = self._by_alias[alias]
        self.usage.add(database, schema)
        if database == test_database.name:
            test_database.schemas[worker] = schema
        else:
            test_database.clones[worker] = database

    def reserve(self, alias: str, request: HostRequest) -> None:
        """Reserve a name for the host database of `alias`, or open one that an earlier run kept.

        `claim` creates a database with the reserved name.
        """
        with ExitStack() as build_lock:
            reservation = Reservation(request, build_lock)
            database = TestDatabase(
                reservation.name, build_lock.pop_all(), reservation=reservation
            )
        self._by_alias[alias] = database
        if reservation.kept is not None:
            database.host, database.reservation = reservation.kept, None
            database.is_cloned = reservation.kept.is_kept_for_clones

    def claim(self, alias: str, create: Callable[[], object]) -> None:
        """Create the reserved host database with `create`, unless it exists already."""
        database = self._by_alias[alias]
        if database.reservation is not None:
            database.host = database.reservation.create_host(create)
            database.reservation = None

    def use_project_database(self, alias: str, request: HostRequest) -> None:
        """Use the project's own database as the host database of `alias`."""
        from ..postgres.project_host import ProjectDatabase

        with ExitStack() as build_lock:
            host = ProjectDatabase.open(request, build_lock)
            self._by_alias[alias] = TestDatabase(request.name, build_lock.pop_all(), host=host)

    def release_build_lock(self, alias: str) -> None:
        """Let other runs with the same fingerprint use what this run built."""
        self.host(alias).start_tests()
        self._by_alias[alias].build_lock.close()

    def is_shared(self, alias: str) -> bool:
        """Whether the host database can hold several worker schemas, of this or of other runs."""
        return self.workers > 1 or self.keeps or not isinstance(self.host(alias), HostDatabase)

    def is_cloned(self, alias: str) -> bool:
        return self._by_alias[alias].is_cloned

    def workers_of(self, alias: str) -> list[int]:
        return [*self._by_alias[alias].schemas, *self._by_alias[alias].clones]

    def begin(self, alias: str, worker: int) -> str | None:
        """Begin a build; return the schema to migrate in, or None for `public`."""
        schema = self.host(alias).begin_build(worker)
        if schema is not None:
            # Recorded now, so that tear-down also drops the schema of a failed build.
            self._by_alias[alias].schemas[worker] = schema
        return schema

    def finish(self, alias: str, worker: int) -> str:
        """Finish a build; return the name of the worker's schema."""
        schema = self.host(alias).finish_build(worker)
        self._by_alias[alias].schemas[worker] = schema
        self.usage.add(self._by_alias[alias].name, schema)
        return schema

    def obstacles(self, alias: str) -> list[str]:
        host = self.host(alias)
        return host.obstacles() if isinstance(host, HostDatabase) else []

    def use_clones(self, alias: str) -> None:
        """Let workers clone the host database instead of using schemas."""
        self._by_alias[alias].is_cloned = True

    def lease_clone(self, alias: str, worker: int) -> bool:
        """Lease a clone that an earlier run kept; return whether there was one."""
        if is_leased := self.host_database(alias).clones.reuse(worker):
            self._add_clone(alias, worker, is_reused=True)
        return is_leased

    @contextmanager
    def cloning(self, alias: str, worker: int) -> Iterator[None]:
        """Hold the name lock while the caller clones the host database for a worker."""
        with self.host_database(alias).clones.creation(worker):
            yield
        self._add_clone(alias, worker)

    def _add_clone(self, alias: str, worker: int, *, is_reused: bool = False) -> None:
        clone = self.host_database(alias).clones.names[worker]
        self._by_alias[alias].clones[worker] = clone
        self.usage.add(clone, PUBLIC, is_reused=is_reused)

    def is_kept_for_clones(self, alias: str) -> bool:
        """Whether the host database is kept for cloning, so that tests must not use it."""
        host = self._by_alias[alias].host
        return isinstance(host, HostDatabase) and host.is_kept_for_clones

    def host_database(self, alias: str) -> HostDatabase:
        host = self.host(alias)
        assert isinstance(host, HostDatabase), "the project's own database is not cloned"
        return host

    def drop(self, alias: str, worker: int) -> str | None:
        """Drop a worker's schemas or clone; return what was dropped, for the log, or None."""
        database = self._by_alias[alias]
        schema, clone = database.schemas.pop(worker, None), database.clones.pop(worker, None)
        if clone is not None:
            with self._log_failure(f"Database {clone!r}"):
                self.host_database(alias).clones.drop(clone)
        if not database.is_cloned:
            # A killed worker may not have reported its schema, or may have left several.
            with self._log_failure(f"Schema {schema or f'of worker {worker}'}"):
                self.host(alias).drop_worker_schemas(worker)
        if clone is not None:
            return f"database {clone!r}"
        return None if schema is None else f"schema {schema}"

    def keep(self, alias: str, worker: int) -> str | None:
        """Keep a worker's schema or clone; return what was kept, for the log, or None."""
        database = self._by_alias[alias]
        clone = database.clones.pop(worker, None)
        if clone is not None:
            with self._log_failure(f"Database {clone!r}"):
                if self.host_database(alias).keep_clone(clone):
                    self.usage.kept += 1
                    return f"database {clone!r}"
            return None
        self.usage.kept += worker in database.schemas
        schema = database.schemas.pop(worker, None)
        if schema is None:
            return None
        with self._log_failure(f"Schema {schema}"):
            kept = self.host(alias).keep_schema(schema, database.source)
            return f"schema {kept} in database {database.name!r}"
        return None

    def release(self, alias: str, *, keep: bool = False) -> None:
        """Drop the remaining schemas and clones of `alias`, and release its host database."""
        database = self._by_alias[alias]
        for worker in [*database.schemas, *database.clones]:
            self.drop(alias, worker)
        del self._by_alias[alias]
        database.build_lock.close()
        if database.reservation is not None:
            database.reservation.close()
        if database.host is not None:
            with self._log_failure(f"Database {database.name!r}"):
                database.host.release(keep=keep)

    def close(self) -> None:
        """Release all aliases that are still open, as after an interrupted run."""
        for alias, database in list(self._by_alias.items()):
            # If one alias failed, the others are kept nevertheless.
            has_template = database.host is not None and database.host.template is not None
            is_kept = has_template or self.is_kept_for_clones(alias)
            self.release(alias, keep=self.keeps and is_kept)

    @contextmanager
    def _log_failure(self, what: str) -> Iterator[None]:
        """Log a failure to clean up, and go on, so that it does not hide the tests' results."""
        try:
            yield
        except (psycopg.Error, SchemaRunnerError, KeyboardInterrupt) as error:
            cause = str(error) or "interrupted"
            self.log(f"{what} is left for the next run to remove: {cause}")
            if isinstance(error, KeyboardInterrupt):
                raise


@dataclass
class TestDatabase:
    """The host database of one alias, with its schemas and clones by worker number."""

    name: str
    build_lock: ExitStack  # Other runs with the same fingerprint wait for it.
    reservation: Reservation | None = None  # Until `claim` creates the database.
    host: Host | None = None
    schemas: dict[int, str] = field(default_factory=dict)
    clones: dict[int, str] = field(default_factory=dict)
    is_cloned: bool = False  # Whether all workers use clones.
    source: "SchemaSource | None" = None  # Workers create their schemas from it.
