"""Test databases as schemas: what DatabaseCreation does, done in one host database."""

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import django
from django.conf import settings
from django.db import connections

from .. import reference
from ..names import application
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

    workspace: ClassVar[Workspace]
    runner_settings: ClassVar[Settings]

    def create_test_db(
        self, verbosity: int = 1, autoclobber: bool = False, *args: Any, **kwargs: Any
    ) -> str:
        with ExitStack() as self._build, self.connection.execute_wrapper(extensions.share):
            name = super().create_test_db(verbosity, autoclobber, *args, **kwargs)
        self._finish_build(worker=1, verbosity=verbosity)
        return name

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        # Stock Django creates the database here and migrates afterwards. The build entered
        # here ends with `self._build`, which is once the migrations are done.
        alias, name = self.connection.alias, self._get_test_db_name()
        create = super()._create_test_db  # type: ignore[misc]
        if self.workspace.host_name(alias) is None:
            self.workspace.open(
                alias,
                self._server(),
                name,
                # Never with keepdb: a database that is not ours is not to be built upon.
                create=lambda: create(verbosity, autoclobber, keepdb=False),
            )
        worker = len(self.workspace.schemas(alias)) + 1
        self._build.enter_context(self.workspace.building(alias, worker))
        return name

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        worker = int(suffix)
        if worker == 1:
            return  # create_test_db has made it.
        self._reconnect(None)
        # Django 5.2 serializes unless told otherwise; later versions warn when told anything.
        serialize = {"serialize": False} if django.VERSION < (6, 0) else {}
        with ExitStack() as self._build, self.connection.execute_wrapper(extensions.share):
            # Silent: the first build has shown what the migrations print.
            super().create_test_db(verbosity=0, autoclobber=True, **serialize)
        self._finish_build(worker, verbosity)
        self._use_schema_of(1)

    def _finish_build(self, worker: int, verbosity: int) -> None:
        self._use_schema_of(worker)
        alias = self.connection.alias
        schema = self.workspace.schemas(alias)[worker]
        reference.load(self.connection, self.runner_settings, schema=schema)
        if verbosity >= 2:
            self.log(f"Built schema {schema} for alias '{alias}'.")

    def destroy_test_db(
        self,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        alias = self.connection.alias
        host = self.workspace.host_name(alias)
        if host is None:
            super().destroy_test_db(old_database_name, verbosity, keepdb, suffix)
            return
        self.connection.close()
        schemas = self.workspace.schemas(alias)
        ending = schemas if suffix is None else {int(suffix): schemas[int(suffix)]}
        if verbosity >= 1:
            action = "Preserving" if keepdb else "Destroying"
            name = host if suffix is None else ending[int(suffix)]
            display = self._get_database_display_str(verbosity, name)  # type: ignore[attr-defined]
            self.log(f"{action} test database for alias {display}...")
        for worker in ending:
            self._end_schema(worker, verbosity, keepdb)
        if suffix is None:
            disconnect()
            self.workspace.release(alias, keep=keepdb)
            self._reconnect(None)
            if old_database_name is not None:
                settings.DATABASES[alias]["NAME"] = old_database_name
                self.connection.settings_dict["NAME"] = old_database_name

    def _end_schema(self, worker: int, verbosity: int, keepdb: bool) -> None:
        alias = self.connection.alias
        if keepdb:
            schema = self.workspace.keep(alias, worker)
            if verbosity >= 1:
                self.log(f"Kept schema {schema} in database '{self.workspace.host_name(alias)}'.")
        else:
            self.workspace.drop(alias, worker)

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
        host: str | None = self.workspace.host_name(self.connection.alias)
        return host or super()._get_test_db_name()  # type: ignore[misc]

    def _server(self) -> Server:
        parameters = self.connection.get_connection_params()
        role = self.connection.settings_dict["OPTIONS"].get("assume_role")
        return Server(
            {key: value for key, value in parameters.items() if key not in _DJANGO_PARAMETERS},
            role,
        )

    def _use_schema_of(self, worker: int) -> None:
        assignment = Assignment(
            schemas=self.workspace.schemas(self.connection.alias),
            worker=worker,
            application=application(self.workspace.run),
            options=project_options(self.connection.settings_dict),
        )
        self._reconnect(assignment)

    def _reconnect(self, assignment: Assignment | None) -> None:
        """Put an assignment into force, for connections in all threads, or take it away."""
        self.connection.close()
        self.connection.close_pool()
        assign(self.connection.settings_dict, assignment)
