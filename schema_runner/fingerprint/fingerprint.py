"""The fingerprint: a hash of what decides the contents of a ready schema."""

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
from .canonical import Canonical, digest, path_of
from .modules import Modules, packages, project_apps

_PACKAGE = Path(__file__).parents[1]


# What the first words of the server's facts are called.
_FACTS = {
    "server": "version of PostgreSQL",
    "extension": "extensions of the server",
    "database": "encoding or locale of template1",
    "advisory": "ISOLATE_ADVISORY_LOCKS",
}


def combined(parts: Mapping[str, str]) -> str:
    """Return the fingerprint that has these parts."""
    return digest("\n".join(f"{name} {parts[name]}" for name in sorted(parts)))


def parts(
    alias: str,
    *,
    runner_settings: Settings,
    facts: Iterable[str],
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the hashes that the fingerprint is made of, by what they are of, in users' words.

    `facts` are what the caller knows of the server: its version, those of the extensions, the
    role, and so on. `options` is the alias's OPTIONS, if it has others now than the project set.
    Nothing in it belongs to a machine or a folder.
    """
    project, modules = Project.find(), Modules()
    if options is None:
        options = connections.settings[alias].get("OPTIONS") or {}
    to = Canonical(project)

    def source(path: str) -> str:
        return _hash_of(modules.file_of(path))

    values: dict[str, Any] = {
        **_versions(modules),
        **_by_kind(facts),
        # Routers may tell aliases apart by nothing but their names.
        "alias": alias,
        "INSTALLED_APPS": [
            (app.name, app.label, path_of(type(app)), app.default_auto_field)
            for app in project_apps()
        ],
        **settings_values.django(source),
        "DATABASES": (sorted(connections.settings), settings_values.database(alias, options)),
        'TEST["MIGRATE"] (--no-migrations)': connections.settings[alias]["TEST"]["MIGRATE"],
        **settings_values.runner(runner_settings, alias, project, source),
    }
    hashes = {name: digest(to.text(value)) for name, value in values.items()}
    texts = {f"models of {label}": digest(text) for label, text in models.model_texts(to)}
    return {**hashes, **texts, **dict(_migrations(modules))}


def _by_kind(facts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for fact in sorted(facts):
        kind = fact.partition(" ")[0]
        found.setdefault(_FACTS.get(kind, kind), []).append(fact)
    return found


def _migrations(modules: Modules) -> Iterator[tuple[str, str]]:
    for package in packages(modules):
        files = [f"{name} {_hash_of(path)}" for name, path in package.files()]
        yield f"migrations of {package.label}", digest("\n".join([str(package.module), *files]))


def _versions(modules: Modules) -> dict[str, Any]:
    tops = {app.name.split(".")[0] for app in project_apps()}
    installed = dependencies.versions(tops, modules)
    return {
        "version of Django": django.__version__,
        "version of Python": sys.version_info[:2],
        "version of psycopg": _version("psycopg"),
        "version of django-schema-runner": [_version("django-schema-runner"), *_own_sources()],
        **{f"version of {top}": found for top, found in sorted(installed.items())},
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _own_sources() -> list[str]:
    """Hash what makes schemas, where its version says little: it is being worked on."""
    if not INSTALLED.isdisjoint(_PACKAGE.parts):
        return []
    return [_hash_of(str(path)) for path in sorted((_PACKAGE / "postgres").glob("*.py"))]


def _hash_of(file: str | None) -> str:
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
    """List the versions of the server and of the extensions that it could create, and the like.

    They are the same on another machine that is set up alike.
    """
    return sorted(fact for (fact,) in connection.execute(_SERVER_FACTS))
