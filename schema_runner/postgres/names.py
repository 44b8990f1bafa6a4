"""The names of schemas and databases that runs create, and the markers in their comments."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

# PostgreSQL truncates longer names silently (NAMEDATALEN - 1).
_MAX_NAME_BYTES = 63
# The greatest worker number that truncated names are checked for.
_MAX_WORKERS = 256
_WORKER = r"test_w([1-9][0-9]*)_([0-9]+)"
# Matches the names of runs' schemas, in Python and in SQL.
OWN_SCHEMA = r"^test_(?:w[1-9][0-9]*|shims|template)_[0-9]+$"

# The schema for the extensions of all runs in the project's own database.
EXTENSIONS_SCHEMA = "test_extensions"


def worker_schema(worker: int, milliseconds: int) -> str:
    """Return the name of a worker's schema; `milliseconds` are since the Unix epoch."""
    return f"test_w{worker}_{milliseconds}"


def shims_schema(milliseconds: int) -> str:
    """Return the name of the schema for a run's shims."""
    return f"test_shims_{milliseconds}"


def template_schema(milliseconds: int) -> str:
    """Return the name of a template."""
    return f"test_template_{milliseconds}"


def is_shims_schema(name: str) -> bool:
    return name.startswith("test_shims_") and is_own_schema(name)


def is_template_schema(name: str) -> bool:
    return name.startswith("test_template_") and is_own_schema(name)


def is_in_public(table: str) -> bool:
    """Whether a db_table names the schema `public`, as 'public"."book', which Django quotes."""
    return re.match(r'"?public"\."?\w', table) is not None


def has_schema(table: str) -> bool:
    """Whether a db_table names any schema, as 'crm"."customer'."""
    # Django quotes a name that is not quoted already, and leaves quotes within the name.
    quoted = len(table) > 1 and table.startswith('"') and table.endswith('"')
    return '"' in (table[1:-1] if quoted else table).replace('""', "")


def is_own_schema(name: str) -> bool:
    """Whether a name has the form of a worker schema, a shims schema or a template."""
    return re.fullmatch(OWN_SCHEMA, name) is not None


def worker_of_schema(name: str) -> int | None:
    """Return the worker's number from the name of a worker schema; None for other names."""
    found = re.fullmatch(_WORKER, name)
    return int(found[1]) if found else None


def milliseconds_of_schema(name: str) -> int | None:
    """Return the creation time of a worker schema from its name, since the Unix epoch, or None."""
    found = re.fullmatch(_WORKER, name)
    return int(found[2]) if found else None


def database_name(name: str, suffix: str = "") -> str:
    """Return the name with the suffix; beyond 63 bytes, a hash replaces the end of the name."""
    if len((name + suffix).encode()) <= _MAX_NAME_BYTES:
        return name + suffix
    suffix = f"_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}{suffix}"
    return name.encode()[: _MAX_NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def clone_database(host: str, worker: int) -> str:
    """Return the name of a worker's clone of a host database, as in stock Django."""
    return database_name(host, f"_{worker}")


def own_database(host: str, run: int, worker: int) -> str:
    """Return the name of a worker's database for its `own_database` classes.

    It contains the run, because several runs can use the same host database.
    """
    return database_name(host, f"_{run:016x}_{worker}")


def is_own_database(name: str, run: int) -> bool:
    return re.search(f"_{run:016x}_[0-9]+$", name) is not None


def database_of_run(name: str, run: int) -> str:
    """Return the name of a run's host database if its first choice is taken."""
    return database_name(name, f"_{run:016x}")


def database_of_fingerprint(name: str, fingerprint: str) -> str:
    """Return the name of a kept host database if its first choice is taken."""
    return database_name(name, f"_{fingerprint[:12]}")


def runs_in(database: str) -> list[int]:
    """Return the runs that the name of a database may contain."""
    return [int(run, 16) for run in re.findall(r"_([0-9a-f]{16})(?=_|$)", database)]


def is_named_after_run(database: str, hosts: Collection[str]) -> bool:
    """Whether runs with these host databases may create an empty database of this name.

    Such a name contains a run or a fingerprint, or is that of a clone source.
    """
    runs, fingerprints = runs_in(database), re.findall(r"_([0-9a-f]{12})(?=_|$)", database)
    possible = {database_of_run(host, run) for host in hosts for run in runs}
    possible |= {database_of_fingerprint(host, part) for host in hosts for part in fingerprints}
    all_hosts, workers = {*hosts, *possible}, _workers_in(database)
    possible |= {clone_database(host, 0) for host in all_hosts}
    possible |= {own_database(host, run, n) for host in all_hosts for run in runs for n in workers}
    return database in possible


def is_clone_name(database: str, host: str) -> bool:
    """Whether a name has the form of a worker's clone of a host database."""
    clones = {clone_database(host, worker) for worker in _workers_in(database)}
    clones |= {database_of_run(clone, run) for clone in clones for run in runs_in(database)}
    return database in clones


def _workers_in(database: str) -> Iterable[int]:
    if len(database.encode()) > _MAX_NAME_BYTES - 4:
        # The name may be truncated before the number.
        return range(1, _MAX_WORKERS + 1)
    return [int(number) for number in re.findall(r"_([1-9][0-9]*)(?=_|$)", database)]


def application_name(run: int, worker: int | None = None) -> str:
    """Return the application_name of connections of a run's tests, or of one worker's tests."""
    return f"django-schema-runner {run}" + (f" w{worker}" if worker is not None else "")


def main_application_name(run: int) -> str:
    """Return the application_name of a run's connections that create and drop objects."""
    return f"django-schema-runner {run} run"


def run_of_any_connection(application: str) -> int | None:
    """Return the run of a connection with this application_name, or None."""
    found = re.match(r"django-schema-runner ([0-9]+)(?: |$)", application)
    return int(found[1]) if found else None


def run_of_test_connection(application: str) -> int | None:
    """Return the run of a connection of tests with this application_name, or None."""
    pattern = r"django-schema-runner ([0-9]+)(?: w[1-9][0-9]*)?"
    found = re.fullmatch(pattern, application)
    return int(found[1]) if found else None


_FORMAT = 1


class MarkerState(StrEnum):
    """The state of a marked schema or database."""

    BUILDING = "building"
    READY = "ready"
    # In use by runs with the same fingerprint; the last of them drops it.
    SHARED = "shared"
    KEPT = "kept"


class Marker(NamedTuple):
    """The marker of a schema or database: the run that created it, and its state.

    `run`: the run, which is also the lock key of its lease.
    `state`: whether the object is being built, is ready, is shared with other runs or kept for
    them.
    `request`: of a database, the name that the run requested. Runs that request the same name
    clean up after each other.
    `template`: the template of a schema in a pool, or the database that a clone was created
    from. A database that is kept for cloning is its own template.
    `fingerprint`: the fingerprint of a template.
    `made`, `used`: when a template was created and last used, in seconds since the Unix epoch.
    `built`: when a template or a database was built here, in milliseconds since the Unix epoch;
    its rows may be those of an older snapshot.
    `since`: a transaction; a schema of a pool equals its template unless a later one changed it.
    `structure`: the version of the structure of a schema of a pool, when it equalled its template.
    `extra`: facts about a database kept for cloning. (Templates store them in a table.)
    `name`: the name of the database when it was marked.
    `beside`: the objects of a database outside the schemas of runs when tests started, or None
    if builds or tests write outside of such schemas.
    """

    run: int
    state: MarkerState
    request: str | None = None
    template: str | None = None
    fingerprint: str | None = None
    made: int = 0
    used: int = 0
    since: int = 0
    structure: int = 0
    extra: Mapping[str, Any] | None = None
    name: str | None = None
    beside: tuple[str, ...] | None = None
    built: int = 0

    @property
    def is_for_other_runs(self) -> bool:
        return self.state in {MarkerState.SHARED, MarkerState.KEPT}

    def __str__(self) -> str:
        facts = {key: value for key, value in self._asdict().items() if value or value == ()}
        return json.dumps({"schema_runner": _FORMAT, "run": self.run, **facts})

    @classmethod
    def parse(cls, comment: str | None) -> Self | None:
        """Return the marker in a comment, or None if there is no valid one."""
        try:
            found = json.loads(comment or "")
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or found.get("schema_runner") != _FORMAT:
            return None
        texts = map(found.get, ("request", "template", "fingerprint", "name"))
        if not all(isinstance(text, str | None) for text in texts):
            return None
        try:
            return cls(
                int(found["run"]),
                MarkerState(found["state"]),
                found.get("request"),
                found.get("template"),
                found.get("fingerprint"),
                int(found.get("made", 0)),
                int(found.get("used", 0)),
                int(found.get("since", 0)),
                int(found.get("structure", 0)),
                found.get("extra"),
                found.get("name"),
                None if (beside := found.get("beside")) is None else tuple(beside),
                int(found.get("built", 0)),
            )
        except (KeyError, OverflowError, TypeError, ValueError):
            return None
