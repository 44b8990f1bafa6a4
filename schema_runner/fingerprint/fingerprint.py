"""The fingerprint: a hash of what determines the contents of a schema before any test."""

import importlib.metadata
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import django
from django.db import connections

from ..postgres.server import Connection
from ..project import INSTALLED, Project
from ..settings import Settings
from . import dependencies, models, settings_values
from .canonical import Canonical, digest, dotted_path
from .modules import Modules, migrations_packages, project_apps

_PACKAGE = Path(__file__).parents[1]


# Names of parts, by the first word of the server's facts.
_FACT_NAMES = {
    "server": "version of PostgreSQL",
    "extension": "extensions of the server",
    "database": "encoding or locale of template1",
    "advisory": "ISOLATE_ADVISORY_LOCKS",
}


def combine_parts(parts: Mapping[str, str]) -> str:
    """Return the fingerprint of the hashes that `compute_parts` returns."""
    return digest("\n".join(f"{name} {parts[name]}" for name in sorted(parts)))


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
    if options is None:
        options = connections.settings[alias].get("OPTIONS") or {}
    canonical = Canonical(project)

    def hash_source(path: str) -> str:
        return _hash_source(modules.file_of(path))

    values: dict[str, Any] = {
        **_versions(modules),
        **_group_facts(facts),
        # Routers may decide by the alias.
        "alias": alias,
        "INSTALLED_APPS": [
            (app.name, app.label, dotted_path(type(app)), app.default_auto_field)
            for app in project_apps()
        ],
        **settings_values.django_values(hash_source),
        "DATABASES": (
            sorted(connections.settings),
            settings_values.database_values(alias, options),
        ),
        'TEST["MIGRATE"] (--no-migrations)': connections.settings[alias]["TEST"]["MIGRATE"],
        **settings_values.runner_values(runner_settings, alias, project, hash_source),
    }
    hashes = {name: digest(canonical.text(value)) for name, value in values.items()}
    texts = {f"models of {label}": digest(text) for label, text in models.model_texts(canonical)}
    return {**hashes, **texts, **dict(_migrations(modules))}


def _group_facts(facts: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for fact in sorted(facts):
        kind = fact.partition(" ")[0]
        groups.setdefault(_FACT_NAMES.get(kind, kind), []).append(fact)
    return groups


def _migrations(modules: Modules) -> Iterator[tuple[str, str]]:
    for package in migrations_packages(modules):
        files = [f"{name} {_hash_source(path)}" for name, path in package.files()]
        yield f"migrations of {package.label}", digest("\n".join([str(package.module), *files]))


def _versions(modules: Modules) -> dict[str, Any]:
    tops = {app.name.split(".")[0] for app in project_apps()}
    installed = dependencies.installed_versions(tops, modules)
    return {
        "version of Django": django.__version__,
        "version of Python": sys.version_info[:2],
        "version of psycopg": _version("psycopg"),
        "version of django-schema-runner": [
            _version("django-schema-runner"),
            *_hash_own_sources(),
        ],
        **{f"version of {top}": versions for top, versions in sorted(installed.items())},
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _hash_own_sources() -> list[str]:
    """Hash the modules that create schemas, if this package runs from a checkout."""
    if not INSTALLED.isdisjoint(_PACKAGE.parts):
        return []
    return [_hash_source(str(path)) for path in sorted((_PACKAGE / "postgres").rglob("*.py"))]


def _hash_source(file: str | None) -> str:
    try:
        with open(file or os.devnull, "rb") as source:
            return digest(source.read())
    except OSError:
        return "absent"


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
