"""Find the project's modules that a build runs, by following imports in the source."""

import ast
import os
import re
import sys
import weakref
from collections.abc import Iterator, Set
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.models import signals

from ..project import Project
from ..settings import Settings
from .canonical import dotted_path
from .modules import MigrationsPackage, Modules, migrations_packages

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_MODEL_LOOKUPS = {"get_model", "get_models", "get_user_model", "get_registered_model"}


class Imports:
    """Follows imports, directly and indirectly, through the modules of the project.

    `files`: the source files found, and the paths at which a missing module would be.
    `packages`: the installed top-level packages that these files import.
    `settings`: the names of the settings that they use.
    `uses_app_registry`: whether a module other than a migration gets models from the registry.
    """

    def __init__(self, project: Project, migrations: Set[str]) -> None:
        self.files: set[str] = set()
        self.packages: set[str] = set()
        self.settings: set[str] = set()
        self.uses_app_registry = False
        self._project = project
        self._migrations = migrations
        self._modules = Modules()
        self._pending: list[tuple[str, str]] = []

    def add(self, path: str) -> None:
        """Follow the modules on a dotted path."""
        self._add_path(path)
        self._follow()

    def add_file(self, file: str, name: str | None = None) -> None:
        """Follow a source file. `name` is the name of its module, if known."""
        if file.endswith(".py"):
            self._enqueue(file, name or self._name(file))
            self._follow()

    def _name(self, file: str) -> str:
        inner = self._project.relative_name(file).removesuffix(".py").removesuffix("/__init__")
        return self._modules.name_of(file) or inner.replace("/", ".")

    def _enqueue(self, file: str, name: str) -> None:
        if file not in self.files and self._project.owns(file):
            self.files.add(file)
            self._pending.append((file, name))

    def _follow(self) -> None:
        while self._pending:
            file, name = self._pending.pop()
            try:
                with open(file, "rb") as source:
                    tree = ast.parse(source.read())
            except (OSError, SyntaxError, ValueError):
                continue
            is_package = os.path.basename(file) == "__init__.py"
            package = name if is_package else name.rpartition(".")[0]
            used = set(self._read(tree, package))
            # Migrations get historical models from their own registry.
            if file not in self._migrations and not used.isdisjoint(_MODEL_LOOKUPS):
                self.uses_app_registry = True

    def _read(self, tree: ast.Module, package: str) -> Iterator[str]:
        """Follow all imports; yield the names of imported objects and of attributes."""
        for node in ast.walk(tree):
            match node:
                case ast.Import() | ast.ImportFrom():
                    self._read_import(node, package)
                    yield from (alias.name for alias in node.names)
                case ast.Attribute():
                    yield node.attr
                    self._add_setting(node.value, node.attr)
                case ast.Call(args=[owner, ast.Constant(value=str(name)), *_]):
                    self._add_setting(owner, name)
                case ast.Constant(value=str(text)):
                    # It may be a dotted path, such as the argument of import_string.
                    self._add_path(text if _DOTTED.fullmatch(text) else "")

    def _read_import(self, node: ast.Import | ast.ImportFrom, package: str) -> None:
        if isinstance(node, ast.ImportFrom):
            origin = _imported_from(node, package)
            self._add_path(origin, is_import=True)
            for alias in node.names:
                self._add_path(f"{origin}.{alias.name}")
        else:
            for alias in node.names:
                self._add_path(alias.name, is_import=True)

    def _add_setting(self, owner: ast.AST, name: str) -> None:
        owner_name = str(getattr(owner, "id", None) or getattr(owner, "attr", None)).lower()
        if name.isupper() and "settings" in owner_name:
            self.settings.add(name)

    def _add_path(self, path: str, *, is_import: bool = False) -> None:
        name = ""
        for name, module_file in self._modules.walk(path):
            if module_file.file and not self._project.owns(module_file.file):
                top = name.split(".")[0]
                if is_import and top not in sys.stdlib_module_names:
                    self.packages.add(top)
                return
            if module_file.file:
                self._enqueue(module_file.file, name)
        if is_import and name != path:
            self.files.update(self._missing_files(path, name))

    def _missing_files(self, path: str, parent: str) -> Iterator[str]:
        """Yield the paths at which Python would look for a missing module of `parent`."""
        missing = path.removeprefix(parent).lstrip(".").split(".")[0]
        module_file = self._modules.locate(parent) if parent else None
        for folder in module_file.folders if module_file else [self._project.root]:
            if missing and self._project.owns(folder):
                yield os.path.join(folder, f"{missing}.py")
                yield os.path.join(folder, missing, "__init__.py")


def _imported_from(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) + 1 - node.level]
    return ".".join([*above, *([node.module] if node.module else [])])


_SIGNALS = (
    signals.pre_migrate,
    signals.post_migrate,
    signals.pre_init,
    signals.post_init,
    signals.pre_save,
    signals.post_save,
    signals.pre_delete,
    signals.post_delete,
    signals.m2m_changed,
    connection_created,
)


def follow_build(project: Project, settings: Settings, opened: Set[str]) -> Imports:
    """Follow the imports of all modules that a build calls, and of the files it `opened`."""
    migrated = list(migrations_packages(Modules()))
    migrations = {
        path: module
        for package in migrated
        for path, module in _migration_modules(package)
        if project.owns(path)
    }
    imports = Imports(project, migrations.keys())
    for path, module in migrations.items():
        imports.add_file(path, module)
    for path in sorted(opened):
        imports.add_file(path)
    called = [*_named_in_settings(settings), *_receiver_modules(), *_field_modules()]
    for path in dict.fromkeys(called):
        imports.add(path)
    needs_all = bool(settings.fixtures) or imports.uses_app_registry or not _all_aliases_migrate()
    unmigrated = {package.label for package in migrated if not (package.folders and package.file)}
    for model in apps.get_models(include_auto_created=True):
        # Without migrations, Django creates tables from the models themselves.
        if needs_all or model._meta.app_label in unmigrated:
            imports.add(model.__module__)
    return imports


def _migration_modules(package: MigrationsPackage) -> Iterator[tuple[str, str]]:
    for name, path in package.files():
        if name.endswith(".py"):
            inner = f"/{name}".removesuffix(".py").removesuffix("/__init__")
            yield path, f"{package.module}{inner.replace('/', '.')}"


def _named_in_settings(settings: Settings) -> Iterator[str]:
    yield from settings.seeders
    yield from getattr(settings, "fingerprint", ())
    for router in django_settings.DATABASE_ROUTERS:
        yield router if isinstance(router, str) else dotted_path(type(router))
    for entry in connections.settings.values():
        yield f"{entry['ENGINE']}.base"


def _all_aliases_migrate() -> bool:
    return all(entry["TEST"]["MIGRATE"] for entry in connections.settings.values())


def _receiver_modules() -> Iterator[str]:
    for signal in _SIGNALS:
        for entry in signal.receivers or ():
            receiver: Any = entry[1]
            if isinstance(receiver, weakref.ReferenceType):
                receiver = receiver()
            module = getattr(receiver, "__module__", None) or type(receiver).__module__
            yield str(module)


def _field_modules() -> Iterator[str]:
    """Yield the modules of all field classes, which determine the columns."""
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.get_fields():
            yield type(field).__module__
