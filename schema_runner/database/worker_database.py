"""The schema or clone database of a worker, created in its process as it starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from django.db import DEFAULT_DB_ALIAS, connections

from ..alias_connection import AliasConnection
from ..flush.registry import AliasResets
from ..postgres.names import Marker, MarkerState
from ..postgres.server import Connection
from ..search_path import Location
from .context import RunContext
from .migrator import Migrator

if TYPE_CHECKING:
    from ..postgres.clones import CloneSource
    from ..postgres.worker_schemas import SchemaSource
    from .write_guard import WriteGuard


def _ignore(*_: object) -> None:
    """Default callback: do nothing."""


class WorkerStart(NamedTuple):
    """Start parameters of a worker process, and its callbacks to the run."""

    # Whether an earlier process with the same worker number died.
    is_replacement: bool = False
    # Called with an alias whose workers cannot copy a schema, and a line for the log.
    report_fallback: Callable[[str, str], None] = _ignore
    # Called with True before a database is created and with False afterwards. The run must not
    # kill the process in between: no run would remove a database that is not marked yet.
    report_creating: Callable[[bool], None] = _ignore
    # Sends a line to the run's log; None in the process that has the log.
    log: Callable[[str], None] | None = None


class WorkerDatabase:
    """What one alias uses in a process that runs tests. In a worker, it creates that itself.

    It is the target of the worker's own builds.

    `created`: the schema or clone that this process has created.
    `resets`: the resets of the alias in this process.
    """

    start: ClassVar[WorkerStart] = WorkerStart()

    def __init__(
        self, context: RunContext, connection: AliasConnection, migrator: Migrator
    ) -> None:
        self.context = context
        self.connection = connection
        self.migrator = migrator
        self.created: Location | None = None
        self.resets = AliasResets(connection, context.settings, self.log)
        self._number: int | None = None
        # The clone, or the clone source, that this process creates.
        self._fallback_database: str | None = None

    @property
    def name(self) -> str:
        return self._fallback_database or self.source.host

    @property
    def source(self) -> "SchemaSource":
        locations = self.connection.locations
        assert locations is not None
        assert locations.source is not None, "the run must plan the workers' schemas"
        return locations.source

    def log(self, text: str) -> None:
        (self.start.log or self.context.log)(text)

    def connect(self) -> Connection:
        if self._fallback_database is not None:
            return self.connection.server().connect(self._fallback_database)
        return self.source.connect(self._number)

    def create_database(self, verbosity: int, autoclobber: bool) -> str:
        if self._fallback_database is not None:
            with self.creating(), self.source.clone_source.creation():
                self.migrator.stock._create_test_db(verbosity, autoclobber, False)
        return self.name

    def set_up(self, worker: int) -> None:
        """Point connections at the schema or clone of `worker`; create it unless it exists."""
        locations = self.connection.locations
        if not (locations and locations.source):
            return
        is_new = worker not in locations.by_worker or self.start.is_replacement
        primary: WorkerDatabase = connections[locations.alias].creation.worker_database  # type: ignore[attr-defined]
        if is_new or primary.created is not None:
            location = primary._get_or_create(worker)
            # In a clone, no other worker uses the extensions.
            fields = {} if location.path else {"extensions": None}
            self.connection.use(worker, location, **fields)

    def _get_or_create(self, worker: int) -> Location:
        if self.created is None:
            self._set_up_dependencies(worker)
            self._number = worker
            self.migrator.target = self
            if self.start.is_replacement:
                self.source.drop_leftovers(worker)
            self.created = self._create(worker)
        return self.created

    def reset_after_fork(self) -> None:
        """Forget the schema or clone of the parent process."""
        self.created = self._fallback_database = self._number = None
        self.resets.forget()

    def tear_down(self, *, keep: bool) -> None:
        """Drop the worker's schema, or keep it.

        The run drops a clone, because this process may be connected to it.
        """
        self.resets.close()
        if self.created is not None and self._fallback_database is None:
            if keep:
                _, *path = self.created.path
                kept = self.source.keep(self.created.schema)
                self.created = self.created._replace(path=(kept, *path))
            else:
                self.source.drop(self.created.schema)

    def _set_up_dependencies(self, worker: int) -> None:
        """Set up the aliases in TEST["DEPENDENCIES"], which migrations may use."""
        alias = self.connection.alias
        default = [] if alias == DEFAULT_DB_ALIAS else [DEFAULT_DB_ALIAS]
        test_settings = self.connection.wrapper.settings_dict["TEST"]
        for dependency in test_settings.get("DEPENDENCIES", default):
            creation: Any = connections[dependency].creation
            other = getattr(creation, "worker_database", None)
            locations = other.connection.locations if other else None
            if locations is not None and locations.alias != alias:
                creation.setup_worker_connection(worker)

    def _create(self, worker: int) -> Location:
        from ..postgres.structure_script import CopyError

        source, is_current = self.source, self.context.settings.is_current
        reasons: Sequence[str] = source.reasons
        if reasons or self._has_build_failed():
            return self._create_clone(worker)
        try:
            return self._copy(worker) if source.template else self._build(worker)
        except CopyError as error:
            reasons, problem = error.reasons, "a schema cannot be copied"
        except Exception as error:
            if is_current:
                raise
            reasons, problem = str(error).splitlines()[:1], "a second schema cannot be built"
        alias = self.connection.alias
        reason = f"{problem}: {self.migrator.list_with_migrations(reasons)}"
        # With the project's own database, the run creates no other databases.
        self.start.report_fallback(
            alias,
            f"All workers but the first run the migrations for alias '{alias}', because {reason}."
            if is_current
            else self.migrator.databases_message(reason),
        )
        return self._build(worker) if is_current else self._create_clone(worker)

    def _has_build_failed(self) -> bool:
        """Whether another worker failed to build a schema, and created the clone source."""
        source = self.source
        has_no_clones = source.template or self.context.settings.is_current
        return not has_no_clones and source.clone_source.is_ready()

    def _copy(self, worker: int) -> Location:
        return self._use_schema(worker, self.source.lease_or_copy(worker), self.source.template)

    def _build(self, worker: int) -> Location:
        schema = self.source.create_schema(worker)
        try:
            self._build_schema(worker, schema)
            location = self._use_schema(worker, schema)
        except Exception:
            self.connection.wrapper.close()
            self.source.drop(schema)
            raise
        return self._load_reference(worker, location)

    def _build_schema(self, worker: int, schema: str) -> None:
        # Without the shims, so that objects of the build do not depend on them.
        self.connection.use(worker, Location(self.source.host, (schema, *self.source.path)))
        self.connection.verify_search_path()
        with self.migrator.guarded(self._build_guard()):
            self.migrator.migrate()
        self.source.mark_built(schema)

    def _use_schema(self, worker: int, schema: str, template: str | None = None) -> Location:
        """Switch to a schema that is ready."""
        source = self.source
        location = Location(source.host, (schema, *source.shims_path, *source.path), template)
        self.connection.use(worker, location)
        self.connection.verify_search_path()
        return location

    def _load_reference(self, worker: int, location: Location) -> Location:
        """Load reference data after a build in this process, and copy what resets restore."""
        since = self.migrator.load_reference()
        if self.migrator.needs_copies(since):
            from ..postgres.template import Template

            marker = Marker(self.source.run, MarkerState.READY)
            with self.connect() as connection:
                template = Template.create_rows_only(
                    connection, location.schema, marker, location.path[1:], since
                )
            location = location._replace(template=template.name)
            self.connection.use(worker, location)
        return location

    def _build_guard(self) -> "WriteGuard":
        """Return the guard of a later build; the run has logged the warnings already."""
        if self.context.settings.is_current:
            return self.migrator.migrations_guard(_ignore)
        from ..migration_lint.sql import Kind
        from .write_guard import WriteGuard

        return WriteGuard(self._trusted_texts(), kinds=[Kind.PUBLIC])

    def _trusted_texts(self) -> set[str]:
        trusted = self.context.settings.trusted_migrations
        if not trusted:
            return set()
        from ..migration_lint.lint import lint_migrations

        return {finding.text for finding in lint_migrations() if finding.migration in trusted}

    def _create_clone(self, worker: int) -> Location:
        """Clone the clone source; build it first, unless another worker has built it."""
        clone_source = self.source.clone_source
        with clone_source.build_lock() as is_missing:
            if is_missing:
                self._build_clone_source(worker, clone_source)
        with self.creating():
            self._fallback_database = clone_source.clone(worker)
        location = Location(
            self._fallback_database, template=clone_source.template_schema(self._fallback_database)
        )
        self.connection.use(worker, location)
        return location

    def _build_clone_source(self, worker: int, clone_source: "CloneSource") -> None:
        self._fallback_database = clone_source.name
        location = Location(clone_source.name)
        self.connection.use(worker, location, extensions=None)
        self.migrator.migrate()
        self._load_reference(worker, location)
        self.connection.close()
        clone_source.mark_ready()

    @contextmanager
    def creating(self) -> Iterator[None]:
        """Keep the run from killing this process while it creates a database."""
        try:
            self.start.report_creating(True)
            yield
        finally:
            self.start.report_creating(False)
