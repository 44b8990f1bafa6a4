"""The project's modules that a build runs, found by following imports in the source."""

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
from .canonical import path_of
from .modules import MigrationsPackage, Modules, packages

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_MODELS = {"get_model", "get_models", "get_user_model", "get_registered_model"}


class Imports:
    """The modules of the project that others lead to, through any number of imports.

    `files` are their sources, and those that an import has looked for in vain; `packages` the
    installed top-level packages they import; `settings` the names of settings they read.
    `asks_for_models` tells that one which is no migration gets models from the app registry.
    """

    def __init__(self, project: Project, migrations: Set[str]) -> None:
        self.files: set[str] = set()
        self.packages: set[str] = set()
        self.settings: set[str] = set()
        self.asks_for_models = False
        self._project = project
        self._migrations = migrations
        self._modules = Modules()
        self._waiting: list[tuple[str, str]] = []

    def add(self, path: str) -> None:
        """Follow the module that holds what a dotted path names."""
        self._lead_to(path)
        self._follow()

    def add_file(self, file: str, name: str | None = None) -> None:
        """Follow a source file; `name` is that of its module, where it is known."""
        if file.endswith(".py"):
            self._take(file, name or self._name(file))
            self._follow()

    def _name(self, file: str) -> str:
        inner = self._project.relative_name(file).removesuffix(".py").removesuffix("/__init__")
        return self._modules.name_of(file) or inner.replace("/", ".")

    def _take(self, file: str, name: str) -> None:
        if file not in self.files and self._project.owns(file):
            self.files.add(file)
            self._waiting.append((file, name))

    def _follow(self) -> None:
        while self._waiting:
            file, name = self._waiting.pop()
            try:
                with open(file, "rb") as source:
                    tree = ast.parse(source.read())
            except (OSError, SyntaxError, ValueError):
                continue
            is_package = os.path.basename(file) == "__init__.py"
            package = name if is_package else name.rpartition(".")[0]
            used = set(self._read(tree, package))
            # In migrations it is the historical models that they get.
            self.asks_for_models |= file not in self._migrations and not used.isdisjoint(_MODELS)

    def _read(self, tree: ast.Module, package: str) -> Iterator[str]:
        """Follow all imports; yield the names that are imported or asked of something."""
        for node in ast.walk(tree):
            match node:
                case ast.Import() | ast.ImportFrom():
                    self._read_import(node, package)
                    yield from (alias.name for alias in node.names)
                case ast.Attribute():
                    yield node.attr
                    self._note_setting(node.value, node.attr)
                case ast.Call(args=[of, ast.Constant(value=str(name)), *_]):
                    self._note_setting(of, name)
                case ast.Constant(value=str(text)):
                    # Such as the argument of import_string.
                    self._lead_to(text if _DOTTED.fullmatch(text) else "")

    def _read_import(self, node: ast.Import | ast.ImportFrom, package: str) -> None:
        if isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            self._lead_to(origin, is_import=True)
            for alias in node.names:
                self._lead_to(f"{origin}.{alias.name}")
        else:
            for alias in node.names:
                self._lead_to(alias.name, is_import=True)

    def _note_setting(self, of: ast.AST, name: str) -> None:
        owner = str(getattr(of, "id", None) or getattr(of, "attr", None)).lower()
        if name.isupper() and "settings" in owner:
            self.settings.add(name)

    def _lead_to(self, path: str, *, is_import: bool = False) -> None:
        found = ""
        for found, place in self._modules.within(path):
            if place.file and not self._project.owns(place.file):
                top = found.split(".")[0]
                if is_import and top not in sys.stdlib_module_names:
                    self.packages.add(top)
                return
            if place.file:
                self._take(place.file, found)
        if is_import and found != path:
            self.files.update(self._sought(path, found))

    def _sought(self, path: str, found: str) -> Iterator[str]:
        """Yield the files that would be imported if they were there."""
        missing = path.removeprefix(found).lstrip(".").split(".")[0]
        place = self._modules.locate(found) if found else None
        for folder in place.folders if place else [self._project.root]:
            if missing and self._project.owns(folder):
                yield os.path.join(folder, f"{missing}.py")
                yield os.path.join(folder, missing, "__init__.py")


def _origin(node: ast.ImportFrom, package: str) -> str:
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
    """Follow the imports of all that a build calls, and of the files it has opened."""
    found = list(packages(Modules()))
    migrations = {
        path: module
        for package in found
        for path, module in _modules(package)
        if project.owns(path)
    }
    imports = Imports(project, migrations.keys())
    for path, module in migrations.items():
        imports.add_file(path, module)
    for path in sorted(opened):
        imports.add_file(path)
    for path in dict.fromkeys([*_named(settings), *_receivers(), *_fields()]):
        imports.add(path)
    needs_all = bool(settings.fixtures) or imports.asks_for_models or not _all_migrate()
    unmigrated = {package.label for package in found if not (package.folders and package.file)}
    for model in apps.get_models(include_auto_created=True):
        # Without migrations it is the models themselves that become tables.
        if needs_all or model._meta.app_label in unmigrated:
            imports.add(model.__module__)
    return imports


def _modules(package: MigrationsPackage) -> Iterator[tuple[str, str]]:
    for name, path in package.files():
        if name.endswith(".py"):
            inner = f"/{name}".removesuffix(".py").removesuffix("/__init__")
            yield path, f"{package.module}{inner.replace('/', '.')}"


def _named(settings: Settings) -> Iterator[str]:
    yield from settings.seeders
    yield from getattr(settings, "fingerprint", ())
    for router in django_settings.DATABASE_ROUTERS:
        yield router if isinstance(router, str) else path_of(type(router))
    for entry in connections.settings.values():
        yield f"{entry['ENGINE']}.base"


def _all_migrate() -> bool:
    return all(entry["TEST"]["MIGRATE"] for entry in connections.settings.values())


def _receivers() -> Iterator[str]:
    for signal in _SIGNALS:
        for entry in signal.receivers or ():
            receiver: Any = entry[1]
            if isinstance(receiver, weakref.ReferenceType):
                receiver = receiver()
            module = getattr(receiver, "__module__", None) or type(receiver).__module__
            yield str(module)


def _fields() -> Iterator[str]:
    """Yield the modules whose code says which columns fields become."""
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.get_fields():
            yield type(field).__module__
