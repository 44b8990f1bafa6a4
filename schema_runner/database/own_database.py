"""Databases of classes marked with `own_database`: one in each process that runs tests."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from django.db import connections
from psycopg import sql

from ..connections import abandon_transactions
from ..errors import SchemaRunnerError
from ..postgres import names
from ..postgres.server import Connection
from ..search_path import Location, Locations
from .worker_database import WorkerDatabase

if TYPE_CHECKING:
    from ..postgres.lease import Lease
    from ..postgres.worker_schemas import SchemaSource
    from .test_database import TestDatabase


class _Target(NamedTuple):
    """A database to create; `source` is what the worker's schema is created from."""

    source: "SchemaSource"
    worker: int

    @property
    def name(self) -> str:
        return names.own_database(self.source.host, self.source.run, self.worker)


class OwnDatabase:
    """Switches an alias to a separate database for classes with `own_database`.

    The process creates the database for the first such class, and reuses it for the others. It is
    the target of its own build.

    `created_name`: the name of the database, also after it was dropped.
    """

    def __init__(self, worker_database: WorkerDatabase, creation: Any) -> None:
        self.created_name: str | None = None
        self._worker_database = worker_database
        self._connection = worker_database.connection
        self._context = worker_database.context
        self._creation = creation
        self._target: _Target | None = None
        self._location: Location | None = None
        self._lease: Lease | None = None
        # While a class uses the separate database: the locations that other classes use.
        self._shared_locations: Locations | None = None

    @property
    def name(self) -> str:
        assert self._target is not None
        return self._target.name

    def connect(self) -> Connection:
        return self._connection.server().connect(self.name)

    def create_database(self, verbosity: int, autoclobber: bool) -> str:
        from ..postgres import extra_database

        assert self._target is not None
        self._release_lease()
        self.created_name = self.name
        with self._worker_database.creating():
            self._lease = extra_database.create(
                self._target.source, self._target.worker, self._execute_create
            )
        return self.name

    def _execute_create(self) -> None:
        """Create the database as stock Django does, but raise SchemaRunnerError if that fails."""
        parameters = {
            "dbname": sql.Identifier(self.name).as_string(),
            "suffix": self._creation.sql_table_creation_suffix(),
        }
        try:
            with self._creation._nodb_cursor() as cursor:
                self._creation._execute_create_test_db(cursor, parameters)
        except SystemExit as error:
            raise SchemaRunnerError(
                f"Cannot create database {self.name!r}: {error.__context__}"
            ) from error

    def prepare_for(self, test_class: type, *, is_wanted: bool) -> None:
        """Switch to the separate database if the class wants it; else switch back."""
        is_current = self._context.settings.is_current
        if is_wanted and not is_current and self._is_used_by(test_class):
            self._enter()
        else:
            self._leave()

    def _is_used_by(self, test_class: type) -> bool:
        wanted = getattr(test_class, "databases", "__all__")
        return wanted == "__all__" or not self._aliases_of_database.isdisjoint(wanted)

    @property
    def _aliases_of_database(self) -> set[str]:
        """The aliases that share this alias's database, and switch together."""
        locations = self._shared_locations or self._connection.locations
        by_alias = {
            connection.alias: Locations.of(connection.settings_dict)
            for connection in connections.all()
        }
        return {
            alias
            for alias, other in by_alias.items()
            if other and locations and other.alias == locations.alias
        }

    def _enter(self) -> None:
        """Switch to the separate database, unless the worker has a clone already."""
        locations = self._connection.locations
        if self._shared_locations or not (
            locations and locations.location and locations.location.path
        ):
            return
        abandon_transactions()
        primary: OwnDatabase = connections[locations.alias].creation.own_database  # type: ignore[attr-defined]
        location = primary._get_or_create()
        self._shared_locations = locations
        self._use(location)
        self._clear_type_caches()
        resets = self._worker_database.resets
        # A reset without copies of rows would create schemas, which tests that read the catalog
        # or dump the database would see.
        resets.is_suspended = location.template is None
        assert locations.location is not None
        resets.disconnect(locations.location.database)

    def _leave(self) -> None:
        if self._shared_locations is None:
            return
        abandon_transactions()
        resets = self._worker_database.resets
        resets.is_suspended = False
        if self._connection.location is not None:
            resets.disconnect(self._connection.location.database)
        locations, self._shared_locations = self._shared_locations, None
        self._connection.reconnect(locations)
        self._clear_type_caches()

    def _use(self, location: Location) -> None:
        locations = self._connection.locations
        assert locations is not None
        assert locations.worker is not None
        self._connection.use(locations.worker, location, extensions=None)

    def _clear_type_caches(self) -> None:
        """Clear the caches of OIDs of hstore, citext and PostGIS types, which differ by database.

        Django 5.2 to 6.1 caches them by alias.
        """
        if signals := sys.modules.get("django.contrib.postgres.signals"):
            signals.get_hstore_oids.cache_clear()
            signals.get_citext_oids.cache_clear()
        for type_infos in getattr(self._connection.wrapper, "_type_infos", {}).values():
            type_infos.pop(self._connection.alias, None)

    def _get_or_create(self) -> Location:
        """Return the location of the separate database; create it on the first call."""
        if self._location is not None:
            return self._location
        shared = self._shared_locations or self._connection.locations
        assert shared is not None
        assert shared.worker is not None
        from ..postgres import extra_database

        source = shared.source or self._source_of_serial_run()
        self._target = target = _Target(source, shared.worker)
        migrator = self._worker_database.migrator
        before, migrator.target = migrator.target, self
        try:
            self._use(Location(target.name))
            self._location = self._copy_template(target) or self._migrate()
            assert self._lease is not None
            extra_database.mark_ready(source, target.worker, self._lease.connection)
        finally:
            migrator.target = before
            self._connection.reconnect(shared)
        return self._location

    def _source_of_serial_run(self) -> "SchemaSource":
        """Return a source in a run without workers, which has planned none."""
        database: TestDatabase = self._creation.test_database
        return database.host.schema_source(
            database.schemas[database.number], reasons=("there is no template",)
        )

    def _copy_template(self, target: _Target) -> Location | None:
        """Create the database from the template; return None if that is not possible."""
        if target.source.template is None:
            self._log_migrating("there is no template")
            return None
        from ..postgres import extra_database
        from ..postgres.structure_script import CopyError

        self.create_database(0, autoclobber=True)
        keeps_all = self._context.settings.reset == "reference"
        try:
            with self.connect() as connection:
                template = extra_database.fill(
                    target.source, target.worker, connection, keep_template=keeps_all
                )
        except CopyError as error:
            self._log_migrating(f"the template cannot be copied: {error}")
            return None
        return Location(target.name, (), template)

    def _log_migrating(self, reason: str) -> None:
        assert self._target is not None
        self._worker_database.log(
            f"Worker {self._target.worker} runs the migrations in its own database for alias "
            f"'{self._connection.alias}', because {reason}."
        )

    def _migrate(self) -> Location:
        worker_database, target = self._worker_database, self._target
        assert target is not None
        worker_database.migrator.migrate()
        since = worker_database.migrator.load_reference()
        if not worker_database.migrator.needs_copies(since):
            return Location(target.name)
        from ..postgres.names import Marker, MarkerState
        from ..postgres.template import Template

        marker = Marker(target.source.run, MarkerState.READY)
        with self.connect() as connection:
            template = Template.create_rows_only(connection, "public", marker, (), since)
        return Location(target.name, (), template.name)

    def drop(self) -> None:
        """Drop the database of this process, also with --keepdb."""
        self._leave()
        target, self._target, self._location = self._target, None, None
        if target is None:
            return
        self._worker_database.resets.discard(target.name)
        self._release_lease()
        self._context.usage.add(target.name, "public")
        from ..postgres import extra_database

        # While the database has connections, it cannot be dropped; the run tries again.
        with suppress(psycopg.Error, SchemaRunnerError):
            extra_database.drop(target.source, target.worker)

    def drop_all(self) -> None:
        """Drop the databases that worker processes have left, at the end of the run."""
        locations = self._connection.locations
        if self._context.has_own_databases and locations and locations.source:
            from ..postgres import extra_database

            # If the server is gone, the rest of the tear-down reports it.
            with suppress(SchemaRunnerError):
                extra_database.drop_all(locations.source, self._context.log)

    def _release_lease(self) -> None:
        if self._lease is not None:
            self._lease.close()
            self._lease = None
