"""Creation objects that tests use themselves: they do what stock Django's do."""

from typing import Any

from django.db.backends.base.creation import BaseDatabaseCreation

from ..postgres import names
from ..search_path import Locations


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
    if locations and locations.blueprint and locations.worker:
        # What stock Django's worker has, so that each one makes another database.
        settings_dict = creation.connection.settings_dict
        settings_dict["NAME"] = names.clone_database(settings_dict["NAME"], locations.worker)
    creation.__class__ = type(stock.__name__, (stock,), {"destroy_test_db": destroy_test_db})
