"""Switch the connections of an alias between the host database and a worker's schema or clone."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import OperationalError
from django.db.backends.base.creation import BaseDatabaseCreation

from ..errors import SchemaRunnerError
from ..postgres import names
from ..search_path import Location, Locations, programs, project_options, set_locations

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base

    from .test_database import TestDatabases
else:
    Base = object


class LocationMixin(Base):
    """The part of `SchemaCreation` that switches an alias's connections, in all threads."""

    # None in a worker that was not forked.
    test_databases: "ClassVar[TestDatabases | None]" = None
    # PID of the process that patched the backends; forked workers inherit the value.
    process: ClassVar[int]
    # Error of the last connection attempt in `_is_in_expected_schema`.
    _connection_error = ""

    @property
    def _databases(self) -> "TestDatabases":
        assert self.test_databases is not None, (
            "only the process that runs the suite has the test databases"
        )
        return self.test_databases

    @property
    def may_have_workers(self) -> bool:
        """Whether this process set up the databases, rather than inheriting them as a worker."""
        return self.test_databases is not None and self.process == os.getpid()

    def _log(self, text: str) -> None:
        self._databases.log(text)

    @property
    def _alias(self) -> str:
        return str(self.connection.alias)

    def get_test_db_clone_settings(self, suffix: str) -> dict[str, Any]:
        settings_dict, worker = self.connection.settings_dict, int(suffix)
        locations = Locations.of(settings_dict)
        if locations is None or locations.is_for_cloning(worker):
            return {**settings_dict, "NAME": self._clone_name(worker)}
        return {**settings_dict, **locations.for_worker(worker).entries()}

    def _clone_name(self, worker: int) -> str:
        if self.test_databases is not None and self.test_databases.host_name(self._alias):
            clones = self.test_databases.host_database(self._alias).clones
            return clones.names[worker]
        return names.clone_database(self.connection.settings_dict["NAME"], worker)

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        super().set_as_test_mirror(primary_settings_dict)
        if primary := Locations.of(primary_settings_dict):
            options = project_options(self.connection.settings_dict)
            self._reconnect(primary._replace(options=options))

    def _switch_to(self, worker: int | None, *, is_built: bool = True) -> None:
        """Switch connections to a worker's schema or clone; to the host database if None.

        Pass `is_built=False` during a build, to leave the shims off the path. Otherwise, objects
        would refer to the shims, and differ from those of the first build, which had no shims.
        """
        test_databases, alias = self._databases, self._alias
        host, schemas, clones = (
            test_databases.host(alias),
            test_databases.schemas(alias),
            test_databases.clones(alias),
        )
        path = (*host.shims_path, *host.path) if is_built else host.path
        template = host.reference
        by_worker = {
            n: Location(host.name, (schema, *path), template) for n, schema in schemas.items()
        }
        # Each clone has a copy of the template.
        by_worker |= {n: Location(clone, (), template) for n, clone in clones.items()}
        if worker is not None:
            # Before clones exist, or if the worker needs none.
            by_worker.setdefault(worker, Location(host.name, (), template))
        self._assign_locations(
            by_worker,
            worker,
            run=host.lease.run,
            extensions=host.extensions if schemas and test_databases.is_shared(alias) else None,
            source=test_databases.source(alias) if is_built else None,
        )

    def _assign_locations(
        self, by_worker: Mapping[int, Location], worker: int | None, **fields: Any
    ) -> None:
        settings_dict = self.connection.settings_dict
        before, options = Locations.of(settings_dict), project_options(settings_dict)
        # OPTIONS["options"] would replace the options of a libpq service.
        is_of_service = "service" in options and "options" not in options
        self._reconnect(
            Locations(
                by_worker=by_worker,
                worker=worker,
                options=options,
                alias=self._alias,
                sets_path_on_connect=before.sets_path_on_connect if before else is_of_service,
                backend_sets_path=self._backend_sets_path,
                **fields,
            )
        )

    def _verify_search_path(self) -> None:
        """Raise SchemaRunnerError if connections do not use the expected schema."""
        if self._can_set_search_path():
            return
        cause = (
            f" The last attempt failed: {self._connection_error}" if self._connection_error else ""
        )
        raise SchemaRunnerError(
            f"Cannot set the search_path of connections of alias '{self._alias}'.{cause} If they "
            f"go through a pooler, connect to the server directly, or to a pooler that gives each "
            f"client its own session, or use --host-database test --isolation database."
        )

    def _can_set_search_path(self) -> bool:
        if self._is_in_expected_schema():
            return True
        # A pooler may refuse or drop OPTIONS["options"].
        locations = Locations.of(self.connection.settings_dict)
        assert locations is not None
        self._reconnect(locations._replace(sets_path_on_connect=True))
        return self._is_in_expected_schema()

    def _refuse_backend_that_sets_path(self) -> None:
        if self._check_backend_sets_path():
            raise SchemaRunnerError(
                f"Alias '{self._alias}' cannot use schemas, because {self._backend_reason}. "
                f"Use --host-database test, where workers get clone databases."
            )

    def _check_backend_sets_path(self) -> bool:
        """Whether the backend sets the search_path of each cursor, as django-tenants does."""
        # Django's own backends do not; checking takes a connection.
        if self._engine.startswith("django."):
            return False
        host = self._databases.host(self._alias)
        probe = Location(host.name, ("pg_catalog", "public"))
        self._assign_locations({1: probe}, 1, run=host.lease.run)
        if not self._can_set_search_path():
            locations = Locations.of(self.connection.settings_dict)
            assert locations is not None
            self._reconnect(locations._replace(sets_path_on_connect=False, backend_sets_path=True))
        self._switch_to(None)
        return self._backend_sets_path

    @property
    def _backend_sets_path(self) -> bool:
        locations = Locations.of(self.connection.settings_dict)
        return locations is not None and locations.backend_sets_path

    @property
    def _backend_reason(self) -> str:
        return f"the database backend {self._engine} sets the search_path itself"

    @property
    def _engine(self) -> str:
        return str(self.connection.settings_dict["ENGINE"])

    def _is_in_expected_schema(self) -> bool:
        location, is_new = self._location, self.connection.connection is None
        try:
            is_found = location is None or self._current_schema() == location.schema
        except OperationalError as error:
            self.connection.close()
            if not is_new:
                # The server may have closed the old connection: try a new one.
                return self._is_in_expected_schema()
            self._connection_error = str(error).strip()
            return False
        self._connection_error = ""
        return is_found

    @property
    def _location(self) -> Location | None:
        locations = Locations.of(self.connection.settings_dict)
        return locations.location if locations else None

    def _current_schema(self) -> str | None:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_schema()")
            (schema,) = cursor.fetchone()
        return str(schema) if schema is not None else None

    def _reconnect(self, locations: Locations | None) -> None:
        """Apply `locations` to connections in all threads; None restores the project's own."""
        settings_dict = self.connection.settings_dict
        wanted = locations.entries() if locations else {}
        if any(settings_dict[key] != wanted.get(key) for key in ("NAME", "OPTIONS")):
            self.connection.close()
            self.connection.close_pool()
        set_locations(settings_dict, locations)
        programs.update()


def revert_to_stock(creation: Any) -> None:
    """Make a creation object behave as stock Django's until its database is destroyed.

    Change the class of the same object, because a test may have patched its methods. Its
    connection gets the project's own options, because other databases have no worker schema.
    """
    patched, locations = type(creation), Locations.of(creation.connection.settings_dict)
    stock = next(
        base
        for base in patched.__mro__
        if issubclass(base, BaseDatabaseCreation) and not hasattr(base, "runner_settings")
    )

    def destroy_test_db(
        self: Any,
        old_database_name: str | None = None,
        verbosity: int = 1,
        keepdb: bool = False,
        suffix: str | None = None,
    ) -> None:
        try:
            stock.destroy_test_db(self, old_database_name, verbosity, keepdb, suffix)
        finally:
            if suffix is None:
                self.__class__ = patched
                self._reconnect(locations)

    creation._reconnect(None)
    if locations and locations.source and locations.worker:
        # Each worker creates a database of another name, as with stock Django.
        settings_dict = creation.connection.settings_dict
        settings_dict["NAME"] = names.clone_database(settings_dict["NAME"], locations.worker)
    creation.__class__ = type(stock.__name__, (stock,), {"destroy_test_db": destroy_test_db})
