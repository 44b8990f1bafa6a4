"""Dependencies of a build by name, and the hashes of what they now contain.

A name is that of a file; of a folder's listing, with a slash at its end; of those names in a
folder that begin alike, with an asterisk; or "setting:NAME" or "package:NAME".
"""

import os
import stat
from collections.abc import Iterator, Mapping

from django.conf import settings

from . import distributions
from .canonical import Canonical
from .hashes import digest
from .modules import Modules
from .project import Project

SETTING, PACKAGE = "setting:", "package:"
ABSENT = "absent"


def is_unchanged(dependencies: Mapping[str, str]) -> bool:
    """Tell whether all that a build depended on is as it was then."""
    return next(changed(dependencies), None) is None


def changed(dependencies: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of those that are not as they were."""
    now = Contents(Project.find())
    packages = [name for name in dependencies if name.startswith(PACKAGE)]
    for name, value in now.of_packages(packages).items():
        if dependencies[name] != value:
            yield name
    for name, value in dependencies.items():
        if not name.startswith(PACKAGE) and now.of(name) != value:
            yield name


class Contents:
    """Hashes what files, folders and settings contain at this moment."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def of(self, name: str) -> str:
        """Return the hash of what a name stands for; what is not there has one too."""
        if name.startswith(SETTING):
            value = getattr(settings, name.removeprefix(SETTING), ABSENT)
            return digest(Canonical(self._project).text(value))
        path = self._project.path(name)
        try:
            if name.endswith("/"):
                return _listing(path, "")
            if name.endswith("*"):
                return _listing(os.path.dirname(path), os.path.basename(path).removesuffix("*"))
            return _content(path)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        except (OSError, ValueError) as error:
            return f"unreadable: {type(error).__name__}"

    def of_packages(self, names: list[str]) -> dict[str, str]:
        """Return the hashes of the versions of installed packages."""
        tops = [name.removeprefix(PACKAGE) for name in names]
        found = distributions.versions(tops, Modules())
        return {f"{PACKAGE}{top}": digest(repr(found.get(top))) for top in tops}


def _content(path: str) -> str:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        return f"no file but {stat.S_IFMT(mode):o}"  # Reading a pipe might never end.
    with open(path, "rb") as file:
        return digest(file.read())


def _listing(folder: str, beginning: str) -> str:
    names = os.listdir(folder)
    return digest("\0".join(sorted(name for name in names if _counts(name, beginning))))


def _counts(name: str, beginning: str) -> bool:
    is_compiled = name == "__pycache__" or name.endswith((".pyc", ".pyo"))
    return name.startswith(beginning) and not is_compiled
