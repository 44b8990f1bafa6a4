"""What a worker process makes as it starts, for itself: a schema, or else a database."""

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
    """Nobody is told."""


class WorkerStart(NamedTuple):
    """How a worker process has been started.

    It `is_replacement` if another process has been the same worker before, and died.
    `report_fallback` is given an alias whose workers cannot have copies of a schema, and a line
    for the log. `report_creating` tells whether a database is being created: killed before it is
    marked, the process would leave one that no run removes. `log` adds any other line to the log,
    and is None where the process has one.
    """

    is_replacement: bool = False
    report_fallback: Callable[[str, str], None] = _ignore
    report_creating: Callable[[bool], None] = _ignore
    log: Callable[[str], None] | None = None


class WorkerCreation(ResettingCreation, SchemaCreation):
    """`ResettingCreation` in a worker: what `install` mixes in, everywhere.

    Django calls `setup_worker_connection` for each alias as a worker starts, in all versions
    from 5.2 to 6.1.
    """

    start: ClassVar[WorkerStart] = WorkerStart()

    # What this process has made for itself, and as which worker.
    created_location: Location | None = None
    _fallback_database: str | None = None
    _worker_number: int | None = None

    def setup_worker_connection(self, _worker_id: Any) -> None:
        worker, locations = int(_worker_id), self._locations
        if locations and locations.source:
            is_new = worker not in locations.by_worker or self.start.is_replacement
            primary: Any = connections[locations.alias].creation
            if is_new or primary.created_location is not None:
                self._reconnect(locations.at(worker, primary.get_or_create_location(worker)))
        super().setup_worker_connection(_worker_id)

    def get_or_create_location(self, worker: int) -> Location:
        """Return the place that this process has made as that worker; make it unless it has."""
        if self.created_location is None:
            self._set_up_dependencies(worker)
            self._worker_number = worker
            if self.start.is_replacement:
                self._source.clear(worker)
            self.created_location = self._create_location(worker)
        return self.created_location

    def reset_after_fork(self) -> None:
        """Leave what the process has made that this one was forked from to that."""
        self.created_location = self._fallback_database = self._worker_number = self._resets = None

    def tear_down(self, *, keep: bool) -> None:
        """Drop the schema that this process has made, or mark it to be kept.

        A database is left to the run: this process may be connected to it.
        """
        self.close_resets()
        if self.created_location is not None and self._fallback_database is None:
            if keep:
                _, *path = self.created_location.path
                kept = self._source.keep(self.created_location.schema)
                self.created_location = self.created_location._replace(path=(kept, *path))
            else:
                self._source.drop(self.created_location.schema)

    def _set_up_dependencies(self, worker: int) -> None:
        """Let migrations find the other databases that TEST["DEPENDENCIES"] says they need."""
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
            reasons, what = error.reasons, "be copied"
        except Exception as error:
            if self._is_current:
                raise
            reasons, what = str(error).splitlines()[:1], "be made beside others"
        why = f"a schema cannot {what}: {self._list_with_migrations(reasons)}"
        # Beside the project's own database there is to be no other.
        self.start.report_fallback(
            self._alias,
            f"Workers from the second on run the migrations for alias '{self._alias}', "
            f"because {why}."
            if self._is_current
            else self._databases_message(why),
        )
        return self._build(worker) if self._is_current else self._create_clone(worker)

    def _has_build_failed(self) -> bool:
        """Whether a worker has found that migrations cannot build a schema beside others."""
        source = self._source
        return not (source.template or self._is_current) and source.clone_source.is_ready()

    def _copy(self, worker: int) -> Location:
        schema = self._source.copy(worker)
        return self._use_schema(worker, schema, self._source.template)

    def _build(self, worker: int) -> Location:
        schema = self._source.begin(worker)
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
        """Put aside what resets restore, in a place that this process has built."""
        if not self._needs_reference_copies:
            return location
        from ..postgres.template import Template

        marker = Marker(self._source.run, MarkerState.READY)
        with self._connect() as connection:
            template = Template.create_of_rows(
                connection, location.schema, marker, location.path[1:], self._since
            )
        location = location._replace(template=template.name)
        self._use_location(worker, location)
        return location

    def _build_schema(self, worker: int, schema: str) -> None:
        source = self._source
        # Without the shims, for what a build creates must not depend on them.
        self._use_location(worker, Location(source.host, (schema, *source.path)))
        self._verify_search_path()
        with (
            self._connect() as observer,
            self._build_guard().applied_to(self.connection, observer),
        ):
            self._migrate()
        source.finish(schema)

    def _use_schema(self, worker: int, schema: str, template: str | None = None) -> Location:
        """Use a schema that is ready from now on."""
        source = self._source
        location = Location(source.host, (schema, *source.ahead, *source.path), template)
        self._use_location(worker, location)
        self._verify_search_path()
        return location

    def _build_guard(self) -> "WriteGuard":
        """Return what keeps a build to its schema; what the run has found it has told."""
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

        return {found.text for found in lint_migrations() if found.migration in trusted}

    def _create_clone(self, worker: int) -> Location:
        """Clone the spare database; build that first unless another worker has done so."""
        clone_source = self._source.clone_source
        with clone_source.build_lock() as is_missing:
            if is_missing:
                self._build_clone_source(worker, clone_source)
        with self._creating():
            self._fallback_database = clone_source.clone(worker)
        location = Location(
            self._fallback_database, template=clone_source.template_in(self._fallback_database)
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
        clone_source.complete()

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
        self._reconnect(self._locations.at(worker, location))

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
        assert self._locations.source is not None, "workers make what the run has planned"
        return self._locations.source
