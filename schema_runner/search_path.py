"""The location of each worker's tables, and the search_path that connections and programs get."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import pq, sql

from .errors import SchemaRunnerError
from .postgres import names, pgoptions

if TYPE_CHECKING:
    from .postgres.worker_schemas import SchemaSource

# In a connection's settings_dict, which threads share, forked and spawned workers are given,
# and connections[alias].copy() copies: so whoever can connect knows where to.
_KEY = "SCHEMA_RUNNER"
# What `Assignment.entries` puts behind the project's own options.
_PATH_OF_A_RUN = r" ?-c search_path=test_w[0-9]+_[0-9]+,(?:\\ |\S)*$"


class Location(NamedTuple):
    """Where a worker's tables are: a database, and in it the first schema of `path`.

    With an empty path the project's own search_path holds, as in a clone database. `template` is
    the schema that has the reference data, if anything is to be restored from it.
    """

    database: str
    path: tuple[str, ...] = ()
    template: str | None = None

    @property
    def schema(self) -> str:
        return self.path[0] if self.path else "public"


class Locations(NamedTuple):
    """The places of one database alias.

    `by_worker` maps worker numbers, from 1, to places; `worker` is the one whose place this
    connection uses, None where it uses the host database as the project's settings have it:
    during a build in `public`, and to make clones. `run` tells the run's connections from
    others by their application_name; with None that is the project's. `options` is the
    OPTIONS that the project set. `alias` is the one that others of the same database follow.
    `extensions` names the schema of the extensions, if several worker schemas share them. By
    the `source` a worker makes its place itself. With `path_is_set_later`, as poolers want it
    that refuse OPTIONS["options"], the search_path is set once a connection is open. Where the
    `backend_sets_path`, whatever is asked for, all places are databases.
    """

    by_worker: Mapping[int, Location]
    worker: int | None
    run: int | None
    options: Mapping[str, Any]
    alias: str
    extensions: str | None = None
    source: "SchemaSource | None" = None
    path_is_set_later: bool = False
    backend_sets_path: bool = False

    def __repr__(self) -> str:
        # Tests write settings to files by their repr: what reads it back makes none of this.
        return "None"

    @classmethod
    def of(cls, settings_dict: Mapping[str, Any]) -> Self | None:
        found: Self | None = settings_dict.get(_KEY)
        return found

    @property
    def location(self) -> Location | None:
        """The place of this worker."""
        return None if self.worker is None else self.by_worker[self.worker]

    @property
    def search_path(self) -> str | None:
        """The value of the setting of this name; None for the project's own."""
        return _search_path(self.location.path) if self.location and self.location.path else None

    @property
    def program_options(self) -> str | None:
        """What leads other programs to the schema, in PGOPTIONS; None for the project's own.

        All their connections heed it. On databases without the schema they find, and make,
        things where they did before, so `pg_catalog` cannot be named, nor what needs it: shims.
        """
        if self.location is None or not self.location.path:
            return None
        path = [name for name in self.location.path if not _is_ahead(name)]
        if path[1:] == ["public"]:
            # What PostgreSQL's default has, too.
            path.insert(1, "$user")
        return _setting(path)

    def is_for_cloning(self, worker: int) -> bool:
        """Whether this is the database from which the worker's clone is going to be made."""
        return self.worker is None and worker not in self.by_worker

    def for_worker(self, worker: int) -> Self:
        """Return the same assignment as another worker has it."""
        if worker not in self.by_worker:
            raise SchemaRunnerError(
                f"There is no schema for worker {worker} here: each worker process makes its own "
                f"as it starts."
            )
        return self._replace(worker=worker)

    def at(self, worker: int, location: Location) -> Self:
        """Return the same assignment for a worker that uses this place."""
        return self._replace(worker=worker, by_worker={**self.by_worker, worker: location})

    def entries(self) -> dict[str, Any]:
        """Return the entries that a settings_dict has under this assignment."""
        options = dict(self.options)
        if self.run is not None:
            options["application_name"] = names.application_name(self.run, self.worker)
        if self.search_path is not None and not self.path_is_set_later:
            assert self.location is not None
            path = _setting(self.location.path)
            options["options"] = f"{startup_options(self.options)} {path}".strip()
        entries: dict[str, Any] = {"OPTIONS": options, _KEY: self}
        return {**entries, "NAME": self.location.database} if self.location else entries


def startup_options(options: Mapping[str, Any]) -> str:
    """Return what OPTIONS["options"] replaces: the project's, else what libpq finds by itself."""
    found = options.get("options")
    if found is None:
        with pgoptions.without_exported():
            # In PGOPTIONS, or in the service that PGSERVICE names.
            defaults = {option.keyword: option.val for option in pq.Conninfo.get_defaults()}
        found = (defaults[b"options"] or b"").decode()
    return str(found)


def _setting(path: Iterable[str]) -> str:
    """Return the startup option that sets the search_path: the last one of a name wins."""
    # libpq splits options at spaces, unless they follow a backslash:
    # https://www.postgresql.org/docs/current/libpq-connect.html
    escaped = _search_path(path).replace("\\", r"\\").replace(" ", r"\ ")
    return f"-c search_path={escaped}"


def _search_path(path: Iterable[str]) -> str:
    return ",".join(map(_quoted, path))


def _is_ahead(name: str) -> bool:
    """Whether this is what the shims put between the worker schema and the rest of a path."""
    return names.is_shims_schema(name) or name == "pg_catalog"


def _quoted(name: str) -> str:
    # Our own names are shown as they are.
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else sql.Identifier(name).as_string()


def project_options(settings_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OPTIONS that the project set, whether or not there is an assignment."""
    locations = Locations.of(settings_dict)
    options: dict[str, Any] = settings_dict["OPTIONS"]
    return dict(locations.options) if locations else _of_no_run(options)


def _of_no_run(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out what another run has added, by a test of which the settings were written."""
    if names.run_of_any_connection(str(options.get("application_name"))) is None:
        return options
    found = {key: value for key, value in options.items() if key != "application_name"}
    if "options" in found:
        found["options"] = re.sub(_PATH_OF_A_RUN, "", found["options"])
    return found


def set_locations(settings_dict: dict[str, Any], locations: Locations | None) -> None:
    """Put an assignment into force; with None the project's own OPTIONS hold again.

    The dict stays the same object, for threads share it; its OPTIONS is replaced, for that
    one is the project's.
    """
    if locations is not None:
        settings_dict.update(locations.entries())
    else:
        settings_dict["OPTIONS"] = project_options(settings_dict)
        settings_dict.pop(_KEY, None)


class ProgramOptions:
    """What this process has done for the programs that it starts."""

    def __init__(self) -> None:
        # Whether all is set up, and this process runs tests.
        self.is_testing = False
        self._has_exported = False
        # Settings that PGOPTIONS is not to mislead, and their OPTIONS before and now.
        self._shielded: list[tuple[dict[str, Any], Any, Any]] = []

    def lead(self) -> None:
        """Let them find the worker's tables from now on, wherever these go.

        Nothing is done where a pooler refuses startup options: it would refuse the programs too.
        """
        self.withdraw()
        self.is_testing = True
        found = [one.settings_dict for one in connections.all() if one.vendor == "postgresql"]
        assignments = [Locations.of(settings_dict) for settings_dict in found]
        default = Locations.of(connections[DEFAULT_DB_ALIAS].settings_dict)
        options = default.program_options if default else None
        if options is None or any(one.path_is_set_later for one in assignments if one):
            return
        for settings_dict in found:
            self._shield(settings_dict)
        pgoptions.export(options)
        self._has_exported = True

    def withdraw(self) -> None:
        """Take back what `lead` has done."""
        self.is_testing = self._has_exported = False
        pgoptions.export("")
        while self._shielded:
            settings_dict, before, now = self._shielded.pop()
            if settings_dict["OPTIONS"] is now:
                settings_dict["OPTIONS"] = before

    def follow(self) -> None:
        """Lead them to where the tables are by now, unless others have taken ours away."""
        if self.is_testing and self._has_exported <= pgoptions.is_exported():
            self.lead()

    def _shield(self, settings_dict: dict[str, Any]) -> None:
        """Set the startup options that a connection had before, unless it has options of its own.

        A service may define some, which OPTIONS["options"] would replace.
        """
        before = settings_dict["OPTIONS"]
        if "options" not in before and "service" not in before:
            now = {**before, "options": startup_options(before)}
            settings_dict["OPTIONS"] = now
            self._shielded.append((settings_dict, before, now))


programs = ProgramOptions()
