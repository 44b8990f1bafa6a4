"""The project's root folder, and which files belong to the project."""

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
    """The project's root, and the folders of files that do not belong to it.

    `roots`: the absolute paths of the root, with and without symbolic links resolved.
    `stdlib`: folders of Python's standard library, which may lie in the root.
    `excluded`: folders of other files, such as temporary ones. Paths in the root are the
    project's even there.
    """

    roots: tuple[str, ...]
    stdlib: tuple[str, ...]
    excluded: tuple[str, ...]

    @classmethod
    def find(cls) -> Self:
        """Return the project of the settings module's top package, or of the working directory."""
        stdlib = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
        stdlib |= {sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})}
        excluded = ["/proc", "/sys", "/dev", tempfile.gettempdir(), *zoneinfo.TZPATH, _OWN_PACKAGE]
        return cls(_spellings([project_root()]), _spellings(sorted(stdlib)), _spellings(excluded))

    @property
    def root(self) -> str:
        return self.roots[0]

    def owns(self, path: str) -> bool:
        """Return whether an absolute path is a file or folder of the project.

        Files of Python, of installed packages and of the operating system are not.
        """
        inner = self._inner(path)
        if not INSTALLED.isdisjoint((path if inner is None else inner).split(os.sep)):
            return False
        if any(_is_below(path, folder) for folder in self.stdlib):
            return False
        return inner is not None or not any(_is_below(path, folder) for folder in self.excluded)

    def relative_name(self, path: str) -> str:
        """Return a path relative to the root, or unchanged if it is outside the root."""
        inner = self._inner(path)
        return path if inner is None else inner or "."

    def absolute_path(self, name: str) -> str:
        """Return the path for a name from `relative_name`."""
        return os.path.normpath(os.path.join(self.root, name))

    def without_root(self, text: str) -> str:
        """Replace the root in a text, so that the text does not depend on the project's folder."""
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
