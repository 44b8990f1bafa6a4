"""Django's database creation hooks, which hand over to the parts of this package."""

import os
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from django.conf import settings as django_settings
from psycopg import sql

from ..alias_connection import AliasConnection
from ..connections import disconnect
from ..postgres import names
from ..search_path import programs
from .context import RunContext
from .migrator import Migrator
from .own_database import OwnDatabase
from .worker_database import WorkerDatabase

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base

    from .project_watch import ProjectWatch
    from .stock_databases import StockDatabases
    from .test_database import TestDatabase
else:
    Base = object


class SchemaCreation(Base):
    """Mixin for a backend's creation class: the hooks of the process that runs the suite.

    Django's `setup_databases` calls `create_test_db` once and `clone_test_db` for each
    worker, and its `teardown_databases` calls `destroy_test_db` for each worker and once
    more, in all versions from 5.2 to 6.1. `patch_backends` sets the class attributes.

    `context`: what the test databases of the run have in common.
    `databases`: the open test databases of the run, by alias.
    """

    context: ClassVar[RunContext]
    databases: "ClassVar[dict[str, TestDatabase]]"

    @cached_property
    def _stock(self) -> Any:
        """Django's own hooks of this object."""
        return super()

    @cached_property
    def alias_connection(self) -> AliasConnection:
        return AliasConnection(self.connection)

    @cached_property
    def _migrator(self) -> Migrator:
        return Migrator(self._stock, self.alias_connection, self.context.settings)

    @cached_property
    def _stock_databases(self) -> "StockDatabases":
        from .stock_databases import StockDatabases

        number = self.context.number
        return StockDatabases(number, self.alias_connection, self._migrator, self._stock)

    @property
    def _alias(self) -> str:
        return str(self.connection.alias)

    @property
    def test_database(self) -> "TestDatabase":
        """The test database of the alias: the open one, which all threads share, or a new one."""
        if self._alias in self.databases:
            return self.databases[self._alias]
        from .test_database import TestDatabase

        return TestDatabase(self.context, self.alias_connection, self._stock)

    @property
    def may_have_workers(self) -> bool:
        """Whether this process set up the databases, rather than inheriting them as a worker."""
        return self.context.process == os.getpid()

    def test_db_signature(self) -> tuple[Any, ...]:
        # Aliases that would have separate test databases under stock Django get separate schemas.
        *server, name = super().test_db_signature()
        is_current = self.context.settings.is_current
        return (*server, self._stock._get_test_db_name() if is_current else name)

    def create_test_db(
        self, verbosity: int = 1, autoclobber: bool = False, *args: Any, **kwargs: Any
    ) -> str:
        if programs.is_testing:
            from .stock_databases import revert_to_stock

            revert_to_stock(self)
            return str(self.create_test_db(verbosity, autoclobber, *args, **kwargs))
        from .build import Build, host_request
        from .first_schema import FirstSchema

        settings, database = self.context.settings, self.test_database
        if settings.fixtures:
            from ..fixtures import refuse_missing_fixtures

            refuse_missing_fixtures(settings, alias=self._alias)
        if settings.is_stock:
            create = partial(super().create_test_db, verbosity, autoclobber, *args, **kwargs)
            return self._stock_databases.create(create, host_request(database))
        # With keepdb, stock Django would log that it uses an existing database.
        kwargs.pop("keepdb", None)
        self.databases[self._alias] = database
        build = Build(database, self._migrator)
        self._migrator.target = first_schema = FirstSchema(build, self, verbosity, autoclobber)
        return first_schema.create(
            partial(super().create_test_db, verbosity, autoclobber, *args, **kwargs),
            serialize=bool(kwargs.get("serialize")),
        )

    def _get_test_db_name(self) -> str:
        if self.context.settings.is_stock:
            return str(self._stock._get_test_db_name())
        target = self._migrator.target
        return target.name if target else self.test_database.name

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        # Stock Django calls this to create the database, and migrates afterwards.
        if (target := self._migrator.target) is None:
            return str(self._stock._create_test_db(verbosity, autoclobber, keepdb))
        return target.create_database(verbosity, autoclobber)

    def _execute_create_test_db(self, cursor: Any, parameters: Any, keepdb: bool = False) -> None:
        name = self.connection.ops.quote_name(self._get_test_db_name())
        if not self.context.settings.is_stock and parameters["dbname"] == name:
            # Django calls `_quote_name` for clones only. The caller's DROP DATABASE uses the same
            # `parameters`.
            parameters["dbname"] = self._quote_name(self._get_test_db_name())
        self._stock._execute_create_test_db(cursor, parameters, keepdb)

    def _quote_name(self, name: str) -> str:
        if self.context.settings.is_stock:
            return str(self._stock._quote_name(name))
        return sql.Identifier(name).as_string()

    def _get_database_display_str(self, verbosity: int, database_name: str) -> str:
        shown = str(self._stock._get_database_display_str(verbosity, database_name))
        # The run creates and destroys schemas only, not the project's own database.
        return shown.replace("('", "(schemas in '") if self.context.settings.is_current else shown

    def clone_test_db(
        self, suffix: str, verbosity: int = 1, autoclobber: bool = False, keepdb: bool = False
    ) -> None:
        if self.test_database.is_open:
            # Stock Django would log that it clones, or uses an existing clone.
            verbosity, keepdb = 0 if self.test_database.is_reused else verbosity, False
        super().clone_test_db(suffix, verbosity, autoclobber, keepdb)

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        if self.context.settings.is_stock:
            self._stock_databases.clone(int(suffix), verbosity, keepdb=keepdb)
        elif self.test_database.is_cloned:
            self.test_database.clone(int(suffix), verbosity)
        # A worker that uses a schema creates it as it starts.

    def replace_clone(self, worker: int) -> None:
        """Replace the clone of a worker whose process died, if workers use clones."""
        if self.alias_connection.is_primary:
            if self.test_database.is_cloned:
                self.test_database.drop(worker)
            self._clone_test_db(str(worker), verbosity=0)

    def get_test_db_clone_settings(self, suffix: str) -> dict[str, Any]:
        settings_dict, worker = self.connection.settings_dict, int(suffix)
        locations = self.alias_connection.locations
        if locations is not None and not locations.is_for_cloning(worker):
            return {**settings_dict, **locations.for_worker(worker).entries()}
        if self.test_database.is_open:
            return {**settings_dict, "NAME": self.test_database.clone_name(worker)}
        return {**settings_dict, "NAME": names.clone_database(settings_dict["NAME"], worker)}

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        super().set_as_test_mirror(primary_settings_dict)
        self.alias_connection.mirror(primary_settings_dict)

    def destroy_test_db(
        self,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        database = self.test_database
        if not database.is_open:
            shown = verbosity if suffix is None or verbosity > 1 else 0
            super().destroy_test_db(old_database_name, shown, keepdb, suffix)
            return
        self.connection.close()
        if suffix is None and verbosity >= 1:
            action = "Preserving" if keepdb else "Destroying"
            what = "schemas" if self.context.settings.is_current else "database"
            display = self._get_database_display_str(verbosity, database.name)
            self.log(f"{action} test {what} for alias {display}...")
        for worker in database.workers if suffix is None else [int(suffix)]:
            done = database.keep(worker) if keepdb else database.drop(worker)
            # Django calls this once for each worker, and then once for the alias.
            if done is not None and verbosity >= 2:
                self.log(f"{'Kept' if keepdb else 'Dropped'} {done}.")
        if suffix is None:
            disconnect()
            del self.databases[self._alias]
            database.release(keep=keepdb)
            self._migrator.target = None
            self.alias_connection.reconnect(None)
            if old_database_name is not None:
                django_settings.DATABASES[self._alias]["NAME"] = old_database_name
                self.connection.settings_dict["NAME"] = old_database_name


class WorkerCreation(SchemaCreation):
    """`SchemaCreation` with the hooks of processes that run tests.

    Django calls `setup_worker_connection` for each alias as a worker starts, in all versions
    from 5.2 to 6.1.
    """

    @cached_property
    def worker_database(self) -> WorkerDatabase:
        return WorkerDatabase(self.context, self.alias_connection, self._migrator)

    @cached_property
    def own_database(self) -> OwnDatabase:
        return OwnDatabase(self.worker_database, self)

    @cached_property
    def project_watch(self) -> "ProjectWatch | None":
        """Compares the project's own database, if it is the host database."""
        if not self.context.settings.is_current:
            return None
        from .project_watch import ProjectWatch

        return ProjectWatch(self.context, self.alias_connection, self.worker_database.resets)

    def setup_worker_connection(self, _worker_id: Any) -> None:
        self.worker_database.set_up(int(_worker_id))
        super().setup_worker_connection(_worker_id)

    def create_test_db(self, *args: Any, **kwargs: Any) -> str:
        if self.project_watch and not programs.is_testing:
            self.project_watch.refuse_models()
        name = super().create_test_db(*args, **kwargs)
        # Unless `revert_to_stock` has changed the class of this object.
        if isinstance(self, WorkerCreation) and self.project_watch:
            self.project_watch.start(self.test_database.host)
        return name

    def deserialize_db_from_string(self, data: str) -> None:
        """Load the rows for `serialized_rollback`, unless a reset has restored them."""
        is_rollback = data is getattr(self.connection, "_test_serialized_contents", None)
        if not (is_rollback and self.worker_database.resets.has_restored_all()):
            super().deserialize_db_from_string(data)

    def destroy_test_db(
        self,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        if self.project_watch and suffix is None and self.test_database.is_open:
            self.project_watch.finish(self.test_database.host)
        self.own_database.drop()
        if suffix is None:
            self.own_database.drop_all()
        self.worker_database.resets.close()
        super().destroy_test_db(old_database_name, verbosity, keepdb, suffix)

    def prepare_for(self, test_class: type, *, own_database: bool) -> None:
        """Prepare the tables before a test class is set up."""
        self.own_database.prepare_for(test_class, is_wanted=own_database)
        self.worker_database.resets.prepare_for(test_class)
        if self.project_watch:
            self.project_watch.prepare_for_class()

    def reset_after_fork(self) -> None:
        """Forget what the parent process uses."""
        self.worker_database.reset_after_fork()
        if self.project_watch:
            self.project_watch.reset_after_fork()

    def tear_down(self, *, keep: bool) -> None:
        """Drop what this worker process has created, or keep it."""
        if self.project_watch:
            self.project_watch.close()
        self.own_database.drop()
        self.worker_database.tear_down(keep=keep)

    def log_restored_search_path(self, by: str) -> None:
        if self.context.settings.is_current:
            self.worker_database.log(
                f"{by} changed the search_path of a connection. The runner has restored it."
            )
