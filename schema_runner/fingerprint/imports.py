"""What modules of the project import, found in their source, and read of the settings."""

import ast
import os
import re
import sys
from collections.abc import Iterator, Set

from .modules import Modules
from .project import Project

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
        inner = self._project.name(file).removesuffix(".py").removesuffix("/__init__")
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
