"""The fingerprint: a hash of what determines the contents of a schema before any test."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import django
from django.db import connections

from ..postgres.server import Connection
from ..project import INSTALLED, Project
from ..settings import Settings
from .hashing import digest, dotted_path, hash_file, render
from .models import model_texts
from .modules import MigrationsPackage, Modules, files_below, migrations_packages, project_apps
from .settings_values import database_values, django_values, runner_values

_PACKAGE = Path(__file__).parents[1]
_METADATA = (".dist-info", ".egg-info")

# Names of parts, by the first word of the server's facts.
_FACT_NAMES = {
    "server": "version of PostgreSQL",
    "extension": "extensions of the server",
    "database": "encoding or locale of template1",
    "advisory": "ISOLATE_ADVISORY_LOCKS",
}


def combine_parts(parts: Mapping[str, str], *, salt: str = "") -> str:
    """Return the fingerprint of the hashes that `compute_parts` returns.

    Only runs with the same `salt` share a fingerprint, for instance the processes of a session.
    """
    return digest("\n".join([salt, *(f"{name} {parts[name]}" for name in sorted(parts))]))


def compute_parts(
    alias: str,
    *,
    runner_settings: Settings,
    facts: Iterable[str],
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the hashes that make up the fingerprint, by names for users.

    `facts`: lines about the server, such as its version: see `server_facts`.
    `options`: the project's OPTIONS, if the runner has changed those of the alias.
    The hashes do not depend on the machine or the project's folder.
    """
    project, modules = Project.find(), Modules()
    entry = connections.settings[alias]
    server = _group_facts(facts)
    migrations = [*migrations_packages(modules)]
    values: dict[str, Any] = {
        **_versions(),
        **server,
        # Routers may decide by the alias.
        "alias": alias,
        "INSTALLED_APPS": [
            (app.name, app.label, dotted_path(type(app)), app.default_auto_field)
            for app in project_apps()
        ],
        **django_values(modules),
        "DATABASES": (
            sorted(connections.settings),
            database_values(entry, entry.get("OPTIONS") or {} if options is None else options),
        ),
        'TEST["MIGRATE"] (--no-migrations)': entry["TEST"]["MIGRATE"],
        **runner_values(runner_settings, alias, modules),
    }
    models = model_texts(
        alias,
        unmigrated={
            package.label
            for package in migrations
            if not (package.is_used and entry["TEST"]["MIGRATE"])
        },
        server_version=_major_version(server) * 10000,
    )
    return {
        **{name: digest(project.without_root(render(value))) for name, value in values.items()},
        **{f"models of {label}": digest(project.without_root(text)) for label, text in models},
        **{f"migrations of {one.label}": _hash_migrations(one) for one in migrations},
    }


def _group_facts(facts: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for fact in sorted(facts):
        kind = fact.partition(" ")[0]
        groups.setdefault(_FACT_NAMES.get(kind, kind), []).append(fact)
    return groups


def _major_version(server: Mapping[str, list[str]]) -> int:
    found = re.search(r"\d+", " ".join(server.get(_FACT_NAMES["server"], [])))
    return int(found[0]) if found else 0


def _hash_migrations(package: MigrationsPackage) -> str:
    files = [f"{name} {hash_file(path)}" for name, path in package.files()]
    return digest("\n".join([str(package.module), *files]))


def _versions() -> dict[str, Any]:
    return {
        "version of Django": django.__version__,
        "version of Python": sys.version_info[:2],
        "version of django-schema-runner": [*_own_sources()],
        "installed packages": sorted(_distributions()),
    }


def _distributions() -> Iterator[str]:
    """Yield the names of the metadata folders, such as "psycopg-3.2.1.dist-info", and commits."""
    for folder in sys.path:
        if os.path.basename(folder) in INSTALLED and os.path.isdir(folder):
            for name in os.listdir(folder):
                if name.endswith(_METADATA):
                    yield f"{name} {_commit(os.path.join(folder, name))}"


def _commit(metadata: str) -> object:
    """Return the commit or hash of a package that is not from an index; its version may stay.

    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    try:
        with open(os.path.join(metadata, "direct_url.json"), "rb") as file:
            origin = json.load(file)
        return origin.get("vcs_info") or origin.get("archive_info")
    except (OSError, ValueError):
        return None


def _own_sources() -> Iterator[str]:
    """Yield the hashes of this package's modules, if it runs from a checkout."""
    if INSTALLED.isdisjoint(_PACKAGE.parts):
        yield from (hash_file(path) for _, path in sorted(files_below(str(_PACKAGE))))


_SERVER_FACTS = """
    SELECT 'server ' || pg_catalog.version()
    UNION ALL
    SELECT 'role ' || current_user
    UNION ALL
    SELECT pg_catalog.format('database %s %s %s', pg_catalog.pg_encoding_to_char(encoding),
                             datcollate, datctype)
    FROM pg_catalog.pg_database WHERE datname = 'template1'
    UNION ALL
    SELECT 'extension ' || name || ' ' || default_version
    FROM pg_catalog.pg_available_extensions
"""


def server_facts(connection: Connection) -> list[str]:
    """Return lines about the server: versions of it and its extensions, role and encoding.

    They are equal for servers with the same set-up.
    """
    return sorted(fact for (fact,) in connection.execute(_SERVER_FACTS))
