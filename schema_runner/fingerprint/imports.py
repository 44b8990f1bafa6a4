"""Find the project's modules that a build runs, by following imports in the source."""

import ast
import os
import re
from collections.abc import Iterator, Set

from django.apps import apps
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.models import signals

from ..project import Project
from ..settings import Settings
from .modules import Modules, find_below, migrations_packages
from .settings_values import receivers, router_paths

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
# Not at the end of an import, and not for a swappable model, which the fingerprint covers.
_USES_SETTINGS = re.compile(rb"settings(?!\s*\n|\.\w+_MODEL\b)", re.IGNORECASE)
_MODEL_LOOKUPS = {"get_model", "get_models", "get_user_model", "get_registered_model"}


class Imports:
    """Follows imports, directly and indirectly, through the modules of the project.

    `migrations`: the files of all migrations packages.
    `files`: the source files found, and the paths at which a missing module would be.
    `settings`: the names of the settings that they use.
    `uses_app_registry`: whether a module other than a migration gets models from the registry.
    """

    def __init__(self, project: Project, migrations: Set[str]) -> None:
        self.migrations = migrations
        self.files: set[str] = set()
        self.settings: set[str] = set()
        self.uses_app_registry = False
        self._project = project
        self._modules = Modules()

    def add(self, path: str) -> None:
        """Follow the modules on a dotted path."""
        self._follow([*self._find(path)])

    def add_row_maker(self, path: str) -> None:
        """Follow a seeder or a handler that creates rows; it may be an installed package's."""
        self.add(path)
        file = self._modules.file_of(path)
        # The fingerprint covers what Django's own handlers create.
        if file and not path.startswith("django."):
            tree = _parse(file)
            self._note_lookups(tree)
            self._note_settings(tree)

    def add_files(self, files: Set[str]) -> None:
        """Follow source files. Of migrations of installed packages, note only the settings."""
        self._follow(sorted(files))
        for file in self.migrations - self.files:
            # Most migrations need no parsing, which takes 2 ms.
            if file.endswith(".py") and _USES_SETTINGS.search(_read_bytes(file)):
                self._note_settings(_parse(file))

    def _follow(self, pending: list[str]) -> None:
        while pending:
            file = pending.pop()
            if file in self.files or not file.endswith(".py") or not self._project.owns(file):
                continue
            self.files.add(file)
            tree = _parse(file)
            for node in ast.walk(tree):
                pending += self._read(node, file)
            self._note_settings(tree)
            # Migrations get historical models from their own registry.
            if file not in self.migrations:
                self._note_lookups(tree)
            pending += _parent_packages(file)

    def _note_lookups(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=name) | ast.alias(name=name) if name in _MODEL_LOOKUPS:
                    self.uses_app_registry = True

    def _read(self, node: ast.AST, file: str) -> Iterator[str]:
        """Yield the files that a node imports."""
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield from self._find(alias.name, required=alias.name.count(".") + 1)
            case ast.ImportFrom(module=module, names=names, level=level):
                folder = _ancestor(file, level) if level else None
                origin = module.split(".") if module else []
                for alias in names:
                    path = ".".join([*origin, alias.name])
                    yield from self._find(path, folder, required=len(origin))
            case ast.Constant(value=str(text)) if _DOTTED.fullmatch(text):
                # It may be a dotted path, such as the argument of import_string.
                yield from self._find(text)

    def _note_settings(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=owner, attr=name):
                    self._add_setting(owner, name)
                case ast.Call(args=[owner, ast.Constant(value=str(name)), *_]):
                    self._add_setting(owner, name)

    def _add_setting(self, owner: ast.AST, name: str) -> None:
        owner_name = str(getattr(owner, "id", None) or getattr(owner, "attr", None)).lower()
        if name.isupper() and "settings" in owner_name:
            self.settings.add(name)

    def _find(self, path: str, folder: str | None = None, *, required: int = 0) -> Iterator[str]:
        """Yield the files of the modules on a dotted path.

        `folder`: that of a relative import.
        `required`: how many names of the path must be modules. If one is missing, add the paths
        at which Python would look for it.
        """
        folders: tuple[str, ...] = (folder or self._project.root,)
        name = ""
        for number, part in enumerate(path.split(".")):
            name = f"{name}.{part}" if name else part
            found = find_below(folders, part) if folder else self._modules.locate(name)
            if found is None:
                if number < required:
                    self.files.update(self._missing_files(folders, part))
                return
            if found.file:
                yield found.file
                if not self._project.owns(found.file):
                    return
            folders = found.folders

    def _missing_files(self, folders: tuple[str, ...], name: str) -> Iterator[str]:
        for folder in filter(self._project.owns, folders):
            yield os.path.join(folder, f"{name}.py")
            yield os.path.join(folder, name, "__init__.py")


def _parse(file: str) -> ast.Module:
    try:
        return ast.parse(_read_bytes(file))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _read_bytes(file: str) -> bytes:
    try:
        with open(file, "rb") as source:
            return source.read()
    except OSError:
        return b""


def _ancestor(file: str, level: int) -> str:
    for _ in range(level):
        file = os.path.dirname(file)
    return file


def _parent_packages(file: str) -> Iterator[str]:
    """Yield the file of the package of a module, which Python imports first."""
    level = 2 if os.path.basename(file) == "__init__.py" else 1
    package = os.path.join(_ancestor(file, level), "__init__.py")
    if os.path.exists(package):
        yield package


def follow_build(project: Project, settings: Settings, opened: Set[str]) -> Imports:
    """Follow the imports of all modules that a build calls, and of the files it `opened`."""
    migrated = list(migrations_packages(Modules()))
    imports = Imports(project, {path for package in migrated for _, path in package.files()})
    imports.add_files(imports.migrations | opened)
    for path in (*settings.seeders, *receivers(signals.pre_migrate, signals.post_migrate)):
        imports.add_row_maker(path)
    for path in _called(settings):
        imports.add(path)
    needs_all = bool(settings.fixtures) or imports.uses_app_registry or not _all_aliases_migrate()
    unmigrated = {package.label for package in migrated if not package.is_used}
    for model in apps.get_models(include_auto_created=True):
        # Without migrations, Django creates tables from the models themselves.
        if needs_all or model._meta.app_label in unmigrated:
            imports.add(model.__module__)
    return imports


def _called(settings: Settings) -> Iterator[str]:
    """Yield the dotted paths of what else a build calls."""
    yield from settings.fingerprint
    yield from router_paths()
    for entry in connections.settings.values():
        yield f"{entry['ENGINE']}.base"
    model_signals = (one for one in vars(signals).values() if isinstance(one, signals.ModelSignal))
    yield from receivers(connection_created, *model_signals)


def _all_aliases_migrate() -> bool:
    return all(entry["TEST"]["MIGRATE"] for entry in connections.settings.values())
