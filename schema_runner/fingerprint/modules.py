"""Find the files of modules and migrations without importing them."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from itertools import accumulate
from typing import NamedTuple

from django.apps import AppConfig, apps
from django.db.migrations.loader import MigrationLoader


class ModuleFile(NamedTuple):
    """The file of a module, if it has one, and the folders of a package's submodules."""

    file: str | None
    folders: tuple[str, ...] = ()


class Modules:
    """Finds modules by name, and caches the results."""

    def __init__(self) -> None:
        self._module_files: dict[str, ModuleFile | None] = {}

    def locate(self, name: str) -> ModuleFile | None:
        """Return the file and folders of a module; None if it does not exist."""
        if name not in self._module_files:
            self._module_files[name] = self._find(name)
        return self._module_files[name]

    def walk(self, path: str) -> Iterator[tuple[str, ModuleFile]]:
        """Yield the name and the file of each package and module on a dotted path."""
        for name in accumulate(path.split("."), "{}.{}".format):
            if (module_file := self.locate(name)) is None:
                return
            yield name, module_file

    def file_of(self, path: str) -> str | None:
        """Return the file of the last module on a dotted path, such as that of a function."""
        return next((module_file.file for _, module_file in reversed([*self.walk(path)])), None)

    def _find(self, name: str) -> ModuleFile | None:
        parent, _, last = name.rpartition(".")
        try:
            if not parent or name in sys.modules:
                return _module_file(importlib.util.find_spec(name))
        except (ImportError, ValueError):
            return None
        above = self.locate(parent)
        return find_below(above.folders, last) if above else None


def find_below(folders: Sequence[str], name: str) -> ModuleFile | None:
    """Return the file and folders of a module of a package with these folders, if it exists."""
    # Not by its full name: Python looks up a namespace package's parent in sys.modules.
    return _module_file(PathFinder.find_spec(name, list(folders))) if folders else None


def source_of(file: str) -> str:
    """Return the path of a .pyc file's source; any other path unchanged."""
    if not file.endswith(".pyc"):
        return file
    try:
        return importlib.util.source_from_cache(file)
    except ValueError:
        return file  # Not in a __pycache__ folder.


def _module_file(spec: ModuleSpec | None) -> ModuleFile | None:
    if spec is None:
        return None
    folders = tuple(spec.submodule_search_locations or ())
    return ModuleFile(
        source_of(spec.origin) if spec.has_location and spec.origin else None, folders
    )


class MigrationsPackage(NamedTuple):
    """The migrations package of an app; `module` is None if MIGRATION_MODULES disables it."""

    label: str
    module: str | None
    folders: tuple[str, ...]
    file: str | None

    @property
    def is_used(self) -> bool:
        """Whether the app has migrations; otherwise, its tables are created from its models."""
        return bool(self.folders and self.file)

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the name relative to the package, and the path, of each file in it."""
        for folder in self.folders:
            yield from sorted(files_below(folder))
        if self.file and not self.folders:
            yield os.path.basename(self.file), self.file


def project_apps() -> list[AppConfig]:
    """Return the installed apps, without schema_runner, which has no tables."""
    return [app for app in apps.get_app_configs() if app.name != "schema_runner"]


def migrations_packages(modules: Modules) -> Iterator[MigrationsPackage]:
    """Yield the migrations package of each installed app, in the order of the apps."""
    for app in project_apps():
        name, _ = MigrationLoader.migrations_module(app.label)
        module_file = (modules.locate(name) if name else None) or ModuleFile(None)
        yield MigrationsPackage(app.label, name, module_file.folders, module_file.file)


def files_below(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the name relative to the folder, and the path, of each file below it."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        known = set(names)
        for name in names:
            # Python imports a .pyc file if there is no source file with it.
            if not name.endswith(".pyc") or name[:-1] not in known:
                path = os.path.join(parent, name)
                yield path.removeprefix(folder).lstrip(os.sep), path
