"""Test databases as schemas: what DatabaseCreation does, done in one host database."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import django
from django.conf import settings

from .. import reference
from ..postgres.hosts import Log, Request
from ..postgres.server import Connection, Server
from . import extensions, guard, review
from .assignment import Assignment, Place
from .naming import Naming
from .sessions import disconnect
from .statements import Kind

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base
else:
    Base = object

# What Django adds to the connection parameters for its own cursors, not for libpq.
_DJANGO_PARAMETERS = {"cursor_factory", "context", "prepare_threshold"}


def place(settings_dict: dict[str, Any]) -> tuple[str, ...]:
    """Return where the database of a connection is, in a form that can be compared."""
    return tuple(str(settings_dict[key]) for key in ("HOST", "PORT", "NAME"))


class SchemaCreation(Naming, Base):
    """Mixed into a backend's creation class by `install`, which sets the class attributes.

    Django's `setup_databases` calls `create_test_db` once and `clone_test_db` for each
    worker, and its `teardown_databases` calls `destroy_test_db` for each worker and once
    more, in all versions from 5.2 to 6.1.
    """

    # The places of the project's own databases, as `place` returns them, before the run.
    project_places: ClassVar[frozenset[tuple[str, ...]]]

    _guard: guard.Guard

    def create_test_db(self, verbosity: int = 1, *args: Any, **kwargs: Any) -> str:
        reference.refuse_missing_fixtures(self.runner_settings, alias=self._alias)
        if self._is_stock:
            name: str = super().create_test_db(verbosity, *args, **kwargs)
            self._put({1: Place(name)}, 1, run=None)
            self._load_reference()
            return name
        self._obtain_host()
        dropped: list[str] = []
        with self._watched(dropped):
            name = super().create_test_db(verbosity, *args, **kwargs)
        if obstacles := dropped + self._obstacles():
            self._turn_to_clones(obstacles)
        else:
            self._finish_build()
            if verbosity >= 2:
                self.log(f"Built schema {self._current_schema()} for alias '{self._alias}'.")
        self._load_reference()
        return name

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        worker = int(suffix)
        if self._is_stock:
            self._clone_as_stock(worker, verbosity, keepdb)
            return
        # Elsewhere each worker makes its own, as it starts.
        if self._workspace.is_cloned(self._alias):
            self._clone(worker, verbosity)

    def _clone_as_stock(self, worker: int, verbosity: int, keepdb: bool) -> None:
        settings_dict = self.connection.settings_dict
        before, host = Assignment.of(settings_dict), settings_dict["NAME"]
        places = dict(before.places) if before and worker > 1 else {}
        self._put(places, None, run=None)
        clone = self.get_test_db_clone_settings(str(worker))["NAME"]
        with self._nodb_cursor() as cursor:  # type: ignore[attr-defined]
            is_kept = keepdb and self._database_exists(cursor, clone)  # type: ignore[attr-defined]
        super()._clone_test_db(str(worker), verbosity, keepdb)  # type: ignore[misc]
        places[worker] = Place(clone)
        if is_kept:
            # Tests of an earlier run may have emptied its tables.
            self._put(places, worker, run=None)
            self._load_reference()
            settings_dict["NAME"] = host
        self._put(places, None, run=None)

    def _obtain_host(self) -> None:
        parameters = self.connection.get_connection_params()
        settings_dict, name = self.connection.settings_dict, self._get_test_db_name()
        # Django drops the service from OPTIONS as it connects to create a database, for good.
        left_out = _DJANGO_PARAMETERS if self._is_current else {*_DJANGO_PARAMETERS, "service"}
        request = Request(
            server=Server(
                {key: value for key, value in parameters.items() if key not in left_out},
                settings_dict["OPTIONS"].get("assume_role"),
            ),
            name=name,
            is_projects_own=place({**settings_dict, "NAME": name}) in self.project_places,
            workers=self._workspace.workers,
            oldest_version=_version(self.connection.features.minimum_database_version),
            log=self._workspace.log,
        )
        if self._is_current:
            self._guard = self._guard_of_migrations(self._workspace.log)
            self._workspace.use_project_database(self._alias, request)
        else:
            self._workspace.reserve(self._alias, request)

    def _create_as_stock(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        return str(super()._create_test_db(verbosity, autoclobber, keepdb))  # type: ignore[misc]

    def _migrate(self) -> None:
        """Do what stock Django's build does, once more, in what the connection leads to now."""
        # Django 5.2 serializes unless told otherwise; later versions warn when told anything.
        serialize = {"serialize": False} if django.VERSION < (6, 0) else {}
        # Silent: the first build has shown what the migrations print.
        super().create_test_db(verbosity=0, autoclobber=True, **serialize)

    def _guard_of_migrations(self, log: Log) -> guard.Guard:
        if not self._has_migrations:
            return guard.Guard()
        return guard.Guard.of_migrations(self.runner_settings.trusted_migrations, log)

    @property
    def _has_migrations(self) -> bool:
        return self.connection.settings_dict["TEST"]["MIGRATE"] is not False

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        # Stock Django creates the database here and migrates afterwards.
        if self._is_stock:
            return self._create_as_stock(verbosity, autoclobber, keepdb)
        workspace, alias = self._workspace, self._alias
        # Never with keepdb: a database that is not ours is not to be built upon.
        workspace.claim(alias, lambda: self._create_as_stock(verbosity, autoclobber))
        self._use(1 if workspace.begin(alias, 1) else None, is_built=False)
        self._settle()
        return self._get_test_db_name()

    def _finish_build(self) -> None:
        workspace, alias = self._workspace, self._alias
        self._isolate_advisory_locks(workspace.finish(alias, 1))
        if workspace.workers > 1:
            self._plan()
        self._use(1)
        self._settle()

    def _plan(self) -> None:
        reasons = self._reasons_for_databases()
        if reasons:
            self._workspace.log(
                f"Workers from the second on use databases of their own for alias "
                f"'{self._alias}', because schemas cannot keep a second build apart: "
                f"{listing(reasons)}."
            )
        self._workspace.plan(self._alias, reasons=tuple(reasons))

    def _reasons_for_databases(self) -> list[str]:
        """Name what cannot be built a second time beside the first, in another schema.

        What is about the whole database the first build has shown: see `_obstacles`.
        """
        if self._is_current or not self._has_migrations:
            return []
        trusted = self.runner_settings.trusted_migrations
        return [
            str(found)
            for found in review.review()
            if found.migration not in trusted and found.kind is not Kind.DATABASE
        ]

    def _isolate_advisory_locks(self, schema: str) -> None:
        workspace, alias = self._workspace, self._alias
        if workspace.is_shared(alias) and self.runner_settings.isolate_advisory_locks:
            collisions = workspace.host(alias).add_shims(schema)
            if collisions:
                workspace.log(
                    f"The workers of alias '{alias}' share advisory locks, because the project "
                    f"has names that are PostgreSQL's own: {listing(collisions)}."
                )

    def _obstacles(self) -> list[str]:
        """Name what the first build has done that worker schemas cannot each have."""
        if self._is_current:
            return []
        if (current := self._current_schema()) != "public":
            return [f"the search_path of the project, on which {current} comes first"]
        named = [f"table {table} of a model" for table in review.tables_in_public(self._alias)]
        return named + self._workspace.obstacles(self._alias)

    def _turn_to_clones(self, obstacles: list[str]) -> None:
        """Give each worker a clone of the host database, as stock Django does."""
        workspace, alias = self._workspace, self._alias
        workspace.log(
            f"Alias '{alias}' uses clone databases, because schemas cannot keep apart "
            f"{listing(obstacles)}."
        )
        self.connection.close()
        workspace.turn_to_clones(alias)
        self._use(1)

    def _clone(self, worker: int, verbosity: int) -> None:
        self._use(None)
        with self._workspace.cloning(self._alias, worker):
            super()._clone_test_db(str(worker), verbosity)  # type: ignore[misc]
        self._use(None)

    def renew(self, worker: int) -> None:
        """Give a worker whose process has died another clone; a schema the next process makes."""
        assignment = Assignment.of(self.connection.settings_dict)
        if assignment is None or assignment.alias != self._alias:
            return
        if self._is_stock:
            self._clone_as_stock(worker, verbosity=0, keepdb=False)
        elif self._workspace.is_cloned(self._alias):
            self._workspace.drop(self._alias, worker)
            self._clone(worker, verbosity=0)

    def record(self, worker: int, *, database: str, schema: str) -> None:
        """Note where a worker is that has made its place itself."""
        self._workspace.record(self._alias, worker, database=database, schema=schema)

    def _load_reference(self) -> None:
        schema = self._current_schema() or "public"
        with self._guarded(guard.Guard.of_reference_data()):
            reference.load(self.connection, self.runner_settings, schema=schema)

    @contextmanager
    def _guarded(self, guarding: guard.Guard) -> Iterator[None]:
        """Refuse what must not be executed in the project's own database."""
        with ExitStack() as guarded:
            if self._is_current:
                observer = guarded.enter_context(self._connect())
                guarded.enter_context(guarding.on(self.connection, observer))
            yield

    def _connect(self) -> Connection:
        """Connect to the host database past Django."""
        return self._workspace.host(self._alias).connect()

    @contextmanager
    def _watched(self, dropped: list[str]) -> Iterator[None]:
        """Watch what is executed while the body of the `with` builds.

        In the project's own database refuse what must not be executed there; elsewhere add to
        `dropped` what cannot be done a second time.
        """
        if self._is_current:
            with self._guarded(self._guard):
                yield
            return

        def watch(execute: Any, statement: Any, params: Any, many: bool, context: Any) -> Any:
            if text := extensions.dropping(statement):
                dropped.append(text)
            return execute(statement, params, many, context)

        with self.connection.execute_wrapper(watch):
            yield

    def destroy_test_db(
        self,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        alias = self._alias
        host = self.workspace.host_name(alias) if self.workspace else None
        if host is None:
            super().destroy_test_db(old_database_name, verbosity, keepdb, suffix)
            return
        self.connection.close()
        workers = self._workspace.workers_of(alias) if suffix is None else [int(suffix)]
        if verbosity >= 1:
            action = "Preserving" if keepdb else "Destroying"
            name = host if suffix is None else self._workspace.name_of(alias, int(suffix))
            display = self._get_database_display_str(verbosity, name)  # type: ignore[attr-defined]
            what = "schemas" if self._is_current else "database"
            self.log(f"{action} test {what} for alias {display}...")
        for worker in workers:
            if keepdb:
                kept = self._workspace.keep(alias, worker)
                if kept is not None and verbosity >= 1:
                    self.log(f"Kept {kept}.")
            else:
                self._workspace.drop(alias, worker)
        if suffix is None:
            disconnect()
            self._workspace.release(alias, keep=keepdb)
            self._reconnect(None)
            if old_database_name is not None:
                settings.DATABASES[alias]["NAME"] = old_database_name
                self.connection.settings_dict["NAME"] = old_database_name


def _version(version: tuple[int, ...] | None) -> int:
    """Return Django's (14,) or (14, 2) as libpq counts."""
    major, minor = (*(version or ()), 0, 0)[:2]
    return major * 10000 + minor


def listing(things: list[str]) -> str:
    """Name the first few of many things."""
    more = len(things) - 3
    return ", ".join(things[:3]) + (f" and {more} more" if more > 0 else "")
