"""Test databases as schemas: what DatabaseCreation does, done in one host database."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import django
from django.conf import settings
from django.db import connections

from .. import reference
from ..errors import SchemaRunnerError
from ..postgres.server import Server
from ..settings import Settings
from ..workspace import Workspace
from . import extensions
from .assignment import Assignment, assign, project_options

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base
else:
    Base = object

# What Django adds to the connection parameters for its own cursors, not for libpq.
_DJANGO_PARAMETERS = {"cursor_factory", "context", "prepare_threshold"}


def place(settings_dict: dict[str, Any]) -> tuple[str, ...]:
    """Return where the database of a connection is, in a form that can be compared."""
    return tuple(str(settings_dict[key]) for key in ("HOST", "PORT", "NAME"))


def disconnect() -> None:
    """Close this thread's connections to PostgreSQL, which would keep a host database in use."""
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql":
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]


class SchemaCreation(Base):
    """Mixed into a backend's creation class by `install`, which sets the class attributes.

    Django's `setup_databases` calls `create_test_db` once and `clone_test_db` for each
    worker, and its `teardown_databases` calls `destroy_test_db` for each worker and once
    more, in all versions from 5.2 to 6.1.
    """

    runner_settings: ClassVar[Settings]
    # The places of the project's own databases, as `place` returns them, before the run.
    project_places: ClassVar[frozenset[tuple[str, ...]]]
    # None in a worker that was not forked: nothing is built there.
    workspace: ClassVar[Workspace | None] = None

    def create_test_db(self, verbosity: int = 1, *args: Any, **kwargs: Any) -> str:
        with self._building(1, verbosity):
            name: str = super().create_test_db(verbosity, *args, **kwargs)
        return name

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        worker = int(suffix)
        if worker == 1:
            return  # create_test_db has made it.
        # Django 5.2 serializes unless told otherwise; later versions warn when told anything.
        serialize = {"serialize": False} if django.VERSION < (6, 0) else {}
        with self._building(worker, verbosity):
            # Silent: the first build has shown what the migrations print.
            super().create_test_db(verbosity=0, autoclobber=True, **serialize)
        self._use_schema_of(1)

    @contextmanager
    def _building(self, worker: int, verbosity: int) -> Iterator[None]:
        """Have stock Django's create_test_db, in the body, make a worker's schema."""
        with ExitStack() as self._build:
            yield
            self._expect_schema("public", 'Leave search_path out of OPTIONS["options"].')
        alias = self.connection.alias
        schema = self._workspace.schemas(alias)[worker]
        self._use_schema_of(worker)
        self._expect_schema(schema, 'A pooler must pass OPTIONS["options"] on to the server.')
        reference.load(self.connection, self.runner_settings, schema=schema)
        if verbosity >= 2:
            self.log(f"Built schema {schema} for alias '{alias}'.")

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        # Stock Django creates the database here and migrates afterwards. The build entered
        # here ends with `self._build`, which is once the migrations are done.
        alias, name = self.connection.alias, self._get_test_db_name()
        create = super()._create_test_db  # type: ignore[misc]
        if self._workspace.host_name(alias) is None:
            settings_dict = self.connection.settings_dict
            self._workspace.open(
                alias,
                self._server(),
                name,
                is_projects_own=place({**settings_dict, "NAME": name}) in self.project_places,
                # Never with keepdb: a database that is not ours is not to be built upon.
                create=lambda: create(verbosity, autoclobber, keepdb=False),
            )
        worker = len(self._workspace.schemas(alias)) + 1
        build = self._build.enter_context(self._workspace.building(alias, worker))
        if not build.is_alone:
            self._build.enter_context(self.connection.execute_wrapper(extensions.share))
        self._use_schema_of(None)
        return name

    def _expect_schema(self, schema: str, remedy: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_schema()")
            (current,) = cursor.fetchone()
        if current != schema:
            raise SchemaRunnerError(
                f"The current schema of alias '{self.connection.alias}' is {current}, where it "
                f"must be {schema}, so tables would be made or sought in the wrong place. {remedy}"
            )

    def destroy_test_db(
        self,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        alias = self.connection.alias
        host = self.workspace.host_name(alias) if self.workspace else None
        if host is None:
            super().destroy_test_db(old_database_name, verbosity, keepdb, suffix)
            return
        self.connection.close()
        schemas = self._workspace.schemas(alias)
        ending = schemas if suffix is None else {int(suffix): schemas[int(suffix)]}
        if verbosity >= 1:
            action = "Preserving" if keepdb else "Destroying"
            name = host if suffix is None else ending[int(suffix)]
            display = self._get_database_display_str(verbosity, name)  # type: ignore[attr-defined]
            self.log(f"{action} test database for alias {display}...")
        for worker in ending:
            if keepdb:
                schema = self._workspace.keep(alias, worker)
                if verbosity >= 1:
                    self.log(f"Kept schema {schema} in database '{host}'.")
            else:
                self._workspace.drop(alias, worker)
        if suffix is None:
            disconnect()
            self._workspace.release(alias, keep=keepdb)
            self._reconnect(None)
            if old_database_name is not None:
                settings.DATABASES[alias]["NAME"] = old_database_name
                self.connection.settings_dict["NAME"] = old_database_name

    def get_test_db_clone_settings(self, suffix: str) -> dict[str, Any]:
        settings_dict = self.connection.settings_dict
        assignment = Assignment.of(settings_dict)
        if assignment is None:
            return super().get_test_db_clone_settings(suffix)
        return {**settings_dict, **assignment.for_worker(int(suffix)).entries()}

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        super().set_as_test_mirror(primary_settings_dict)
        if primary := Assignment.of(primary_settings_dict):
            options = project_options(self.connection.settings_dict)
            self._reconnect(replace(primary, options=options))

    def _get_test_db_name(self) -> str:
        # NAME is the host database's once that is open.
        host = self.workspace.host_name(self.connection.alias) if self.workspace else None
        return host or str(super()._get_test_db_name())  # type: ignore[misc]

    @property
    def _workspace(self) -> Workspace:
        assert self.workspace is not None, "databases are made by the process that runs the suite"
        return self.workspace

    def _server(self) -> Server:
        parameters = self.connection.get_connection_params()
        role = self.connection.settings_dict["OPTIONS"].get("assume_role")
        return Server(
            {key: value for key, value in parameters.items() if key not in _DJANGO_PARAMETERS},
            role,
        )

    def _use_schema_of(self, worker: int | None) -> None:
        """Use a worker's schema from now on; with None the project's own search_path."""
        alias = self.connection.alias
        assignment = Assignment(
            schemas=self._workspace.schemas(alias),
            worker=worker,
            application=self._workspace.application(alias),
            options=project_options(self.connection.settings_dict),
        )
        self._reconnect(assignment)

    def _reconnect(self, assignment: Assignment | None) -> None:
        """Put an assignment into force, for connections in all threads, or take it away."""
        self.connection.close()
        self.connection.close_pool()
        assign(self.connection.settings_dict, assignment)
