"""Where the databases of aliases are."""

import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..errors import SchemaRunnerError

# Runs without databases import this module.
if TYPE_CHECKING:
    from ..postgres.server import Server

_ADDRESS = ("host", "hostaddr", "port", "service")


def project_databases() -> "list[Server]":
    """Say how to reach the project's own PostgreSQL databases, before tests have others."""
    from .servers import server_of

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
    from ..postgres.server import Identity

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
