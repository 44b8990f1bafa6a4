"""The names of what runs create, and the markers that say so."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

# PostgreSQL cuts longer names off, silently (NAMEDATALEN - 1).
_MAX_NAME_BYTES = 63
# More than a run has on any machine.
_MAX_WORKERS = 256
_WORKER = r"test_w([1-9][0-9]*)_([0-9]+)"
# What such names match, also in SQL.
OWN_SCHEMA = r"^test_(?:w[1-9][0-9]*|shims|template)_[0-9]+$"

# Where the extensions of all runs in one database are, if that is the project's own.
EXTENSIONS_SCHEMA = "test_extensions"


def worker_schema(worker: int, milliseconds: int) -> str:
    """Return the name of a worker's schema; `milliseconds` are since the Unix epoch."""
    return f"test_w{worker}_{milliseconds}"


def shims_schema(milliseconds: int) -> str:
    """Return the name of the schema for a run's own functions."""
    return f"test_shims_{milliseconds}"


def template_schema(milliseconds: int) -> str:
    """Return the name of the schema from which others are made."""
    return f"test_template_{milliseconds}"


def is_shims_schema(name: str) -> bool:
    return name.startswith("test_shims_") and is_own_schema(name)


def is_template_schema(name: str) -> bool:
    return name.startswith("test_template_") and is_own_schema(name)


def is_in_public(table: str) -> bool:
    """Whether a db_table names the schema: 'public"."book', which Django puts into quotes."""
    return re.match(r'"?public"\."?\w', table) is not None


def has_schema(table: str) -> bool:
    """Whether a db_table names a schema as well, which may be any: 'crm"."customer'."""
    # Django puts quotes around a name that does not have them already, and leaves those within.
    quoted = len(table) > 1 and table.startswith('"') and table.endswith('"')
    return '"' in (table[1:-1] if quoted else table).replace('""', "")


def is_own_schema(name: str) -> bool:
    """Whether a schema of one run is called so: only such a run would have made it."""
    return re.fullmatch(OWN_SCHEMA, name) is not None


def worker_of_schema(name: str) -> int | None:
    """Return the number of the worker whose schema is called so."""
    found = re.fullmatch(_WORKER, name)
    return int(found[1]) if found else None


def milliseconds_of_schema(name: str) -> int | None:
    """Return when the worker's schema that is called so was made, since the Unix epoch."""
    found = re.fullmatch(_WORKER, name)
    return int(found[2]) if found else None


def database_name(name: str, suffix: str = "") -> str:
    """Return the name with the suffix; a hash replaces what is beyond 63 bytes."""
    if len((name + suffix).encode()) <= _MAX_NAME_BYTES:
        return name + suffix
    suffix = f"_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}{suffix}"
    return name.encode()[: _MAX_NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def clone_database(host: str, worker: int) -> str:
    """Return the name of a worker's clone of a host database, which is stock Django's name."""
    return database_name(host, f"_{worker}")


def own_database(host: str, run: int, worker: int) -> str:
    """Return the name of the database that a worker has for classes which share none.

    Runs that use one pool have one host database: so the run is in it.
    """
    return database_name(host, f"_{run:016x}_{worker}")


def is_own_database(name: str, run: int) -> bool:
    return re.search(f"_{run:016x}_[0-9]+$", name) is not None


def database_of_run(name: str, run: int) -> str:
    """Return the name of a run's host database where another run has the first choice."""
    return database_name(name, f"_{run:016x}")


def database_of_fingerprint(name: str, fingerprint: str) -> str:
    """Return the name of a host database that is kept, where the first choice is taken."""
    return database_name(name, f"_{fingerprint[:12]}")


def runs_in(database: str) -> list[int]:
    """Return the runs after which a database may be named."""
    return [int(run, 16) for run in re.findall(r"_([0-9a-f]{16})(?=_|$)", database)]


def is_named_after_run(database: str, hosts: Collection[str]) -> bool:
    """Whether a run makes an empty database of this name, beside these host databases.

    It is one with a run or a fingerprint in it, or the one of which workers get clones.
    """
    runs, fingerprints = runs_in(database), re.findall(r"_([0-9a-f]{12})(?=_|$)", database)
    made = {database_of_run(host, run) for host in hosts for run in runs}
    made |= {database_of_fingerprint(host, one) for host in hosts for one in fingerprints}
    all_hosts, workers = {*hosts, *made}, _workers_in(database)
    made |= {clone_database(host, 0) for host in all_hosts}
    made |= {own_database(host, run, n) for host in all_hosts for run in runs for n in workers}
    return database in made


def is_clone_name(database: str, host: str) -> bool:
    """Whether a worker's clone of a host database is called so."""
    clones = {clone_database(host, worker) for worker in _workers_in(database)}
    clones |= {database_of_run(clone, run) for clone in clones for run in runs_in(database)}
    return database in clones


def _workers_in(database: str) -> Iterable[int]:
    if len(database.encode()) > _MAX_NAME_BYTES - 4:
        # What is cut off may have the number in it.
        return range(1, _MAX_WORKERS + 1)
    return [int(number) for number in re.findall(r"_([1-9][0-9]*)(?=_|$)", database)]


def application_name(run: int, worker: int | None = None) -> str:
    """Return the application_name by which the server shows the connections of a run.

    Those of one of its workers have the worker's number behind it.
    """
    return f"django-schema-runner {run}" + (f" w{worker}" if worker is not None else "")


def main_application_name(run: int) -> str:
    """Return that of the connections by which a run makes and drops what it uses."""
    return f"django-schema-runner {run} run"


def run_of_any_connection(application: str) -> int | None:
    """Return the run to which a connection with this application_name belongs, if to any."""
    found = re.match(r"django-schema-runner ([0-9]+)(?: |$)", application)
    return int(found[1]) if found else None


def run_of_test_connection(application: str) -> int | None:
    """Return the run whose tests' connections have this application_name, if any have."""
    pattern = r"django-schema-runner ([0-9]+)(?: w[1-9][0-9]*)?"
    found = re.fullmatch(pattern, application)
    return int(found[1]) if found else None


_FORMAT = 1


class MarkerState(StrEnum):
    """How far a marked object has come."""

    BUILDING = "building"
    READY = "ready"
    KEPT = "kept"


class Marker(NamedTuple):
    """Whose an object is: the `run` that made it (the key of its lease) and its state.

    `request` is the name that a database was asked for by, which may be another than its own,
    `name`: runs that ask for the same one clean up after each other. `beside` lists what was
    in it beside schemas of runs when tests began; it is None where a build or tests write
    anywhere. What is kept for other runs has the name of its `template`, and that one has the
    `fingerprint` of what it was made from, and when it was `made` and `used` last, in seconds
    since the Unix epoch. A schema of a pool, kept or leased, is as the template has it unless
    a transaction after `since` has altered it; its structure is unless the version of that is
    no longer `structure`. The template of a database is the one that it is a clone of; one
    that is kept to be cloned is its own template, and has the `extra` facts that a schema's
    template has in a table.
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

    def __str__(self) -> str:
        facts = {key: value for key, value in self._asdict().items() if value or value == ()}
        return json.dumps({"schema_runner": _FORMAT, "run": self.run, **facts})

    @classmethod
    def parse(cls, comment: str | None) -> Self | None:
        """Read a marker back; None for anything that this package did not write."""
        try:
            found = json.loads(comment or "")
        except ValueError:
            return None
        if not isinstance(found, dict) or found.get("schema_runner") != _FORMAT:
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
            )
        except (KeyError, TypeError, ValueError):
            return None
