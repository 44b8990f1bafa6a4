"""Test databases as schemas: what DatabaseCreation does, done in one host database."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import django

from ..connections import is_project_database, server_of
from ..postgres.server import Connection, Server
from ..search_path import Location, Locations, programs
from . import extensions
from .build import MigrationOrigins
from .location import become_stock
from .teardown import TearDownMixin

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base

    from ..postgres.host_request import HostRequest
    from .write_guard import WriteGuard
else:
    Base = object


class SchemaCreation(TearDownMixin, Base):
    """Mixed into a backend's creation class by `install`, which sets the class attributes.

    Django's `setup_databases` calls `create_test_db` once and `clone_test_db` for each
    worker, and its `teardown_databases` calls `destroy_test_db` for each worker and once
    more, in all versions from 5.2 to 6.1.
    """

    # How to reach the project's own databases.
    project_databases: ClassVar[Sequence[Server]]

    _guard: "WriteGuard"

    def create_test_db(
        self, verbosity: int = 1, autoclobber: bool = False, *args: Any, **kwargs: Any
    ) -> str:
        if programs.is_testing:
            become_stock(self)
            return str(self.create_test_db(verbosity, autoclobber, *args, **kwargs))
        if self.runner_settings.fixtures:
            from ..fixtures import refuse_missing_fixtures

            refuse_missing_fixtures(self.runner_settings, alias=self._alias)
        if self._is_stock:
            from ..postgres.removal import rename_kept_database

            rename_kept_database(self._request())
            name: str = super().create_test_db(verbosity, autoclobber, *args, **kwargs)
            self._put({1: Location(name)}, 1, run=None)
            self._load_reference()
            return name
        self._obtain_host()
        serialize = bool(kwargs.get("serialize"))
        ready = self._use_kept(verbosity, serialize=serialize) or self._use_snapshot(
            verbosity, autoclobber, serialize=serialize
        )
        name = ready or self._build_first(verbosity, autoclobber, *args, **kwargs)
        self._databases.release_build_lock(self._alias)
        return name

    def _build_first(self, verbosity: int, autoclobber: bool, *args: Any, **kwargs: Any) -> str:
        """Build what worker 1 uses, and the others get copies of."""
        dropped: list[str] = []
        # Stock would say that it uses what it is about to create.
        kwargs.pop("keepdb", None)
        with self._recording() as recording:
            with self._watched(dropped):
                name: str = super().create_test_db(verbosity, autoclobber, *args, **kwargs)
            why = self._why_clones(dropped)
            if why:
                self._turn_to_clones(why)
            else:
                self._finish_build()
                if verbosity >= 2:
                    self.log(f"Built schema {self._current_schema()} for alias '{self._alias}'.")
                if isinstance(self._pg_dump, Exception | None):
                    # They load the reference data themselves.
                    self._plan_builds(self._pg_dump)
            self._load_reference()
        if not why and not isinstance(self._pg_dump, Exception | None):
            self._keep_template(recording)
        if self._needs_reference:
            self._databases.add_reference(self._alias, self._since)
        if why:
            self._prepare_clones(why, recording)
        self._use(1)
        return name

    def clone_test_db(
        self, suffix: str, verbosity: int = 1, autoclobber: bool = False, keepdb: bool = False
    ) -> None:
        if self.test_databases is not None and self.test_databases.host_name(self._alias):
            # Stock would say that it uses a clone, or clones, what is neither.
            verbosity, keepdb = 0 if self._is_reused else verbosity, False
        super().clone_test_db(suffix, verbosity, autoclobber, keepdb)

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        worker = int(suffix)
        if self._is_stock:
            self._clone_as_stock(worker, verbosity, keepdb)
            return
        # Elsewhere each worker makes its own, as it starts.
        if self._databases.is_cloned(self._alias):
            self._clone(worker, verbosity)

    def _clone_as_stock(self, worker: int, verbosity: int, keepdb: bool) -> None:
        settings_dict = self.connection.settings_dict
        before, host = Locations.of(settings_dict), settings_dict["NAME"]
        by_worker = dict(before.by_worker) if before and worker > 1 else {}
        self._put(by_worker, None, run=None)
        clone = self.get_test_db_clone_settings(str(worker))["NAME"]
        with self._nodb_cursor() as cursor:  # type: ignore[attr-defined]
            is_kept = keepdb and self._database_exists(cursor, clone)  # type: ignore[attr-defined]
        super()._clone_test_db(str(worker), verbosity, keepdb)  # type: ignore[misc]
        by_worker[worker] = Location(clone)
        if is_kept:
            # Tests of an earlier run may have emptied its tables.
            self._put(by_worker, worker, run=None)
            self._load_reference()
            settings_dict["NAME"] = host
        self._put(by_worker, None, run=None)

    def _request(self) -> "HostRequest":
        from ..postgres.host_request import HostRequest

        name = self._get_test_db_name()
        # Django drops the service from OPTIONS as it connects to create a database, for good.
        server = self._server(() if self._is_current else ("service",))
        return HostRequest(
            server=server,
            name=name,
            is_projects_own=is_project_database(self.project_databases, server, name),
            workers=self._databases.workers,
            oldest_version=_version(self.connection.features.minimum_database_version),
            log=self._databases.log,
            wanted_for=self._want,
            pg_dump=self.runner_settings.pg_dump,
            keeps_existing=self._databases.keeps,
        )

    def _obtain_host(self) -> None:
        request = self._request()
        if self._is_current:
            self._guard = self._guard_of_migrations(self._databases.log)
            self._databases.use_project_database(self._alias, request)
            self._refuse_backend_that_sets_path()
        else:
            self._databases.reserve(self._alias, request)

    def _server(self, left_out: Collection[str] = ()) -> Server:
        return server_of(self.connection, left_out)

    def _migrate(self) -> None:
        """Do what stock Django's build does, once more, in what the connection leads to now."""
        # Django 5.2 serializes unless told otherwise; later versions warn when told anything.
        serialize = {"serialize": False} if django.VERSION < (6, 0) else {}
        # Silent: the first build has shown what the migrations print.
        super().create_test_db(verbosity=0, autoclobber=True, **serialize)

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        # Stock Django creates the database here and migrates afterwards.
        if self._is_stock:
            return self._create_as_stock(verbosity, autoclobber, keepdb)
        test_databases, alias = self._databases, self._alias
        self._say_anew(verbosity)
        # Never with keepdb: a database that is not ours is not to be built upon.
        test_databases.claim(alias, lambda: self._create_as_stock(verbosity, autoclobber))
        self._use(1 if test_databases.begin(alias, 1) else None, is_built=False)
        self._settle()
        return self._get_test_db_name()

    def _finish_build(self) -> None:
        test_databases, alias = self._databases, self._alias
        schema = test_databases.finish(alias, 1)
        if not isinstance(self._pg_dump, Exception | None):
            # It works while this process goes on.
            test_databases.start_dump(alias, self._pg_dump)
        self._isolate_advisory_locks(schema)
        self._use(1)
        self._settle()

    def _turn_to_clones(self, why: str) -> None:
        """Give each worker a clone of the host database, as stock Django does."""
        test_databases, alias = self._databases, self._alias
        test_databases.log(self._of_clones(why))
        self.connection.close()
        test_databases.turn_to_clones(alias)
        self._use(1)

    def _clone(self, worker: int, verbosity: int) -> None:
        self._use(None)
        if not self._databases.take_clone(self._alias, worker):
            # What Django clones: it is the project's own until a build, or a place, has set it.
            self.connection.settings_dict["NAME"] = self._get_test_db_name()
            with self._databases.cloning(self._alias, worker):
                super()._clone_test_db(str(worker), verbosity)  # type: ignore[misc]
        self._use(None)

    def renew(self, worker: int) -> None:
        """Give a worker whose process has died another clone; a schema the next process makes."""
        locations = Locations.of(self.connection.settings_dict)
        if locations is None or locations.alias != self._alias:
            return
        if self._is_stock:
            self._clone_as_stock(worker, verbosity=0, keepdb=False)
        elif self._databases.is_cloned(self._alias):
            self._databases.drop(self._alias, worker)
            self._clone(worker, verbosity=0)

    def record(self, worker: int, *, database: str, schema: str) -> None:
        """Note where a worker is that has made its place itself."""
        self._databases.record(self._alias, worker, database=database, schema=schema)

    def _load_reference(self) -> None:
        if not (self.runner_settings.fixtures or self.runner_settings.seeders):
            return
        from .. import fixtures
        from .write_guard import WriteGuard

        schema = self._current_schema() or "public"
        with self._guarded(WriteGuard.of_reference_data()):
            self._since = fixtures.load_reference_data(
                self.connection, self.runner_settings, schema=schema
            )

    @property
    def _needs_reference(self) -> bool:
        """Whether resets restore rows that are there already, and so have to be put aside."""
        if self._backend_sets_path:
            return False
        keeps_some = self.runner_settings.reset == "selective" and self._since is not None
        return keeps_some or self.runner_settings.reset == "reference"

    @contextmanager
    def _guarded(self, guarding: "WriteGuard") -> Iterator[None]:
        """Refuse what must not be executed in the project's own database."""
        with ExitStack() as guarded:
            if self._is_current:
                observer = guarded.enter_context(self._connect())
                guarded.enter_context(guarding.on(self.connection, observer))
            yield

    def _connect(self) -> Connection:
        """Connect to the host database past Django."""
        return self._databases.host(self._alias).connect()

    @contextmanager
    def _watched(self, dropped: list[str]) -> Iterator[None]:
        """Watch what is executed while the body of the `with` builds.

        In the project's own database refuse what must not be executed there; elsewhere add to
        `dropped` what cannot be done a second time.
        """

        def watch(execute: Any, statement: Any, params: Any, many: bool, context: Any) -> Any:
            if text := extensions.dropping(statement):
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
    """Return Django's (14,) or (14, 2) as libpq counts."""
    major, minor = (*(version or ()), 0, 0)[:2]
    return major * 10000 + minor
