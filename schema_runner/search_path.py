"""The location of each worker's tables, and the search_path of connections and programs."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import pq, sql

from .errors import SchemaRunnerError
from .postgres import names, pgoptions

if TYPE_CHECKING:
    from .postgres.worker_schemas import SchemaSource

# The key in a connection's settings_dict. Threads share that dict, all workers get it, and
# connections[alias].copy() copies it, so every connection has the locations.
_SETTINGS_KEY = "SCHEMA_RUNNER"
# What `Locations.entries` appends to the project's own options.
_RUN_PATH_OPTION = r" ?-c search_path=test_w[0-9]+_[0-9]+,(?:\\ |\S)*$"


class Location(NamedTuple):
    """Where a worker's tables are.

    `database`: the name of the database.
    `path`: the search_path, which begins with the worker's schema. If empty, the project's own
    search_path applies, as in a clone database.
    `template`: the schema with the rows to restore, if any.
    """

    database: str
    path: tuple[str, ...] = ()
    template: str | None = None

    @property
    def schema(self) -> str:
        return self.path[0] if self.path else "public"


class Locations(NamedTuple):
    """The locations of one database alias, and the one that this process uses.

    `by_worker`: locations by worker number, from 1.
    `worker`: the worker whose location this connection uses. None: the host database with the
    project's own search_path, during a build in `public` and while clones are created.
    `run`: the number of the run, for application_name. None: the project's application_name.
    `options`: the OPTIONS that the project set.
    `alias`: the primary alias of the database.
    `extensions`: the schema of the extensions, if several worker schemas share them.
    `source`: creates the schemas of workers.
    `sets_path_on_connect`: set the search_path when a connection opens, because a pooler refuses
    OPTIONS["options"].
    `backend_sets_path`: the database backend sets the search_path itself, so each location is a
    database.
    """

    by_worker: Mapping[int, Location]
    worker: int | None
    run: int | None
    options: Mapping[str, Any]
    alias: str
    extensions: str | None = None
    source: "SchemaSource | None" = None
    sets_path_on_connect: bool = False
    backend_sets_path: bool = False

    def __repr__(self) -> str:
        # Tests may write the settings to a file by their repr, which must stay valid Python.
        return "None"

    @classmethod
    def of(cls, settings_dict: Mapping[str, Any]) -> Self | None:
        """Return the locations in a settings_dict, if the runner has set them."""
        locations: Self | None = settings_dict.get(_SETTINGS_KEY)
        return locations

    @property
    def location(self) -> Location | None:
        """The location of this worker."""
        return None if self.worker is None else self.by_worker[self.worker]

    @property
    def search_path(self) -> str | None:
        """The value of the setting search_path; None for the project's own."""
        return _search_path(self.location.path) if self.location and self.location.path else None

    @property
    def program_options(self) -> str | None:
        """PGOPTIONS for the programs that tests start; None for the project's own.

        It applies to all their connections. In databases without the worker's schema, programs
        must find and create objects as usual, so the path has neither `pg_catalog` nor the shims.
        """
        if self.location is None or not self.location.path:
            return None
        path = [name for name in self.location.path if not _is_for_shims(name)]
        if path[1:] == ["public"]:
            # As in PostgreSQL's default.
            path.insert(1, "$user")
        return _path_option(path)

    def is_for_cloning(self, worker: int) -> bool:
        """Return whether this is the database from which a worker's clone will be created."""
        return self.worker is None and worker not in self.by_worker

    def for_worker(self, worker: int) -> Self:
        """Return a copy for a connection of another worker.

        Raises SchemaRunnerError if that worker has no location.
        """
        if worker not in self.by_worker:
            raise SchemaRunnerError(
                f"There is no schema for worker {worker}: each worker process creates its own "
                f"when it starts."
            )
        return self._replace(worker=worker)

    def with_location(self, worker: int, location: Location) -> Self:
        """Return a copy in which a worker uses this location."""
        return self._replace(worker=worker, by_worker={**self.by_worker, worker: location})

    def entries(self) -> dict[str, Any]:
        """Return the entries of a settings_dict that connects to this worker's location."""
        options = dict(self.options)
        if self.run is not None:
            options["application_name"] = names.application_name(self.run, self.worker)
        if self.search_path is not None and not self.sets_path_on_connect:
            assert self.location is not None
            path = _path_option(self.location.path)
            options["options"] = f"{startup_options(self.options)} {path}".strip()
        entries: dict[str, Any] = {"OPTIONS": options, _SETTINGS_KEY: self}
        return {**entries, "NAME": self.location.database} if self.location else entries


def startup_options(options: Mapping[str, Any]) -> str:
    """Return the startup options of the project: OPTIONS["options"], or else libpq's default."""
    value = options.get("options")
    if value is None:
        with pgoptions.without_exported():
            # From PGOPTIONS, or from the service that PGSERVICE names.
            defaults = {option.keyword: option.val for option in pq.Conninfo.get_defaults()}
        value = (defaults[b"options"] or b"").decode()
    return str(value)


def _path_option(path: Iterable[str]) -> str:
    """Return the startup option that sets the search_path. The last option of a name applies."""
    # PostgreSQL splits options at spaces, unless they follow a backslash:
    # https://www.postgresql.org/docs/current/libpq-connect.html
    escaped = _search_path(path).replace("\\", r"\\").replace(" ", r"\ ")
    return f"-c search_path={escaped}"


def _search_path(path: Iterable[str]) -> str:
    return ",".join(map(_quote_name, path))


def _is_for_shims(name: str) -> bool:
    """Return whether a schema is on a path only because of the shims."""
    return names.is_shims_schema(name) or name == "pg_catalog"


def _quote_name(name: str) -> str:
    # Do not quote the usual names, for readability.
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else sql.Identifier(name).as_string()


def project_options(settings_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OPTIONS that the project set, whether or not the runner has set locations."""
    locations = Locations.of(settings_dict)
    options: dict[str, Any] = settings_dict["OPTIONS"]
    return dict(locations.options) if locations else _without_run(options)


def _without_run(options: dict[str, Any]) -> dict[str, Any]:
    """Return OPTIONS without those of another run, one of whose tests wrote these settings."""
    if names.run_of_any_connection(str(options.get("application_name"))) is None:
        return options
    cleaned = {key: value for key, value in options.items() if key != "application_name"}
    if "options" in cleaned:
        cleaned["options"] = re.sub(_RUN_PATH_OPTION, "", cleaned["options"])
    return cleaned


def set_locations(settings_dict: dict[str, Any], locations: Locations | None) -> None:
    """Apply locations to a settings_dict. With None, restore the project's own OPTIONS.

    Update the dict in place, because threads share it, but replace its OPTIONS, because that
    dict belongs to the project.
    """
    if locations is not None:
        settings_dict.update(locations.entries())
    else:
        settings_dict["OPTIONS"] = project_options(settings_dict)
        settings_dict.pop(_SETTINGS_KEY, None)


class ProgramOptions:
    """The PGOPTIONS of programs that this process starts."""

    def __init__(self) -> None:
        # Whether set-up is complete and this process runs tests.
        self.is_testing = False
        self._has_exported = False
        # Settings that are shielded from PGOPTIONS, with their OPTIONS before and after.
        self._shielded: list[tuple[dict[str, Any], Any, Any]] = []

    def export(self) -> None:
        """Make programs find the tables of the default alias, through PGOPTIONS.

        Do nothing if a pooler refuses startup options, because it would refuse the programs.
        """
        self.withdraw()
        self.is_testing = True
        settings_dicts = [
            connection.settings_dict
            for connection in connections.all()
            if connection.vendor == "postgresql"
        ]
        default = Locations.of(connections[DEFAULT_DB_ALIAS].settings_dict)
        options = default.program_options if default else None
        every = (Locations.of(settings_dict) for settings_dict in settings_dicts)
        if options is None or any(item.sets_path_on_connect for item in every if item):
            return
        for settings_dict in settings_dicts:
            self._shield(settings_dict)
        pgoptions.export(options)
        self._has_exported = True

    def withdraw(self) -> None:
        """Undo `export`."""
        self.is_testing = self._has_exported = False
        pgoptions.export("")
        while self._shielded:
            settings_dict, before, now = self._shielded.pop()
            if settings_dict["OPTIONS"] is now:
                settings_dict["OPTIONS"] = before

    def update(self) -> None:
        """Export the current location, unless a test has removed the exported PGOPTIONS."""
        if self.is_testing and self._has_exported <= pgoptions.is_exported():
            self.export()

    def _shield(self, settings_dict: dict[str, Any]) -> None:
        """Keep PGOPTIONS from changing the startup options of a connection of this process.

        Leave connections with a service alone: OPTIONS["options"] would replace the service's.
        """
        before = settings_dict["OPTIONS"]
        if "options" not in before and "service" not in before:
            now = {**before, "options": startup_options(before)}
            settings_dict["OPTIONS"] = now
            self._shielded.append((settings_dict, before, now))


programs = ProgramOptions()
