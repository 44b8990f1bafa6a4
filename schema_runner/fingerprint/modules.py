"""The files of modules and of migrations, found without importing them."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple

from django.apps import AppConfig, apps
from django.db.migrations.loader import MigrationLoader


class ModuleFile(NamedTuple):
    """The file of a module, if it has one, and the folders of a package's submodules."""

    file: str | None
    folders: tuple[str, ...] = ()


class Modules:
    """Finds modules by name, each once."""

    def __init__(self) -> None:
        self._places: dict[str, ModuleFile | None] = {}
        self._names: dict[str, str] = {}

    def locate(self, name: str) -> ModuleFile | None:
        """Return where a module lies; None where there is none."""
        if name not in self._places:
            self._places[name] = _loaded(name) or self._searched(name)
        return self._places[name]

    def within(self, path: str) -> Iterator[tuple[str, ModuleFile]]:
        """Yield the packages and the module that a dotted path leads through, by name."""
        parts = path.split(".")
        for number in range(1, len(parts) + 1):
            name = ".".join(parts[:number])
            if (place := self.locate(name)) is None:
                return
            yield name, place

    def file_of(self, path: str) -> str | None:
        """Return the file of the module that holds what a dotted path names."""
        return next((place.file for _, place in reversed([*self.within(path)])), None)

    def name_of(self, file: str) -> str | None:
        """Return the name of the module that was imported from a file."""
        if not self._names:
            names = [name for name in list(sys.modules) if name != "__main__"]
            places = {name: _loaded(name) for name in names}
            self._names = {
                place.file: name for name, place in places.items() if place and place.file
            }
        return self._names.get(file)

    def _searched(self, name: str) -> ModuleFile | None:
        parent, _, last = name.rpartition(".")
        try:
            if not parent:
                return _module_file(importlib.util.find_spec(name))
            above = self.locate(parent)
            folders = list(above.folders) if above else []
            # By its whole name, a namespace package would look for its parent in sys.modules.
            return _module_file(PathFinder.find_spec(last, folders)) if folders else None
        except (ImportError, ValueError, AttributeError):
            return None


def source_of(file: str) -> str:
    """Return the source of a compiled file; any other file as it is."""
    if not file.endswith(".pyc"):
        return file
    try:
        return importlib.util.source_from_cache(file)
    except ValueError:
        return file  # Without a source beside it.


def _loaded(name: str) -> ModuleFile | None:
    try:
        module = sys.modules[name]
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", ())
        found = ModuleFile(source_of(file) if file else None, tuple(map(str, folders)))
    except Exception:  # Anything may stand in for a module.
        return None
    return found if found.file or found.folders else None


def _module_file(spec: ModuleSpec | None) -> ModuleFile | None:
    if spec is None:
        return None
    folders = tuple(spec.submodule_search_locations or ())
    return ModuleFile(
        source_of(spec.origin) if spec.has_location and spec.origin else None, folders
    )


class MigrationsPackage(NamedTuple):
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


def packages(modules: Modules) -> Iterator[MigrationsPackage]:
    """Yield the migrations of every installed app, in the order of the apps."""
    for app in project_apps():
        name, _ = MigrationLoader.migrations_module(app.label)
        place = modules.locate(name) if name else None
        yield MigrationsPackage(
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
