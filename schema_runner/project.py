"""The project: its root, which files are its own, and the names they have on every machine."""

import os
import sys
import sysconfig
import tempfile
import zoneinfo
from pathlib import Path
from typing import NamedTuple, Self

from .settings import project_root

INSTALLED = {"site-packages", "dist-packages"}
_OWN_PACKAGE = str(Path(__file__).parents[1])


class Project(NamedTuple):
    """A folder, and what is not the project's although it lies in it or is read like data.

    `roots` are the spellings of the folder, which may differ by symbolic links.
    """

    roots: tuple[str, ...]
    foreign: tuple[str, ...]
    passing: tuple[str, ...]

    @classmethod
    def find(cls) -> Self:
        """Find the folder of the settings module's top package; else the working directory."""
        stdlib = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
        stdlib |= {sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})}
        passing = ["/proc", "/sys", "/dev", tempfile.gettempdir(), *zoneinfo.TZPATH, _OWN_PACKAGE]
        return cls(_spellings([project_root()]), _spellings(sorted(stdlib)), _spellings(passing))

    @property
    def root(self) -> str:
        return self.roots[0]

    def owns(self, path: str) -> bool:
        """Tell whether an absolute path is neither Python's, nor a package's, nor the system's."""
        inner = self._inner(path)
        if not INSTALLED.isdisjoint((path if inner is None else inner).split(os.sep)):
            return False
        if any(_is_below(path, folder) for folder in self.foreign):
            return False
        return inner is not None or not any(_is_below(path, folder) for folder in self.passing)

    def name(self, path: str) -> str:
        """Return the path from the root where it is below it."""
        inner = self._inner(path)
        return path if inner is None else inner or "."

    def path(self, name: str) -> str:
        """Return the path that `name` has given a name."""
        return os.path.normpath(os.path.join(self.root, name))

    def label(self, path: str) -> str:
        """Return what a path is called on every machine, though it may not lead there."""
        if (inner := self._inner(path)) is not None:
            return inner
        parts = path.split(os.sep)
        after = [number for number, part in enumerate(parts) if part in INSTALLED]
        return os.sep.join(parts[after[-1] + 1 :] if after else parts[-1:])

    def without_root(self, text: str) -> str:
        """Return a text that may have paths in it as it would be in any other folder."""
        for root in self.roots:
            if len(root) > 1 and root in text:
                text = text.replace(root, "<project>")
        return text

    def _inner(self, path: str) -> str | None:
        for root in self.roots:
            if _is_below(path, root):
                return path[len(root) :].lstrip(os.sep)
        return None


def _spellings(paths: list[str]) -> tuple[str, ...]:
    absolute = [os.path.abspath(path) for path in paths]
    return tuple(dict.fromkeys([*absolute, *map(os.path.realpath, absolute)]))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
