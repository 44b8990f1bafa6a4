"""The connections of one database alias, and the location that they use."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from django.db import OperationalError

from .connections import server_of
from .errors import SchemaRunnerError, advice
from .search_path import Location, Locations, programs, project_options, set_locations

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

    from .postgres.server import Server


class AliasConnection:
    """Points the connections of an alias, in all threads, at a worker's schema or database."""

    def __init__(self, wrapper: "DatabaseWrapper") -> None:
        self.wrapper = wrapper
        # The error of the last attempt to connect, for messages.
        self._error = ""

    @property
    def alias(self) -> str:
        return str(self.wrapper.alias)

    @property
    def engine(self) -> str:
        return str(self.wrapper.settings_dict["ENGINE"])

    @property
    def project_options(self) -> dict[str, Any]:
        return project_options(self.wrapper.settings_dict)

    @property
    def locations(self) -> Locations | None:
        return Locations.of(self.wrapper.settings_dict)

    @property
    def location(self) -> Location | None:
        return self.locations.location if self.locations else None

    @property
    def is_primary(self) -> bool:
        """Whether the run has set the locations of this alias, which is no mirror."""
        return self.locations is not None and self.locations.alias == self.alias

    @property
    def backend_sets_path(self) -> bool:
        """Whether the database backend itself sets the search_path, as `detect_path` found."""
        return self.locations is not None and self.locations.backend_sets_path

    def server(self, excluded: Collection[str] = ()) -> "Server":
        return server_of(self.wrapper, excluded)

    def current_schema(self) -> str | None:
        return self._query("SELECT pg_catalog.current_schema()")

    def current_database(self) -> str:
        return str(self._query("SELECT pg_catalog.current_database()"))

    def _query(self, statement: str) -> str | None:
        with self.wrapper.cursor() as cursor:
            cursor.execute(statement)
            (value,) = cursor.fetchone()
        return None if value is None else str(value)

    def assign(self, by_worker: Mapping[int, Location], worker: int | None, **fields: Any) -> None:
        """Replace the locations of all workers, and use that of `worker`; see `Locations`."""
        before, options = self.locations, self.project_options
        # OPTIONS["options"] would replace the options of a libpq service.
        is_of_service = "service" in options and "options" not in options
        self.reconnect(
            Locations(
                by_worker=by_worker,
                worker=worker,
                options=options,
                alias=self.alias,
                sets_path_on_connect=before.sets_path_on_connect if before else is_of_service,
                backend_sets_path=self.backend_sets_path,
                **fields,
            )
        )

    def use(self, worker: int, location: Location, **fields: Any) -> None:
        """Use this location, as the one of `worker`."""
        assert self.locations is not None
        self.reconnect(self.locations.with_location(worker, location)._replace(**fields))

    def mirror(self, primary_settings_dict: Mapping[str, Any]) -> None:
        """Use the locations of the primary alias, with the project's own options of this one."""
        if primary := Locations.of(primary_settings_dict):
            self.reconnect(primary._replace(options=self.project_options))

    def reconnect(self, locations: Locations | None) -> None:
        """Apply `locations` to connections in all threads; None restores the project's own."""
        settings_dict = self.wrapper.settings_dict
        wanted = locations.entries() if locations else {}
        if any(settings_dict[key] != wanted.get(key) for key in ("NAME", "OPTIONS")):
            self.close()
        set_locations(settings_dict, locations)
        programs.update()

    def close(self) -> None:
        self.wrapper.close()
        self.wrapper.close_pool()

    def verify_search_path(self) -> None:
        """Raise SchemaRunnerError if connections do not use the expected schema."""
        if self._can_set_search_path():
            return
        cause = f" The last attempt failed: {self._error}" if self._error else ""
        raise SchemaRunnerError(
            f"Cannot set the search_path of connections of alias '{self.alias}'.{cause} If they "
            f"go through a pooler, connect to the server directly, or to a pooler that gives each "
            f"client its own session, or use {advice().host_test} {advice().isolation_database}."
        )

    def detect_path(self, database: str, worker: int, run: int) -> None:
        """Find out whether the backend sets the search_path of each cursor.

        Django's own backends do not; that of django-tenants does.
        """
        probe = Location(database, ("pg_catalog", "public"))
        self.assign({worker: probe}, worker, run=run)
        if not self._can_set_search_path():
            assert self.locations is not None
            self.reconnect(
                self.locations._replace(sets_path_on_connect=False, backend_sets_path=True)
            )

    def _can_set_search_path(self) -> bool:
        if self._is_in_expected_schema():
            return True
        # A pooler may refuse or drop OPTIONS["options"].
        assert self.locations is not None
        self.reconnect(self.locations._replace(sets_path_on_connect=True))
        return self._is_in_expected_schema()

    def _is_in_expected_schema(self) -> bool:
        is_new = self.wrapper.connection is None
        try:
            is_found = self.location is None or self.current_schema() == self.location.schema
        except OperationalError as error:
            self.wrapper.close()
            if not is_new:
                # The server may have closed the old connection: try a new one.
                return self._is_in_expected_schema()
            self._error = str(error).strip()
            return False
        self._error = ""
        return is_found
