"""Where modules lie, found without importing any."""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple


class Place(NamedTuple):
    """The file of a module, if it has one, and the folders of a package's submodules."""

    file: str | None
    folders: tuple[str, ...] = ()


class Modules:
    """Finds modules by name, each once."""

    def __init__(self) -> None:
        self._places: dict[str, Place | None] = {}
        self._names: dict[str, str] = {}

    def locate(self, name: str) -> Place | None:
        """Return where a module lies; None where there is none."""
        if name not in self._places:
            self._places[name] = _loaded(name) or self._searched(name)
        return self._places[name]

    def within(self, path: str) -> Iterator[tuple[str, Place]]:
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

    def _searched(self, name: str) -> Place | None:
        parent, _, last = name.rpartition(".")
        try:
            if not parent:
                return _place(importlib.util.find_spec(name))
            above = self.locate(parent)
            folders = list(above.folders) if above else []
            # By its whole name, a namespace package would look for its parent in sys.modules.
            return _place(PathFinder.find_spec(last, folders)) if folders else None
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


def _loaded(name: str) -> Place | None:
    try:
        module = sys.modules[name]
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", ())
        found = Place(source_of(file) if file else None, tuple(map(str, folders)))
    except Exception:  # Anything may stand in for a module.
        return None
    return found if found.file or found.folders else None


def _place(spec: ModuleSpec | None) -> Place | None:
    if spec is None:
        return None
    folders = tuple(spec.submodule_search_locations or ())
    return Place(source_of(spec.origin) if spec.has_location and spec.origin else None, folders)
