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
        self.keeps = keeps  # What is made, for other runs.
        self._by_alias: dict[str, TestDatabase] = {}
        self.usage = Usage()

    def host_name(self, alias: str) -> str | None:
        """Return the name of the host database of `alias`, if it has one or is to have one."""
        return self._by_alias[alias].name if alias in self._by_alias else None

    def host(self, alias: str) -> Host:
        host = self._by_alias[alias].host
        assert host is not None, "nothing is asked of a host database before it is there"
        return host

    def watch(self) -> LeaseWatcher:
        databases = self._by_alias
        return LeaseWatcher(lambda: [one.host for one in databases.values() if one.host])

    def schemas(self, alias: str) -> dict[int, str]:
        return dict(self._by_alias[alias].schemas)

    def clones(self, alias: str) -> dict[int, str]:
        return dict(self._by_alias[alias].clones)

    def source(self, alias: str) -> "SchemaSource | None":
        return self._by_alias[alias].source

    def start_dump(self, alias: str, pg_dump: "PgDump") -> None:
        self.host(alias).start_dump(self._by_alias[alias].schemas[1], pg_dump)

    def add_template(self, alias: str, extra: Mapping[str, Any], since: int | None) -> None:
        """Have workers copy the schema that worker 1 has; raise CopyError where they cannot.

        `since` is a transaction before those that have loaded reference data, if any have.
        """
        self.host(alias).create_template(self._by_alias[alias].schemas[1], extra, since)
        self.plan(alias)

    def add_reference(self, alias: str, since: int | None) -> None:
        """Put aside what resets restore, unless there is a template."""
        source_schema = self._by_alias[alias].schemas.get(1, PUBLIC)
        self.host(alias).create_reference(source_schema, since)

    def plan(self, alias: str, *, reasons: tuple[str, ...] = ()) -> None:
        """Let workers make copies of worker 1's schema; for `reasons`, each in a database."""
        database = self._by_alias[alias]
        database.source = self.host(alias).schema_source(database.schemas[1], reasons)

    def restore(self, alias: str, snapshot: "Snapshot") -> str:
        """Give worker 1 a schema that is made of a snapshot; return its name.

        Raises CopyError or SnapshotError, and has then left nothing.
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

    def snapshot(self, alias: str, fingerprint: str, now: int) -> "Snapshot | None":
        """Return the template of `alias`, if there is one, as it can be written to a file."""
        host = self.host(alias)
        return host.snapshot(fingerprint, now) if host.template else None

    def prove_template(self, alias: str) -> None:
        """Make sure that copies of the template are like the original. Raises CopyError."""
        self.host(alias).verify_template()

    def lease_kept(self, alias: str) -> bool:
        """Give worker 1 a schema of a pool, if there is one that can be used.

        Raises CopyError where it has none left, and a copy is not what it should be.
        """
        database, host = self._by_alias[alias], self._by_alias[alias].host
        if host is None or host.template is None:
            return False
        database.schemas[1] = host.leased or host.schema_source("").lease_or_copy(1)
        self.usage.add(database.name, database.schemas[1])
        database.source = host.schema_source(database.schemas[1])
        return True

    def record(self, alias: str, worker: int, *, database: str, schema: str) -> None:
        """Note where a worker is that has made its place itself."""
        found = self._by_alias[alias]
        self.usage.add(database, schema)
        if database == found.name:
            found.schemas[worker] = schema
        else:
            found.clones[worker] = database

    def reserve(self, alias: str, request: HostRequest) -> None:
        """Find a name for the host database of `alias`, which `claim` makes, or a kept one."""
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
        """Have `create` make the host database that is reserved, unless it has been made."""
        database = self._by_alias[alias]
        if database.reservation is not None:
            database.host = database.reservation.create_host(create)
            database.reservation = None

    def use_project_database(self, alias: str, request: HostRequest) -> None:
        """Take the project's own database as the host database of `alias`."""
        from ..postgres.project_host import ProjectDatabase

        with ExitStack() as build_lock:
            host = ProjectDatabase.open(request, build_lock)
            self._by_alias[alias] = TestDatabase(request.name, build_lock.pop_all(), host=host)

    def release_build_lock(self, alias: str) -> None:
        """Let other runs that want the same look at what has been built."""
        self.host(alias).start_tests()
        self._by_alias[alias].build_lock.close()

    def is_shared(self, alias: str) -> bool:
        """Whether several worker schemas are in the host database, of this run or of others."""
        return self.workers > 1 or self.keeps or not isinstance(self.host(alias), HostDatabase)

    def is_cloned(self, alias: str) -> bool:
        return self._by_alias[alias].is_cloned

    def workers_of(self, alias: str) -> list[int]:
        return [*self._by_alias[alias].schemas, *self._by_alias[alias].clones]

    def begin(self, alias: str, worker: int) -> str | None:
        """Begin a build; return the schema that it goes to, None for `public`."""
        schema = self.host(alias).begin_build(worker)
        if schema is not None:
            # Known from here on, so that a build which fails is dropped like the others.
            self._by_alias[alias].schemas[worker] = schema
        return schema

    def finish(self, alias: str, worker: int) -> str:
        """Make what a build has created the worker's schema, and return that."""
        schema = self.host(alias).finish_build(worker)
        self._by_alias[alias].schemas[worker] = schema
        self.usage.add(self._by_alias[alias].name, schema)
        return schema

    def obstacles(self, alias: str) -> list[str]:
        host = self.host(alias)
        return host.obstacles() if isinstance(host, HostDatabase) else []

    def turn_to_clones(self, alias: str) -> None:
        """Leave everything where stock Django has it, so that it can be cloned."""
        self._by_alias[alias].is_cloned = True

    def take_clone(self, alias: str, worker: int) -> bool:
        """Give a worker a clone that an earlier run has kept, if there is one."""
        if is_taken := self.host_database(alias).clones.reuse(worker):
            self._note_clone(alias, worker, is_reused=True)
        return is_taken

    @contextmanager
    def cloning(self, alias: str, worker: int) -> Iterator[None]:
        """Have the body of the `with` clone the host database for a worker."""
        with self.host_database(alias).clones.creation(worker):
            yield
        self._note_clone(alias, worker)

    def _note_clone(self, alias: str, worker: int, *, is_reused: bool = False) -> None:
        clone = self.host_database(alias).clones.names[worker]
        self._by_alias[alias].clones[worker] = clone
        self.usage.add(clone, PUBLIC, is_reused=is_reused)

    def is_kept_for_clones(self, alias: str) -> bool:
        """Whether the host database of `alias` stays, and so is not what tests use."""
        host = self._by_alias[alias].host
        return isinstance(host, HostDatabase) and host.is_kept_for_clones

    def host_database(self, alias: str) -> HostDatabase:
        host = self.host(alias)
        assert isinstance(host, HostDatabase), "the project's own database is not cloned"
        return host

    def drop(self, alias: str, worker: int) -> str | None:
        """Drop what a worker has, its schemas or its database, and say what that is."""
        database = self._by_alias[alias]
        schema, clone = database.schemas.pop(worker, None), database.clones.pop(worker, None)
        if clone is not None:
            with self._leaving(f"Database {clone!r}"):
                self.host_database(alias).clones.drop(clone)
        if not database.is_cloned:
            # A worker that was killed has not told its name, and may have left the one before.
            with self._leaving(f"Schema {schema or f'of worker {worker}'}"):
                self.host(alias).drop_worker_schemas(worker)
        if clone is not None:
            return f"database {clone!r}"
        return None if schema is None else f"schema {schema}"

    def keep(self, alias: str, worker: int) -> str | None:
        """Leave what a worker has where it is, and say what that is."""
        database = self._by_alias[alias]
        clone = database.clones.pop(worker, None)
        if clone is not None:
            with self._leaving(f"Database {clone!r}"):
                if self.host_database(alias).keep_clone(clone):
                    self.usage.kept += 1
                    return f"database {clone!r}"
            return None
        self.usage.kept += worker in database.schemas
        schema = database.schemas.pop(worker, None)
        if schema is None:
            return None
        with self._leaving(f"Schema {schema}"):
            kept = self.host(alias).keep_schema(schema, database.source)
            return f"schema {kept} in database {database.name!r}"
        return None

    def release(self, alias: str, *, keep: bool = False) -> None:
        """Drop what `alias` still has and give up its host database."""
        database = self._by_alias[alias]
        for worker in [*database.schemas, *database.clones]:
            self.drop(alias, worker)
        del self._by_alias[alias]
        database.build_lock.close()
        if database.reservation is not None:
            database.reservation.close()
        if database.host is not None:
            with self._leaving(f"Database {database.name!r}"):
                database.host.release(keep=keep)

    def close(self) -> None:
        """Release whatever is still open, as after a run that was broken off."""
        for alias, database in list(self._by_alias.items()):
            # A failure of one alias is no reason to remove what another has kept.
            has_template = database.host is not None and database.host.template is not None
            is_kept = has_template or self.is_kept_for_clones(alias)
            self.release(alias, keep=self.keeps and is_kept)

    @contextmanager
    def _leaving(self, what: str) -> Iterator[None]:
        """Tell a failure to clean up, and go on: it must not hide what the tests found."""
        try:
            yield
        except (psycopg.Error, SchemaRunnerError, KeyboardInterrupt) as error:
            self.log(f"{what} stays, for the next run to remove: {str(error) or 'interrupted'}")
            if isinstance(error, KeyboardInterrupt):
                raise


@dataclass
class TestDatabase:
    """What a run has for one database alias.

    `schemas` and `clones` map worker numbers to names: workers have clones if the alias
    `is_cloned`, or if they could not build a schema. Workers make what they use from `source`.
    Other runs that need the same wait for `build_lock`.
    """

    name: str
    build_lock: ExitStack
    reservation: Reservation | None = None
    host: Host | None = None
    schemas: dict[int, str] = field(default_factory=dict)
    clones: dict[int, str] = field(default_factory=dict)
    is_cloned: bool = False
    source: "SchemaSource | None" = None
