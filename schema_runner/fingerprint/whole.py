"""The fingerprint: one hash of everything that can be known before a build."""

import importlib.metadata
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import django
from django.db import connections

from ..settings import Settings
from . import configuration, distributions, state
from .canonical import Canonical
from .forms import path_of
from .hashes import digest
from .migrations import packages, project_apps
from .modules import Modules
from .project import INSTALLED, Project

_PACKAGE = Path(__file__).parents[1]


def fingerprint(
    alias: str,
    *,
    runner_settings: Settings,
    facts: Iterable[str],
    options: Mapping[str, Any] | None = None,
) -> str:
    """Return the hash, in hex, of what decides the contents of a ready schema of an alias.

    `facts` are what the caller knows of the server: its version, those of the extensions, the
    role, and so on. `options` is the alias's OPTIONS, if it has others now than the project set.
    Nothing in it belongs to a machine or a folder.
    """
    found = parts(alias, runner_settings=runner_settings, facts=facts, options=options)
    return digest("\n".join(f"{name} {found[name]}" for name in sorted(found)))


def parts(
    alias: str,
    *,
    runner_settings: Settings,
    facts: Iterable[str],
    options: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the hashes that the fingerprint is made of, by what they are of."""
    project, modules = Project.find(), Modules()
    if options is None:
        options = connections.settings[alias].get("OPTIONS") or {}
    to = Canonical(project)

    def source(path: str) -> str:
        return _hash_of(modules.file_of(path))

    values: dict[str, Any] = {
        # Routers may tell aliases apart by nothing but their names.
        "alias": alias,
        "facts": sorted(facts),
        "migrations": [*_migrations(modules)],
        "apps": [
            (app.name, app.label, path_of(type(app)), app.default_auto_field)
            for app in project_apps()
        ],
        "versions": _versions(modules),
        "django": configuration.django(source),
        "database": configuration.database(alias, options),
        "runner": configuration.runner(runner_settings, alias, project, source),
    }
    hashes = {name: digest(to.text(value)) for name, value in values.items()}
    return {**hashes, "models": digest("\n\n".join(state.models(to)))}


def _migrations(modules: Modules) -> Iterator[tuple[str, ...]]:
    for package in packages(modules):
        yield package.label, str(package.module)
        for name, path in package.files():
            yield name, _hash_of(path)


def _versions(modules: Modules) -> dict[str, Any]:
    tops = {app.name.split(".")[0] for app in project_apps()}
    return {
        "django": django.__version__,
        "python": sys.version_info[:2],
        "psycopg": _version("psycopg"),
        "own": [_version("django-schema-runner"), *_own_sources()],
        "apps": sorted(distributions.versions(tops, modules).items()),
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
