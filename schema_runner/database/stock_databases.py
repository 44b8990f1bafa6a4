"""Stock Django's databases: for `--isolation database`, and for tests that create one."""

from collections.abc import Callable, Mapping
from typing import Any

from django.db.backends.base.creation import BaseDatabaseCreation

from ..alias_connection import AliasConnection
from ..postgres import names
from ..postgres.host_request import HostRequest
from ..search_path import Location
from .migrator import Migrator


class StockDatabases:
    """Creates and clones the database of an alias as stock Django does.

    `number`: the number of the worker that uses the database itself, if it is not cloned.
    `stock`: Django's own hooks.
    """

    def __init__(
        self, number: int, connection: AliasConnection, migrator: Migrator, stock: Any
    ) -> None:
        self._number = number
        self._connection = connection
        self._migrator = migrator
        self._stock = stock

    def create(self, create: Callable[[], str], request: HostRequest) -> str:
        """Create the database with `create`, and load the reference data; return its name."""
        from ..postgres.removal import rename_kept_database

        rename_kept_database(request)
        name = create()
        self._assign({self._number: Location(name)}, self._number)
        self._migrator.load_reference()
        return name

    def clone(self, worker: int, verbosity: int, *, keepdb: bool) -> None:
        locations, creation = self._connection.locations, self._connection.wrapper.creation
        settings_dict = self._connection.wrapper.settings_dict
        host = settings_dict["NAME"]
        by_worker = dict(locations.by_worker) if locations and worker != self._number else {}
        self._assign(by_worker, None)
        clone = creation.get_test_db_clone_settings(str(worker))["NAME"]
        with self._stock._nodb_cursor() as cursor:
            is_kept = keepdb and self._stock._database_exists(cursor, clone)
        self._stock._clone_test_db(str(worker), verbosity, keepdb)
        by_worker[worker] = Location(clone)
        if is_kept:
            # Tests of an earlier run may have flushed the tables.
            self._assign(by_worker, worker)
            self._migrator.load_reference()
            settings_dict["NAME"] = host
        self._assign(by_worker, None)

    def _assign(self, by_worker: Mapping[int, Location], worker: int | None) -> None:
        self._connection.assign(by_worker, worker, run=None)


def revert_to_stock(creation: Any) -> None:
    """Make a creation object behave as stock Django's until its database is destroyed.

    Change the class of the same object, because a test may have patched its methods. Its
    connection gets the project's own options, because other databases have no worker schema.
    """
    patched, connection = type(creation), creation.alias_connection
    locations = connection.locations
    stock = next(
        base
        for base in patched.__mro__
        if issubclass(base, BaseDatabaseCreation) and not hasattr(base, "context")
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
                connection.reconnect(locations)

    connection.reconnect(None)
    if locations and locations.source and locations.worker:
        # Each worker creates a database of another name, as with stock Django.
        settings_dict = creation.connection.settings_dict
        settings_dict["NAME"] = names.clone_database(settings_dict["NAME"], locations.worker)
    creation.__class__ = type(stock.__name__, (stock,), {"destroy_test_db": destroy_test_db})
