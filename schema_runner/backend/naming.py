"""The names of the databases in which tests are run."""

from typing import TYPE_CHECKING, Any, ClassVar

from psycopg import sql

from ..postgres import names
from ..settings import Settings
from .placement import Placement

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base
else:
    Base = object


class Naming(Placement, Base):
    """The part of `SchemaCreation` that names databases as Django's methods ask for them."""

    runner_settings: ClassVar[Settings] = Settings()

    @property
    def _is_stock(self) -> bool:
        """Whether stock Django's clone databases are asked for."""
        return self.runner_settings.isolation == "database"

    @property
    def _is_current(self) -> bool:
        """Whether schemas are to be made in the project's own database."""
        return self.runner_settings.host_database == "current"

    def test_db_signature(self) -> tuple[Any, ...]:
        # Aliases that have databases of their own under stock Django have schemas of their own.
        *where, name = super().test_db_signature()
        return (*where, super()._get_test_db_name() if self._is_current else name)  # type: ignore[misc]

    def _get_test_db_name(self) -> str:
        # NAME is the host database's once there is one.
        if self.workspace and (host := self.workspace.host_name(self._alias)):
            return host
        if self._is_current:
            return str(self.connection.settings_dict["NAME"]) or self._current_database()
        name = str(super()._get_test_db_name())  # type: ignore[misc]
        return name if self._is_stock else names.database(name)

    def _current_database(self) -> str:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_database()")
            (name,) = cursor.fetchone()
        return str(name)

    def _execute_create_test_db(self, cursor: Any, parameters: Any, keepdb: bool = False) -> None:
        name = self._get_test_db_name()
        if not self._is_stock and parameters["dbname"] == self.connection.ops.quote_name(name):
            # Django's quoting leaves quotes within and around a name as they are, but not that of
            # a clone's. The caller's DROP has the name from here too.
            parameters["dbname"] = self._quote_name(name)
        super()._execute_create_test_db(cursor, parameters, keepdb)  # type: ignore[misc]

    def _quote_name(self, name: str) -> str:
        if self._is_stock:
            return str(super()._quote_name(name))  # type: ignore[misc]
        return sql.Identifier(name).as_string()
