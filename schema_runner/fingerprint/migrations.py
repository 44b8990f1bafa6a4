"""The files of migrations, listed without importing them."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from django.apps import AppConfig, apps
from django.db.migrations.loader import MigrationLoader

from .modules import Modules


class Package(NamedTuple):
    """The migrations of an app; `module` is None where MIGRATION_MODULES says None."""

    label: str
    module: str | None
    folders: tuple[str, ...]
    file: str | None

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the name within the package, and the path, of all that lies in it."""
        for folder in self.folders:
            yield from sorted(_files(folder, "", {os.path.realpath(folder)}))
        if self.file and not self.folders:
            yield os.path.basename(self.file), self.file


def project_apps() -> list[AppConfig]:
    """List the apps but for our own, which has nothing in a database."""
    return [app for app in apps.get_app_configs() if app.name != "schema_runner"]


def packages(modules: Modules) -> Iterator[Package]:
    """Yield the migrations of every installed app, in the order of the apps."""
    for app in project_apps():
        name, _ = MigrationLoader.migrations_module(app.label)
        place = modules.locate(name) if name else None
        yield Package(
            app.label, name, place.folders if place else (), place.file if place else None
        )


def _files(folder: str, inner: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    names = {entry.name for entry in entries}
    for entry in entries:
        name = inner + entry.name
        if entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.name != "__pycache__" and real not in seen:
                yield from _files(entry.path, name + "/", seen | {real})
        # Python imports a compiled file that has no source beside it, so Django runs it.
        elif not entry.name.endswith(".pyc") or entry.name[:-1] not in names:
            yield name, entry.path
