"""Databases of classes marked with `own_database`: one in each process that runs tests."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from django.db import connections

from ..connections import abandon_transactions
from ..errors import SchemaRunnerError
from ..postgres import names
from ..search_path import Location, Locations
from .worker_database import WorkerCreation

if TYPE_CHECKING:
    from ..flush.resetter import Resetter
    from ..postgres.lease import Lease
    from ..postgres.server import Connection
    from ..postgres.worker_schemas import SchemaSource


class _OwnDatabase(NamedTuple):
    """A worker's separate database; `source` is what the worker's schema is created from."""

    source: "SchemaSource"
    worker: int

    @property
    def name(self) -> str:
        return names.own_database(self.source.host, self.source.run, self.worker)


class OwnDatabaseCreation(WorkerCreation):
    """`WorkerCreation` that switches classes with `own_database` to a separate database.

    The process creates the database for the first such class, and reuses it for the others.
    """

    # Name of the separate database, also after it was dropped.
    own_database: str | None = None
    _own: _OwnDatabase | None = None
    _own_location: Location | None = None
    _own_lease: "Lease | None" = None
    _is_creating_own = False
    # While a class uses the separate database: the locations that other classes use.
    _shared_locations: Locations | None = None
    # The resetter of the database that is not in use.
    _inactive_resetter: "Resetter | None" = None

    def prepare_for(self, test_class: type, *, own_database: bool = False) -> None:
        if own_database and not self._is_current and self._is_used_by(test_class):
            self._enter_own_database()
        else:
            self._leave_own_database()
        super().prepare_for(test_class)

    def _is_used_by(self, test_class: type) -> bool:
        wanted = getattr(test_class, "databases", "__all__")
        return wanted == "__all__" or not self._aliases_of_database.isdisjoint(wanted)

    @property
    def _aliases_of_database(self) -> set[str]:
        """The aliases that share this alias's database, and switch together."""
        locations = self._shared_locations or self._locations
        by_alias = {
            connection.alias: Locations.of(connection.settings_dict)
            for connection in connections.all()
        }
        return {
            alias
            for alias, other in by_alias.items()
            if other and locations and other.alias == locations.alias
        }

    @property
    def resetter(self) -> "Resetter | None":
        """The resetter of the current database; None if a separate one has no copies of rows.

        Flushes then stay Django's own. A reset would create schemas, which tests that read the
        catalog or dump the database would see.
        """
        location = self._location if self._shared_locations else None
        return None if location and location.template is None else super().resetter

    def _enter_own_database(self) -> None:
        """Switch to the separate database, unless the worker has a clone already."""
        locations = self._locations
        if self._shared_locations or not (
            locations and locations.location and locations.location.path
        ):
            return
        abandon_transactions()
        primary: Any = connections[locations.alias].creation
        location = primary.get_or_create_own_database()
        self._shared_locations = locations
        self._use_own_location(location)
        self._clear_type_caches()
        self._swap_resetters()

    def _leave_own_database(self) -> None:
        if self._shared_locations is None:
            return
        abandon_transactions()
        locations, self._shared_locations = self._shared_locations, None
        self._reconnect(locations)
        self._clear_type_caches()
        self._swap_resetters()

    def _use_own_location(self, location: Location) -> None:
        locations = self._locations
        assert locations is not None
        assert locations.worker is not None
        self._reconnect(
            locations.with_location(locations.worker, location)._replace(extensions=None)
        )

    def _clear_type_caches(self) -> None:
        """Clear the caches of OIDs of hstore, citext and PostGIS types, which differ by database.

        Django 5.2 to 6.1 caches them by alias.
        """
        if signals := sys.modules.get("django.contrib.postgres.signals"):
            signals.get_hstore_oids.cache_clear()
            signals.get_citext_oids.cache_clear()
        for type_infos in getattr(self.connection, "_type_infos", {}).values():
            type_infos.pop(self._alias, None)

    def _swap_resetters(self) -> None:
        # Each database has its own resetter. Close the connection of the one not in use.
        if self._resetter is not None:
            self._resetter.connection.close()
        self._resetter, self._inactive_resetter = self._inactive_resetter, self._resetter

    def get_or_create_own_database(self) -> Location:
        """Return the location of the separate database; create it on the first call."""
        if self._own_location is not None:
            return self._own_location
        shared = self._shared_locations or self._locations
        assert shared is not None
        assert shared.worker is not None
        from ..postgres import extra_database

        self._own = own = _OwnDatabase(
            shared.source or self._source_of_serial_run(), shared.worker
        )
        self._is_creating_own = True
        try:
            self._use_own_location(Location(own.name))
            self._own_location = self._copy_template(own) or self._migrate_own(own)
            assert self._own_lease is not None
            extra_database.mark_ready(own.source, own.worker, self._own_lease.connection)
        finally:
            self._is_creating_own = False
            self._reconnect(shared)
        return self._own_location

    def _source_of_serial_run(self) -> "SchemaSource":
        """Return a source in a run without workers, which has planned none."""
        test_databases = self._databases
        schema = test_databases.schemas(self._alias)[1]
        return test_databases.host(self._alias).schema_source(
            schema, reasons=("there is no template",)
        )

    def _copy_template(self, own: _OwnDatabase) -> Location | None:
        """Create the database from the template; return None if that is not possible."""
        if own.source.template is None:
            self._log_migrating(own, "there is no template")
            return None
        from ..postgres import extra_database
        from ..postgres.structure_script import CopyError

        self._create_own_database(own)
        keeps_all = self.runner_settings.reset == "reference"
        try:
            with self._connect() as connection:
                template = extra_database.fill(
                    own.source, own.worker, connection, keep_template=keeps_all
                )
        except CopyError as error:
            self._log_migrating(own, f"the template cannot be copied: {error}")
            return None
        return Location(own.name, (), template)

    def _log_migrating(self, own: _OwnDatabase, reason: str) -> None:
        self._log(
            f"Worker {own.worker} runs the migrations in its own database for alias "
            f"'{self._alias}', because {reason}."
        )

    def _migrate_own(self, own: _OwnDatabase) -> Location:
        self._migrate()
        self._load_reference()
        if not self._needs_reference_copies:
            return Location(own.name)
        from ..postgres.names import Marker, MarkerState
        from ..postgres.template import Template

        marker = Marker(own.source.run, MarkerState.READY)
        with self._connect() as connection:
            template = Template.create_rows_only(connection, "public", marker, (), self._since)
        return Location(own.name, (), template.name)

    def _create_own_database(self, own: _OwnDatabase) -> None:
        from ..postgres import extra_database

        self._release_own_lease()
        self.own_database = own.name
        with self._creating():
            self._own_lease = extra_database.create(
                own.source, own.worker, lambda: self._execute_create(own.name)
            )

    def _execute_create(self, name: str) -> None:
        """Create the database as stock Django does, but raise SchemaRunnerError if that fails."""
        creation: Any = self
        parameters = {
            "dbname": self._quote_name(name),
            "suffix": creation.sql_table_creation_suffix(),
        }
        try:
            with creation._nodb_cursor() as cursor:
                creation._execute_create_test_db(cursor, parameters)
        except SystemExit as error:
            raise SchemaRunnerError(
                f"Cannot create database {name!r}: {error.__context__}"
            ) from error

    def count_database(self, name: str) -> None:
        """Add a class's own database to the usage of the run."""
        self._databases.usage.add(name, "public")

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        if not self._is_creating_own:
            return super()._create_test_db(verbosity, autoclobber, keepdb)
        assert self._own is not None
        self._create_own_database(self._own)
        return self._own.name

    def _get_test_db_name(self) -> str:
        if self._is_creating_own and self._own is not None:
            return self._own.name
        return super()._get_test_db_name()

    def _connect(self) -> "Connection":
        if self._is_creating_own and self._own is not None:
            return self._server().connect(self._own.name)
        return super()._connect()

    def tear_down(self, *, keep: bool) -> None:
        self._drop_own()
        super().tear_down(keep=keep)

    def destroy_test_db(self, *args: Any, suffix: str | None = None, **kwargs: Any) -> None:
        self._drop_own()
        locations = self._locations
        if suffix is None and self.has_own_databases and locations and locations.source:
            from ..postgres import extra_database

            # If the server is gone, the rest of the tear-down reports it.
            with suppress(SchemaRunnerError):
                extra_database.drop_all(locations.source, self._databases.log)
        super().destroy_test_db(*args, suffix=suffix, **kwargs)

    def _drop_own(self) -> None:
        """Drop the database of this process, also with --keepdb."""
        self._leave_own_database()
        own, self._own, self._own_location = self._own, None, None
        if own is None:
            return
        if self._inactive_resetter is not None:
            self._inactive_resetter.connection.close()
            self._inactive_resetter = None
        self._release_own_lease()
        if self.test_databases is not None:
            self.count_database(own.name)
        from ..postgres import extra_database

        # While the database has connections, it cannot be dropped; the run tries again.
        with suppress(psycopg.Error, SchemaRunnerError):
            extra_database.drop(own.source, own.worker)

    def _release_own_lease(self) -> None:
        if self._own_lease is not None:
            self._own_lease.close()
            self._own_lease = None
