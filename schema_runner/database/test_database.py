"""The test database of one alias, in the process that runs the suite."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg

from ..alias_connection import AliasConnection
from ..errors import SchemaRunnerError
from ..postgres import names
from ..postgres.host import PUBLIC, Host
from ..postgres.host_request import HostRequest
from ..postgres.host_reservation import Reservation
from ..postgres.server import Connection
from ..postgres.test_host import HostDatabase
from ..search_path import Location
from .context import RunContext

if TYPE_CHECKING:
    from ..postgres.worker_schemas import SchemaSource


class TestDatabase:
    """The host database of one alias, with the schemas and clones of its workers.

    `name`: the name of the host database.
    `host`: the host database, from `open` or `create_host` until `release`.
    `schemas`, `clones`: the schema or the clone database of each worker, by number.
    `source`: what workers create their schemas from.
    `is_cloned`: whether all workers use clones of the host database.
    `is_reused`: whether the first schema, or the database to clone, comes from a pool.
    """

    __test__: ClassVar[bool] = False

    def __init__(self, context: RunContext, connection: AliasConnection, stock: Any) -> None:
        self.context = context
        self.settings = context.settings
        self.connection = connection
        self.log = context.log
        self.schemas: dict[int, str] = {}
        self.clones: dict[int, str] = {}
        self.source: SchemaSource | None = None
        self.is_cloned = self.is_reused = False
        self._stock = stock
        self._host: Host | None = None
        # A name for a new host database, until `create_host` creates it.
        self._reservation: Reservation | None = None
        # Other processes with the same fingerprint wait for it.
        self._build_lock = ExitStack()

    @property
    def alias(self) -> str:
        return self.connection.alias

    @property
    def number(self) -> int:
        """The number of the worker whose schema this process builds."""
        return self.context.number

    @property
    def is_open(self) -> bool:
        return self._host is not None or self._reservation is not None

    @property
    def is_created(self) -> bool:
        return self._host is not None

    @property
    def name(self) -> str:
        if self._host is not None:
            return self._host.name
        if self._reservation is not None:
            return self._reservation.name
        if self.settings.is_current:
            name = self.connection.wrapper.settings_dict["NAME"]
            return str(name) or self.connection.current_database()
        return names.database_name(str(self._stock._get_test_db_name()))

    @property
    def host(self) -> Host:
        assert self._host is not None, "the host database must be created before it is used"
        return self._host

    @property
    def test_host(self) -> HostDatabase:
        assert isinstance(self.host, HostDatabase), "the project's own database is not cloned"
        return self.host

    @property
    def is_kept_for_clones(self) -> bool:
        """Whether the host database is kept for cloning, so that tests must not use it."""
        return isinstance(self._host, HostDatabase) and self._host.is_kept_for_clones

    @property
    def is_shared(self) -> bool:
        """Whether the host database can hold schemas of several workers or runs."""
        context = self.context
        is_of_project = not isinstance(self.host, HostDatabase)
        return context.workers > 1 or context.sharing is not None or is_of_project

    def open(self, request: HostRequest) -> None:
        """Open the project's own database or a kept one, or reserve a name for a new one."""
        with ExitStack() as build_lock:
            if self.settings.is_current:
                from ..postgres.project_host import ProjectDatabase

                self._host = ProjectDatabase.open(request, build_lock)
            else:
                reservation = Reservation(request, build_lock)
                if reservation.kept is None:
                    self._reservation = reservation
                else:
                    self._host = reservation.kept
                    self.is_cloned = reservation.kept.is_kept_for_clones
            self._build_lock = build_lock.pop_all()

    def create_host(self, create: Callable[[], object]) -> None:
        """Create the reserved host database with `create`, unless it exists already."""
        if self._reservation is not None:
            reservation = self._reservation
            self._host = reservation.create_host(create)
            self._reservation = None

    def release_build_lock(self) -> None:
        """Let other processes with the same fingerprint use what this one has built."""
        self.host.start_tests()
        self._build_lock.close()

    def connect(self) -> Connection:
        return self.host.connect()

    def switch_to(self, worker: int | None, *, is_built: bool = True) -> None:
        """Switch connections to a worker's schema or clone; to the host database if None.

        Pass `is_built=False` during a build, to leave the shims off the path. Otherwise, objects
        would refer to the shims, and differ from those of the first build, which had no shims.
        """
        host = self.host
        path = (*host.shims_path, *host.path) if is_built else host.path
        by_worker = {
            number: Location(host.name, (schema, *path), host.reference)
            for number, schema in self.schemas.items()
        }
        # Each clone has a copy of the template.
        by_worker |= {
            number: Location(clone, (), host.reference) for number, clone in self.clones.items()
        }
        if worker is not None:
            # Before clones exist, or if the worker needs none.
            by_worker.setdefault(worker, Location(host.name, (), host.reference))
        self.connection.assign(
            by_worker,
            worker,
            run=host.lease.run,
            extensions=host.extensions if self.schemas and self.is_shared else None,
            source=self.source if is_built else None,
        )

    def add_schema(self, schema: str) -> None:
        """Use a schema for the worker of this process."""
        self.schemas[self.number] = schema
        self.context.usage.add(self.name, schema)

    def plan(self, *, reasons: tuple[str, ...] = ()) -> None:
        """Set what workers create their schemas from; if there are `reasons`, they use clones."""
        self.source = self.host.schema_source(self.schemas[self.number], reasons)

    def record_location(self, worker: int, *, database: str, schema: str) -> None:
        """Record the schema or clone that a worker process created."""
        self.context.usage.add(database, schema)
        if database == self.name:
            self.schemas[worker] = schema
        else:
            self.clones[worker] = database

    def clone_name(self, worker: int) -> str:
        return self.test_host.clones.names[worker]

    def clone(self, worker: int, verbosity: int) -> None:
        """Give a worker a clone of the host database: a kept one, or a new one of Django's."""
        self.switch_to(None)
        clones = self.test_host.clones
        is_reused = clones.reuse(worker)
        if not is_reused:
            # Django clones the database NAME, which is the project's own if no build has run.
            self.connection.wrapper.settings_dict["NAME"] = self.name
            with clones.creation(worker):
                self._stock._clone_test_db(str(worker), verbosity)
        self.clones[worker] = clones.names[worker]
        self.context.usage.add(self.clones[worker], PUBLIC, is_reused=is_reused)
        self.switch_to(None)

    @property
    def workers(self) -> list[int]:
        return [*self.schemas, *self.clones]

    def drop(self, worker: int) -> str | None:
        """Drop a worker's schemas or clone; return what was dropped, for the log, or None."""
        schema, clone = self.schemas.pop(worker, None), self.clones.pop(worker, None)
        if clone is not None:
            with self._log_failure(f"Database {clone!r}"):
                self.test_host.clones.drop(clone)
        if not self.is_cloned:
            # A killed worker may not have reported its schema, or may have left several.
            with self._log_failure(f"Schema {schema or f'of worker {worker}'}"):
                self.host.drop_worker_schemas(worker)
        if clone is not None:
            return f"database {clone!r}"
        return None if schema is None else f"schema {schema}"

    def keep(self, worker: int) -> str | None:
        """Keep a worker's schema or clone; return what was kept, for the log, or None."""
        usage, clone = self.context.usage, self.clones.pop(worker, None)
        if clone is not None:
            with self._log_failure(f"Database {clone!r}"):
                if self.test_host.keep_clone(clone):
                    usage.kept += 1
                    return f"database {clone!r}"
            return None
        schema = self.schemas.pop(worker, None)
        if schema is None:
            return None
        usage.kept += 1
        with self._log_failure(f"Schema {schema}"):
            kept = self.host.keep_schema(schema, self.source)
            return f"schema {kept} in database {self.name!r}"
        return None

    def release(self, *, keep: bool = False) -> None:
        """Drop the remaining schemas and clones, and release the host database."""
        for worker in self.workers:
            self.drop(worker)
        self._build_lock.close()
        name, host, self._host = self.name, self._host, None
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None
        if host is not None:
            with self._log_failure(f"Database {name!r}"):
                host.release(keep=keep)

    def close(self) -> None:
        """Release the host database if it is still open, as after an interrupted run."""
        if self.is_open:
            # If one alias failed, the others are kept nevertheless.
            has_template = self._host is not None and self._host.template is not None
            is_kept = has_template or self.is_kept_for_clones
            self.release(keep=self.context.keeps and is_kept)

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
