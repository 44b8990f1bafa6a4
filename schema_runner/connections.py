"""Django's connections: their servers, closing them, and preparing them for a test class."""

import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.util import strclass

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from .errors import SchemaRunnerError, did_you_mean

# Runs without databases import this module, so functions import what only other runs use.
if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

    from .postgres.server import Server


def disconnect() -> None:
    """Close this thread's connections and pools, which would prevent dropping the database."""
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql":
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]


def abandon_transactions() -> None:
    """Close connections that a test class has left in an atomic block.

    If `setUpClass` fails after TestCase has opened its transaction, unittest does not call
    `tearDownClass`, and later classes would run inside that transaction.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql" and connection.in_atomic_block:
            if connection.connection is not None:
                connection.connection.close()
            # Reset what Django's connect() resets, because atomic() checks it before connecting.
            connection.connection = None
            connection.in_atomic_block = connection.closed_in_transaction = False
            connection.needs_rollback = False
            connection.savepoint_ids, connection.atomic_blocks = [], []
            connection.run_on_commit = []


def close_connections() -> None:
    """Close this thread's connections, on which tests may have set a role, a search_path etc.

    After a test that may commit, Django closes them anyway.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql":
            connection.close()


@contextmanager
def fresh_sessions() -> Iterator[None]:
    """Use new sessions in the `with` block, with the run's own connection settings.

    If tests have changed these settings, restore their changes afterwards.
    """
    from .search_path import Locations

    close_connections()
    changed: list[tuple[Any, dict[str, Any]]] = []
    for connection in connections.all(initialized_only=True):
        settings_dict = connection.settings_dict
        locations = Locations.of(settings_dict)
        if connection.vendor == "postgresql" and locations is not None:
            entries = locations.entries()
            before = {key: settings_dict[key] for key in entries}
            if before != entries:
                changed.append((connection, before))
                settings_dict.update(entries)
    try:
        yield
    finally:
        for connection, before in changed:
            connection.close()
            connection.settings_dict.update(before)


def prepare_for(test_class: type, *, own_database: bool) -> None:
    """Prepare this process's connections before a test class is set up.

    With `own_database`, the class gets a database of its own.
    """
    creations = list(_worker_creations())
    if creations:
        from .search_path_restore import restore_before_class

        restore_before_class(strclass(test_class))
    for creation in creations:
        creation.prepare_for(test_class, own_database=own_database)


def changes_outside() -> tuple[str, ...]:
    """Return the objects of the project's own database that changed since the last call.

    Tests or other sessions have changed them.
    """
    names: set[str] = set()
    for creation in _worker_creations():
        if creation.project_watch:
            names |= creation.project_watch.changes_outside()
    return tuple(sorted(names))


def reset_totals() -> tuple[int, float]:
    """Return the number of resets in this process, and their total time in seconds."""
    resets = [creation.worker_database.resets for creation in _worker_creations()]
    return sum(each.count for each in resets), sum(each.seconds for each in resets)


def _worker_creations() -> Iterator[Any]:
    """Yield the creation instances that are a `WorkerCreation`, without importing it."""
    for connection in connections.all(initialized_only=True):
        if hasattr(type(connection.creation), "worker_database"):
            yield connection.creation


_ADDRESS = ("host", "hostaddr", "port", "service")


def project_databases() -> "list[Server]":
    """Return the project's own PostgreSQL databases, before the run replaces their names."""
    servers = []
    for alias in connections:
        connection: Any = connections[alias]
        if connection.vendor == "postgresql":
            try:
                servers.append(server_of(connection))
            except ImproperlyConfigured:
                continue  # Django raises this error when a test uses the alias.
    return servers


def is_project_database(projects: "Iterable[Server]", server: "Server", name: str) -> bool:
    """Return whether the database `name` on a server is one of the project's own.

    An address can be written in many ways, so query the server if the names are equal.
    """
    return any(
        _database_name(project) == name and _is_same_server(project, server)
        for project in projects
    )


def _database_name(project: "Server") -> str | None:
    """Return the name of a project's database, from its settings, service or environment."""
    params = project.params
    if name := params.get("dbname"):
        return str(name)
    from .postgres.service_file import libpq_defaults

    defaults = libpq_defaults(params["service"])
    return defaults.get("dbname") or defaults.get("user")


def _is_same_server(project: "Server", server: "Server") -> bool:
    address, other_address = (
        {key: str(value) for key in _ADDRESS if (value := side.params.get(key))}
        for side in (project, server)
    )
    if address == other_address:
        return True
    from .postgres.server import Identity

    try:
        return Identity.of(project).may_be_same_server(Identity.of(server))
    except SchemaRunnerError:
        return True  # Unknown: the caller refuses, which is safe.


def has_local_server(aliases: Iterable[str]) -> bool:
    """Return whether the server of any alias runs on this machine, judging by its HOST."""
    return any(_is_local(str(connections[alias].settings_dict.get("HOST"))) for alias in aliases)


def _is_local(host: str) -> bool:
    # A path is that of a Unix socket, which libpq also uses if there is no host.
    is_path = not host or host.startswith(("/", "@"))
    is_loopback = host in {"localhost", "::1"} or host.startswith("127.")
    return is_path or is_loopback or host == socket.gethostname()


# Connection parameters that Django adds for psycopg, not for libpq.
_DJANGO_PARAMETERS = {"cursor_factory", "context", "prepare_threshold"}


def server_of(connection: "DatabaseWrapper", excluded: Collection[str] = ()) -> "Server":
    """Return the server of a connection, without the `excluded` connection parameters.

    Connections to it have the application_name of the run and the worker.
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
            if key not in _DJANGO_PARAMETERS and key not in excluded
        },
        connection.settings_dict["OPTIONS"].get("assume_role"),
        names.application_name(run, locations.worker) if locations and run is not None else None,
    )


def refuse_unsafe_mirrors(aliases: Collection[str] | None) -> None:
    """Raise SchemaRunnerError if tests would use the project's own database through a mirror.

    Stock Django gives a mirror the current NAME of its primary alias. That is the project's own
    database if no test database is created for the primary, because it is a mirror itself or no
    test lists it in `databases`.
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
            f"TEST['MIRROR'] of alias {alias!r} is {primary!r}, which is not an alias in "
            f"DATABASES. {hint}".rstrip()
        )
    remedy = (
        "Mirror an alias that has no MIRROR itself."
        if is_mirror
        else f"Add {primary!r} to the `databases` of the test classes."
    )
    name = connections[alias].settings_dict["NAME"]
    raise SchemaRunnerError(
        f"TEST['MIRROR'] of alias {alias!r} is {primary!r}, which gets no test database. Tests "
        f"would use, and flush, the project's own database {name!r}. {remedy}"
    )
