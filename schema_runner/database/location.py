"""Pointing the connections of an alias at a worker's tables, and back."""

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
    """The part of `SchemaCreation` that points connections, in all threads, at a place."""

    # None in a worker that was not forked: nothing is built there.
    test_databases: "ClassVar[TestDatabases | None]" = None
    # The one that has set all this up; a forked worker has it from there.
    process: ClassVar[int]
    # Why the last attempt to find a schema could not connect.
    _server_said = ""

    @property
    def _databases(self) -> "TestDatabases":
        assert self.test_databases is not None, (
            "databases are made by the process that runs the suite"
        )
        return self.test_databases

    @property
    def may_have_workers(self) -> bool:
        """Whether what is set up is this process's, and not of a run that it is a worker of."""
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
            return {**settings_dict, "NAME": self._name_of_clone(worker)}
        return {**settings_dict, **locations.for_worker(worker).entries()}

    def _name_of_clone(self, worker: int) -> str:
        if self.test_databases is not None and self.test_databases.host_name(self._alias):
            clones = self.test_databases.host_database(self._alias).clones
            return clones.names[worker]
        return names.clone_database(self.connection.settings_dict["NAME"], worker)

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        super().set_as_test_mirror(primary_settings_dict)
        if primary := Locations.of(primary_settings_dict):
            options = project_options(self.connection.settings_dict)
            self._reconnect(primary._replace(options=options))

    def _use(self, worker: int | None, *, is_built: bool = True) -> None:
        """Use a worker's place from now on; with None the host database as stock Django does.

        A build must not find the shims: what it creates would keep those it calls, and differ
        from what the first one created, before there were any.
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
        # Clones have copies of it.
        by_worker |= {n: Location(clone, (), template) for n, clone in clones.items()}
        if worker is not None:
            # Before there are clones, or where there is no need for any.
            by_worker.setdefault(worker, Location(host.name, (), template))
        self._put(
            by_worker,
            worker,
            run=host.lease.run,
            extensions=host.extensions if schemas and test_databases.is_shared(alias) else None,
            source=test_databases.source(alias) if is_built else None,
        )

    def _put(self, by_worker: Mapping[int, Location], worker: int | None, **facts: Any) -> None:
        settings_dict = self.connection.settings_dict
        before, options = Locations.of(settings_dict), project_options(settings_dict)
        # A service may have options of its own, which OPTIONS["options"] would replace.
        is_of_service = "service" in options and "options" not in options
        self._reconnect(
            Locations(
                by_worker=by_worker,
                worker=worker,
                options=options,
                alias=self._alias,
                sets_path_on_connect=before.sets_path_on_connect if before else is_of_service,
                backend_sets_path=self._backend_sets_path,
                **facts,
            )
        )

    def _settle(self) -> None:
        """Make sure that connections find the schema that they are meant to."""
        if self._can_be_pointed():
            return
        said = f" The last attempt has failed: {self._server_said}" if self._server_said else ""
        raise SchemaRunnerError(
            f"Connections of alias '{self._alias}' cannot be pointed at a schema, so tables "
            f"would be made or sought in the wrong place.{said} If there is a pooler in between, "
            f"connect to the server itself, or to a pooler that gives each client a session of "
            f"its own, or test with --host-database test --isolation database."
        )

    def _can_be_pointed(self) -> bool:
        if self._finds_its_schema():
            return True
        # A pooler may refuse OPTIONS["options"], or drop it.
        locations = Locations.of(self.connection.settings_dict)
        assert locations is not None
        self._reconnect(locations._replace(sets_path_on_connect=True))
        return self._finds_its_schema()

    def _refuse_backend_that_sets_path(self) -> None:
        if self._sets_path():
            raise SchemaRunnerError(
                f"Alias '{self._alias}' cannot have schemas, because {self._path_of_backend}. "
                f"Test with --host-database test: workers get clone databases there."
            )

    def _sets_path(self) -> bool:
        """Whether the backend sets the search_path of each cursor, as those for tenants do."""
        # Django's own need not be asked, which takes a connection.
        if self._engine.startswith("django."):
            return False
        host = self._databases.host(self._alias)
        probe = Location(host.name, ("pg_catalog", "public"))
        self._put({1: probe}, 1, run=host.lease.run)
        if not self._can_be_pointed():
            locations = Locations.of(self.connection.settings_dict)
            assert locations is not None
            self._reconnect(locations._replace(sets_path_on_connect=False, backend_sets_path=True))
        self._use(None)
        return self._backend_sets_path

    @property
    def _backend_sets_path(self) -> bool:
        locations = Locations.of(self.connection.settings_dict)
        return locations is not None and locations.backend_sets_path

    @property
    def _path_of_backend(self) -> str:
        return f"the database backend {self._engine} sets the search_path itself"

    @property
    def _engine(self) -> str:
        return str(self.connection.settings_dict["ENGINE"])

    def _finds_its_schema(self) -> bool:
        location, is_new = self._location, self.connection.connection is None
        try:
            is_found = location is None or self._current_schema() == location.schema
        except OperationalError as error:
            self.connection.close()
            if not is_new:
                # It has been ended since it was opened, as by a restart of the server.
                return self._finds_its_schema()
            self._server_said = str(error).strip()
            return False
        self._server_said = ""
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
        """Put an assignment into force, for connections in all threads, or take it away."""
        settings_dict = self.connection.settings_dict
        wanted = locations.entries() if locations else {}
        if any(settings_dict[key] != wanted.get(key) for key in ("NAME", "OPTIONS")):
            self.connection.close()
            self.connection.close_pool()
        set_locations(settings_dict, locations)
        programs.update()


def become_stock(creation: Any) -> None:
    """Turn a creation object of ours into one of stock Django's, until its database is destroyed.

    It stays the same object, of which a test may have replaced methods. Its connection has the
    project's own options: in another database there is no schema of ours.
    """
    ours, locations = type(creation), Locations.of(creation.connection.settings_dict)
    stock = next(
        one
        for one in ours.__mro__
        if issubclass(one, BaseDatabaseCreation) and not hasattr(one, "runner_settings")
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
                self.__class__ = ours
                self._reconnect(locations)

    creation._reconnect(None)
    if locations and locations.source and locations.worker:
        # What stock Django's worker has, so that each one makes another database.
        settings_dict = creation.connection.settings_dict
        settings_dict["NAME"] = names.clone_database(settings_dict["NAME"], locations.worker)
    creation.__class__ = type(stock.__name__, (stock,), {"destroy_test_db": destroy_test_db})
