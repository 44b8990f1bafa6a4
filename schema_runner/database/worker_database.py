"""Creation of a worker's schema or clone database, in the worker process as it starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from django.db import DEFAULT_DB_ALIAS, connections

from ..flush.registry import ResettingCreation
from ..postgres.names import Marker, MarkerState
from ..postgres.server import Connection
from ..search_path import Location, Locations
from .creation import SchemaCreation

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


class WorkerCreation(ResettingCreation, SchemaCreation):
    """`SchemaCreation` and `ResettingCreation`, with the setup of worker processes.

    Django calls `setup_worker_connection` for each alias as a worker starts, in all versions
    from 5.2 to 6.1.
    """

    start: ClassVar[WorkerStart] = WorkerStart()

    # The schema or clone that this process created, and its worker number.
    created_location: Location | None = None
    _fallback_database: str | None = None
    _worker_number: int | None = None

    def setup_worker_connection(self, _worker_id: Any) -> None:
        worker, locations = int(_worker_id), self._locations
        if locations and locations.source:
            is_new = worker not in locations.by_worker or self.start.is_replacement
            primary: Any = connections[locations.alias].creation
            if is_new or primary.created_location is not None:
                self._reconnect(
                    locations.with_location(worker, primary.get_or_create_location(worker))
                )
        super().setup_worker_connection(_worker_id)

    def get_or_create_location(self, worker: int) -> Location:
        """Return the worker's schema or clone; create it on the first call."""
        if self.created_location is None:
            self._set_up_dependencies(worker)
            self._worker_number = worker
            if self.start.is_replacement:
                self._source.drop_leftovers(worker)
            self.created_location = self._create_location(worker)
        return self.created_location

    def reset_after_fork(self) -> None:
        """Forget the schema or clone of the parent process."""
        self.created_location = self._fallback_database = self._worker_number = None
        self._resetter = None

    def tear_down(self, *, keep: bool) -> None:
        """Drop the worker's schema, or keep it.

        The run drops a clone, because this process may be connected to it.
        """
        self.close_resetter()
        if self.created_location is not None and self._fallback_database is None:
            if keep:
                _, *path = self.created_location.path
                kept = self._source.keep(self.created_location.schema)
                self.created_location = self.created_location._replace(path=(kept, *path))
            else:
                self._source.drop(self.created_location.schema)

    def _set_up_dependencies(self, worker: int) -> None:
        """Set up the aliases in TEST["DEPENDENCIES"], which migrations may use."""
        default = [] if self._alias == DEFAULT_DB_ALIAS else [DEFAULT_DB_ALIAS]
        for alias in self.connection.settings_dict["TEST"].get("DEPENDENCIES", default):
            other = connections[alias].creation
            locations = other._locations if isinstance(other, WorkerCreation) else None
            if locations is not None and locations.alias != self._alias:
                other.setup_worker_connection(worker)

    def _create_location(self, worker: int) -> Location:
        from ..postgres.structure_script import CopyError

        source = self._source
        reasons: Sequence[str] = source.reasons
        if reasons or self._has_build_failed():
            return self._create_clone(worker)
        try:
            return self._copy(worker) if source.template else self._build(worker)
        except CopyError as error:
            reasons, problem = error.reasons, "a schema cannot be copied"
        except Exception as error:
            if self._is_current:
                raise
            reasons, problem = str(error).splitlines()[:1], "a second schema cannot be built"
        reason = f"{problem}: {self._list_with_migrations(reasons)}"
        # With the project's own database, the run creates no other databases.
        self.start.report_fallback(
            self._alias,
            f"All workers but the first run the migrations for alias '{self._alias}', "
            f"because {reason}."
            if self._is_current
            else self._databases_message(reason),
        )
        return self._build(worker) if self._is_current else self._create_clone(worker)

    def _has_build_failed(self) -> bool:
        """Whether another worker failed to build a schema, and created the clone source."""
        source = self._source
        return not (source.template or self._is_current) and source.clone_source.is_ready()

    def _copy(self, worker: int) -> Location:
        schema = self._source.lease_or_copy(worker)
        return self._use_schema(worker, schema, self._source.template)

    def _build(self, worker: int) -> Location:
        schema = self._source.create_schema(worker)
        try:
            self._build_schema(worker, schema)
            location = self._use_schema(worker, schema)
        except Exception:
            self.connection.close()
            self._source.drop(schema)
            raise
        self._load_reference()
        return self._add_reference_copies(worker, location)

    def _add_reference_copies(self, worker: int, location: Location) -> Location:
        """Store copies of reference data for resets, after a build in this process."""
        if not self._needs_reference_copies:
            return location
        from ..postgres.template import Template

        marker = Marker(self._source.run, MarkerState.READY)
        with self._connect() as connection:
            template = Template.create_rows_only(
                connection, location.schema, marker, location.path[1:], self._since
            )
        location = location._replace(template=template.name)
        self._use_location(worker, location)
        return location

    def _build_schema(self, worker: int, schema: str) -> None:
        source = self._source
        # Without the shims, so that objects of the build do not depend on them.
        self._use_location(worker, Location(source.host, (schema, *source.path)))
        self._verify_search_path()
        with (
            self._connect() as observer,
            self._build_guard().applied_to(self.connection, observer),
        ):
            self._migrate()
        source.mark_built(schema)

    def _use_schema(self, worker: int, schema: str, template: str | None = None) -> Location:
        """Switch to a schema that is ready."""
        source = self._source
        location = Location(source.host, (schema, *source.shims_path, *source.path), template)
        self._use_location(worker, location)
        self._verify_search_path()
        return location

    def _build_guard(self) -> "WriteGuard":
        """Return the guard of a later build; the run has logged the warnings already."""
        if self._is_current:
            return self._guard_of_migrations(lambda _: None)
        from ..migration_lint.sql import Kind
        from .write_guard import WriteGuard

        return WriteGuard(self._trusted_texts(), kinds=[Kind.PUBLIC])

    def _trusted_texts(self) -> set[str]:
        trusted = self.runner_settings.trusted_migrations
        if not trusted:
            return set()
        from ..migration_lint.lint import lint_migrations

        return {finding.text for finding in lint_migrations() if finding.migration in trusted}

    def _create_clone(self, worker: int) -> Location:
        """Clone the clone source; build it first, unless another worker has built it."""
        clone_source = self._source.clone_source
        with clone_source.build_lock() as is_missing:
            if is_missing:
                self._build_clone_source(worker, clone_source)
        with self._creating():
            self._fallback_database = clone_source.clone(worker)
        location = Location(
            self._fallback_database, template=clone_source.template_schema(self._fallback_database)
        )
        self._use_location(worker, location)
        return location

    def _build_clone_source(self, worker: int, clone_source: "CloneSource") -> None:
        self._fallback_database = clone_source.name
        location = Location(clone_source.name)
        assert self._locations is not None
        self._reconnect(self._locations._replace(extensions=None))
        self._use_location(worker, location)
        self._migrate()
        self._load_reference()
        self._add_reference_copies(worker, location)
        self.connection.close()
        self.connection.close_pool()
        clone_source.mark_ready()

    @contextmanager
    def _creating(self) -> Iterator[None]:
        try:
            self.start.report_creating(True)
            yield
        finally:
            self.start.report_creating(False)

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        if self._worker_number is None:
            return super()._create_test_db(verbosity, autoclobber, keepdb)
        if self._fallback_database is not None:
            with self._creating(), self._source.clone_source.creation():
                self._create_as_stock(verbosity, autoclobber)
        return self._get_test_db_name()

    def _get_test_db_name(self) -> str:
        if self._worker_number is None:
            return super()._get_test_db_name()
        return self._fallback_database or self._source.host

    def _use_location(self, worker: int, location: Location) -> None:
        assert self._locations is not None
        self._reconnect(self._locations.with_location(worker, location))

    def _connect(self) -> Connection:
        if self._worker_number is None:
            return super()._connect()
        if self._fallback_database is not None:
            return self._server().connect(self._fallback_database)
        return self._source.connect(self._worker_number)

    def _log(self, text: str) -> None:
        if self.start.log is None:
            super()._log(text)
        else:
            self.start.log(text)

    @property
    def _locations(self) -> Locations | None:
        return Locations.of(self.connection.settings_dict)

    @property
    def _source(self) -> "SchemaSource":
        assert self._locations is not None
        assert self._locations.source is not None, "the run must plan the workers' schemas"
        return self._locations.source
