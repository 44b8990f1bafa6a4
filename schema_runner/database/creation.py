"""Django's database creation hooks, implemented with schemas in one host database."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import django

from ..connections import is_project_database, server_of
from ..postgres.server import Connection, Server
from ..search_path import Location, Locations, programs
from . import extensions
from .build import MigrationOrigins
from .location import revert_to_stock
from .teardown import TearDownMixin

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base

    from ..postgres.host_request import HostRequest
    from .write_guard import WriteGuard
else:
    Base = object


class SchemaCreation(TearDownMixin, Base):
    """Mixin for a backend's creation class; `patch_backends` sets the class attributes.

    Django's `setup_databases` calls `create_test_db` once and `clone_test_db` for each
    worker, and its `teardown_databases` calls `destroy_test_db` for each worker and once
    more, in all versions from 5.2 to 6.1.
    """

    # The servers of the project's own databases.
    project_databases: ClassVar[Sequence[Server]]

    _guard: "WriteGuard"

    def create_test_db(
        self, verbosity: int = 1, autoclobber: bool = False, *args: Any, **kwargs: Any
    ) -> str:
        if programs.is_testing:
            revert_to_stock(self)
            return str(self.create_test_db(verbosity, autoclobber, *args, **kwargs))
        if self.runner_settings.fixtures:
            from ..fixtures import refuse_missing_fixtures

            refuse_missing_fixtures(self.runner_settings, alias=self._alias)
        if self._is_stock:
            from ..postgres.removal import rename_kept_database

            rename_kept_database(self._request())
            name: str = super().create_test_db(verbosity, autoclobber, *args, **kwargs)
            self._assign_locations({1: Location(name)}, 1, run=None)
            self._load_reference()
            return name
        self._open_host()
        serialize = bool(kwargs.get("serialize"))
        ready = self._use_kept(verbosity, serialize=serialize) or self._use_snapshot(
            verbosity, autoclobber, serialize=serialize
        )
        name = ready or self._run_first_build(verbosity, autoclobber, *args, **kwargs)
        self._databases.release_build_lock(self._alias)
        return name

    def _run_first_build(
        self, verbosity: int, autoclobber: bool, *args: Any, **kwargs: Any
    ) -> str:
        """Build worker 1's schema, and the template that other workers copy."""
        dropped: list[str] = []
        # With keepdb, stock Django would log that it uses an existing database.
        kwargs.pop("keepdb", None)
        with self._recording() as recording:
            with self._watch_build(dropped):
                name: str = super().create_test_db(verbosity, autoclobber, *args, **kwargs)
            reason = self._clone_reason(dropped)
            if reason:
                self._fall_back_to_clones(reason)
            else:
                self._finish_build()
                if verbosity >= 2:
                    self.log(f"Built schema {self._current_schema()} for alias '{self._alias}'.")
                if isinstance(self._pg_dump, Exception | None):
                    # Workers load the reference data in their own builds.
                    self._plan_builds(self._pg_dump)
            self._load_reference()
        if not reason and not isinstance(self._pg_dump, Exception | None):
            self._keep_template(recording)
        if self._needs_reference_copies:
            self._databases.add_reference(self._alias, self._since)
        if reason:
            self._keep_for_clones(reason, recording)
        self._switch_to(1)
        return name

    def clone_test_db(
        self, suffix: str, verbosity: int = 1, autoclobber: bool = False, keepdb: bool = False
    ) -> None:
        if self.test_databases is not None and self.test_databases.host_name(self._alias):
            # Stock Django would log that it clones, or uses an existing clone.
            verbosity, keepdb = 0 if self._is_reused else verbosity, False
        super().clone_test_db(suffix, verbosity, autoclobber, keepdb)

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        worker = int(suffix)
        if self._is_stock:
            self._clone_as_stock(worker, verbosity, keepdb)
            return
        # A worker that uses a schema creates it as it starts.
        if self._databases.is_cloned(self._alias):
            self._clone(worker, verbosity)

    def _clone_as_stock(self, worker: int, verbosity: int, keepdb: bool) -> None:
        settings_dict = self.connection.settings_dict
        before, host = Locations.of(settings_dict), settings_dict["NAME"]
        by_worker = dict(before.by_worker) if before and worker > 1 else {}
        self._assign_locations(by_worker, None, run=None)
        clone = self.get_test_db_clone_settings(str(worker))["NAME"]
        with self._nodb_cursor() as cursor:  # type: ignore[attr-defined]
            is_kept = keepdb and self._database_exists(cursor, clone)  # type: ignore[attr-defined]
        super()._clone_test_db(str(worker), verbosity, keepdb)  # type: ignore[misc]
        by_worker[worker] = Location(clone)
        if is_kept:
            # Tests of an earlier run may have flushed the tables.
            self._assign_locations(by_worker, worker, run=None)
            self._load_reference()
            settings_dict["NAME"] = host
        self._assign_locations(by_worker, None, run=None)

    def _request(self) -> "HostRequest":
        from ..postgres.host_request import HostRequest

        name = self._get_test_db_name()
        # Django removes "service" from OPTIONS for good when it connects to create a database.
        server = self._server(() if self._is_current else ("service",))
        return HostRequest(
            server=server,
            name=name,
            is_projects_own=is_project_database(self.project_databases, server, name),
            workers=self._databases.workers,
            oldest_version=_version(self.connection.features.minimum_database_version),
            log=self._databases.log,
            wanted_for=self._pool_criteria,
            pg_dump=self.runner_settings.pg_dump,
            keeps_existing=self._databases.keeps,
        )

    def _open_host(self) -> None:
        request = self._request()
        if self._is_current:
            self._guard = self._guard_of_migrations(self._databases.log)
            self._databases.use_project_database(self._alias, request)
            self._refuse_backend_that_sets_path()
        else:
            self._databases.reserve(self._alias, request)

    def _server(self, excluded: Collection[str] = ()) -> Server:
        return server_of(self.connection, excluded)

    def _migrate(self) -> None:
        """Run stock Django's build again, in the schema or database of the current connection."""
        # Django 5.2 serializes by default; later versions deprecate the argument.
        serialize = {"serialize": False} if django.VERSION < (6, 0) else {}
        # Silent, because the first build has printed the migrations' output.
        super().create_test_db(verbosity=0, autoclobber=True, **serialize)

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        # Stock Django calls this to create the database, and migrates afterwards.
        if self._is_stock:
            return self._create_as_stock(verbosity, autoclobber, keepdb)
        test_databases, alias = self._databases, self._alias
        self._log_rebuild(verbosity)
        # Do not pass keepdb: a database without a run's marker must not be reused.
        test_databases.claim(alias, lambda: self._create_as_stock(verbosity, autoclobber))
        self._switch_to(1 if test_databases.begin(alias, 1) else None, is_built=False)
        self._verify_search_path()
        return self._get_test_db_name()

    def _finish_build(self) -> None:
        test_databases, alias = self._databases, self._alias
        schema = test_databases.finish(alias, 1)
        if not isinstance(self._pg_dump, Exception | None):
            # pg_dump runs in the background.
            test_databases.start_dump(alias, self._pg_dump)
        self._isolate_advisory_locks(schema)
        self._switch_to(1)
        self._verify_search_path()

    def _fall_back_to_clones(self, reason: str) -> None:
        """Give each worker a clone of the host database, as stock Django does."""
        test_databases, alias = self._databases, self._alias
        test_databases.log(self._clones_message(reason))
        self.connection.close()
        test_databases.use_clones(alias)
        self._switch_to(1)

    def _clone(self, worker: int, verbosity: int) -> None:
        self._switch_to(None)
        if not self._databases.lease_clone(self._alias, worker):
            # Django clones the database NAME, which is the project's own if no build has run.
            self.connection.settings_dict["NAME"] = self._get_test_db_name()
            with self._databases.cloning(self._alias, worker):
                super()._clone_test_db(str(worker), verbosity)  # type: ignore[misc]
        self._switch_to(None)

    def replace_clone(self, worker: int) -> None:
        """Replace the clone of a worker whose process died.

        A worker that uses a schema creates a new one as it starts.
        """
        locations = Locations.of(self.connection.settings_dict)
        if locations is None or locations.alias != self._alias:
            return
        if self._is_stock:
            self._clone_as_stock(worker, verbosity=0, keepdb=False)
        elif self._databases.is_cloned(self._alias):
            self._databases.drop(self._alias, worker)
            self._clone(worker, verbosity=0)

    def record_location(self, worker: int, *, database: str, schema: str) -> None:
        """Record the database and schema that a worker process created."""
        self._databases.record_location(self._alias, worker, database=database, schema=schema)

    def _load_reference(self) -> None:
        if not (self.runner_settings.fixtures or self.runner_settings.seeders):
            return
        from .. import fixtures
        from .write_guard import WriteGuard

        schema = self._current_schema() or "public"
        with self._guarded(WriteGuard.for_reference_data()):
            self._since = fixtures.load_reference_data(
                self.connection, self.runner_settings, schema=schema
            )

    @property
    def _needs_reference_copies(self) -> bool:
        """Whether resets restore reference data, so that the run must keep copies of it."""
        if self._backend_sets_path:
            return False
        keeps_some = self.runner_settings.reset == "selective" and self._since is not None
        return keeps_some or self.runner_settings.reset == "reference"

    @contextmanager
    def _guarded(self, guard: "WriteGuard") -> Iterator[None]:
        """In the project's own database, apply `guard` to the connection."""
        with ExitStack() as stack:
            if self._is_current:
                observer = stack.enter_context(self._connect())
                stack.enter_context(guard.applied_to(self.connection, observer))
            yield

    def _connect(self) -> Connection:
        """Open a psycopg connection to the host database, outside of Django's connections."""
        return self._databases.host(self._alias).connect()

    @contextmanager
    def _watch_build(self, dropped: list[str]) -> Iterator[None]:
        """Observe the statements of a build.

        In the project's own database, apply the guard of migrations; elsewhere, add statements
        that drop an extension to `dropped`.
        """

        def watch(execute: Any, statement: Any, params: Any, many: bool, context: Any) -> Any:
            if text := extensions.extension_drop(statement):
                dropped.append(text)
            return execute(statement, params, many, context)

        self._origins = MigrationOrigins()
        with self.connection.execute_wrapper(self._origins):
            if self._is_current:
                with self._guarded(self._guard):
                    yield
            else:
                with self.connection.execute_wrapper(watch):
                    yield


def _version(version: tuple[int, ...] | None) -> int:
    """Convert Django's (14,) or (14, 2) to libpq's server version number, such as 140002."""
    major, minor = (*(version or ()), 0, 0)[:2]
    return major * 10000 + minor
