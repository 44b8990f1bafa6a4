"""Django's connections by alias: which server they reach, which are ours, and closing them."""

import os
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.util import strclass

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from .errors import SchemaRunnerError, did_you_mean

# Runs without databases import this module: what they do not use, functions import.
if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

    from .postgres.server import Server


def disconnect() -> None:
    """Close this thread's connections to PostgreSQL, which would keep a host database in use."""
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql":
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]


def leave_transactions() -> None:
    """Give up what a class has left open: its set-up failed once TestCase's had begun.

    unittest then calls no tearDownClass, and every later class would be within it.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql" and connection.in_atomic_block:
            if connection.connection is not None:
                connection.connection.close()
            # As Django's connect() has it, which comes too late: atomic() asks before.
            connection.connection = None
            connection.in_atomic_block = connection.closed_in_transaction = False
            connection.needs_rollback = False
            connection.savepoint_ids, connection.atomic_blocks = [], []
            connection.run_on_commit = []


def end_sessions() -> None:
    """Close this thread's connections, for tests can have set anything on them.

    The search_path, a role, temporary tables: what follows is to find none of it. After a test
    that can commit, Django is about to close them anyway.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql":
            connection.close()


@contextmanager
def fresh_sessions() -> Iterator[None]:
    """End the sessions, and have those of the body of the `with` be where the run wants them.

    Tests can have changed the settings of connections as well, and find them again so.
    """
    from .search_path import Locations

    end_sessions()
    changed: list[tuple[Any, dict[str, Any]]] = []
    for connection in connections.all(initialized_only=True):
        settings_dict = connection.settings_dict
        locations = Locations.of(settings_dict)
        if connection.vendor == "postgresql" and locations is not None:
            entries = locations.entries()
            found = {key: settings_dict[key] for key in entries}
            if found != entries:
                changed.append((connection, found))
                settings_dict.update(entries)
    try:
        yield
    finally:
        for connection, found in changed:
            connection.close()
            connection.settings_dict.update(found)


def prepare_for(test_class: type, *, own_database: bool) -> None:
    """Do what has to be done in this process before a class of tests is set up.

    One that wants its `own_database` is taken there.
    """
    creations = list(_resetting())
    if creations:
        from .search_path_restore import restore_before_class

        restore_before_class(strclass(test_class))
    for creation in creations:
        creation.prepare_for(test_class, own_database=own_database)


def changes_outside() -> tuple[str, ...]:
    """Name what a class, or another session meanwhile, has changed in the project's database."""
    watching = [one for one in _resetting() if hasattr(one, "changes_outside")]
    return tuple(sorted({name for one in watching for name in one.changes_outside()}))


def resets_so_far() -> tuple[int, float]:
    """Return how many resets this process has done, and how many seconds they have taken."""
    ours = list(_resetting())
    return sum(one.reset_count for one in ours), sum(one.reset_time for one in ours)


def _resetting() -> Iterator[Any]:
    """Yield each `ResettingCreation`, which need not be imported where there is none."""
    for connection in connections.all(initialized_only=True):
        if hasattr(connection.creation, "reset_count"):
            yield connection.creation


_ADDRESS = ("host", "hostaddr", "port", "service")


def project_databases() -> "list[Server]":
    """Say how to reach the project's own PostgreSQL databases, before tests have others."""

    servers = []
    for alias in connections:
        connection: Any = connections[alias]
        if connection.vendor == "postgresql":
            try:
                servers.append(server_of(connection))
            except ImproperlyConfigured:
                continue  # Django says so where it is used.
    return servers


def is_one_of(projects: "Iterable[Server]", server: "Server", name: str) -> bool:
    """Whether the database of this name on a server is one of the project's own.

    There are many ways to write where a server is, so it is asked; but only if names are equal.
    """
    return any(_name(one) == name and _is_same(one, server) for one in projects)


def _name(project: "Server") -> str | None:
    """Return the name of a project's database, also where a service or the environment has it."""
    params = project.params
    if name := params.get("dbname"):
        return str(name)
    from psycopg import pq

    before = os.environ.get("PGSERVICE")
    os.environ["PGSERVICE"] = params["service"]
    try:
        found = {one.keyword: one.val for one in pq.Conninfo.get_defaults()}
    finally:
        del os.environ["PGSERVICE"]
        if before is not None:
            os.environ["PGSERVICE"] = before
    name = found[b"dbname"] or found[b"user"]
    return name.decode() if name else None


def _is_same(project: "Server", server: "Server") -> bool:
    one, other = (
        {key: str(value) for key in _ADDRESS if (value := each.params.get(key))}
        for each in (project, server)
    )
    if one == other:
        return True
    from .postgres.server import Identity

    try:
        return Identity.of(project).may_be(Identity.of(server))
    except SchemaRunnerError:
        return True  # Unknown: to refuse is the safe side.


def are_here(aliases: Iterable[str]) -> bool:
    """Whether the server of any alias works on this machine, as far as its HOST tells."""
    return any(_is_here(str(connections[alias].settings_dict.get("HOST"))) for alias in aliases)


def _is_here(host: str) -> bool:
    # A path is that of a Unix socket, which is also what libpq takes where there is no host.
    is_path = not host or host.startswith(("/", "@"))
    is_loopback = host in {"localhost", "::1"} or host.startswith("127.")
    return is_path or is_loopback or host == socket.gethostname()


# What Django adds to the connection parameters for its own cursors, not for libpq.
_DJANGO_PARAMETERS = {"cursor_factory", "context", "prepare_threshold"}


def server_of(connection: "DatabaseWrapper", left_out: Collection[str] = ()) -> "Server":
    """Return the server of a connection, without some of the connection parameters.

    Connections have the application_name that the run has assigned to this one.
    """
    from .postgres import names
    from .postgres.server import Server
    from .search_path import Locations

    parameters = connection.get_connection_params()
    locations = Locations.of(connection.settings_dict)
    run = locations.run if locations else None
    return Server(
        {
            key: value
            for key, value in parameters.items()
            if key not in _DJANGO_PARAMETERS and key not in left_out
        },
        connection.settings_dict["OPTIONS"].get("assume_role"),
        names.application(run, locations.worker) if locations and run is not None else None,
    )


def refuse_unknown_mirrors(aliases: Collection[str] | None) -> None:
    """Raise SchemaRunnerError where tests would work in a database that is not for tests.

    Stock Django gives a mirror the NAME that the other alias has by then. That is the project's
    own where no test database is made for the other one: a mirror itself, or in no test's
    `databases`.
    """
    used = [alias for alias in connections if aliases is None or alias in aliases]
    mirrors = {
        alias: connection.settings_dict["TEST"]["MIRROR"]
        for alias in connections
        if (connection := connections[alias]).settings_dict["TEST"]["MIRROR"]
    }
    safe = {alias for alias in used if alias not in mirrors}
    for alias, primary in mirrors.items():
        if primary in safe:
            safe.add(alias)
        elif alias in used:
            _refuse_mirror(alias, primary, is_mirror=primary in mirrors)


def _refuse_mirror(alias: str, primary: str, *, is_mirror: bool) -> None:
    if primary not in connections:
        hint = did_you_mean(primary, connections)
        raise SchemaRunnerError(
            f"TEST['MIRROR'] of alias {alias!r} is {primary!r}, which is no alias. {hint}".rstrip()
        )
    way_out = (
        "Mirror an alias that has no MIRROR itself."
        if is_mirror
        else f"Name {primary!r} in the `databases` of the test classes too."
    )
    name = connections[alias].settings_dict["NAME"]
    raise SchemaRunnerError(
        f"TEST['MIRROR'] of alias {alias!r} is {primary!r}, for which no test database is made, "
        f"so tests would work in, and empty, the project's own database {name!r}. {way_out}"
    )
