"""What a build depended on, hashed, and whether it has changed since."""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

from django.conf import settings

from ..project import INSTALLED, Project
from .canonical import Canonical, digest
from .modules import Modules

SETTING, PACKAGE = "setting:", "package:"
ABSENT = "absent"


def is_unchanged(dependencies: Mapping[str, str]) -> bool:
    """Tell whether all that a build depended on is as it was then."""
    return next(changed(dependencies), None) is None


def changed(dependencies: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of those that are not as they were."""
    now = DependencyHashes(Project.find())
    packages = [name for name in dependencies if name.startswith(PACKAGE)]
    for name, value in now.of_packages(packages).items():
        if dependencies[name] != value:
            yield name
    for name, value in dependencies.items():
        if not name.startswith(PACKAGE) and now.of(name) != value:
            yield name


class DependencyHashes:
    """Hashes what files, folders and settings contain at this moment."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def of(self, name: str) -> str:
        """Return the hash of what a name stands for; what is not there has one too."""
        if name.startswith(SETTING):
            value = getattr(settings, name.removeprefix(SETTING), ABSENT)
            return digest(Canonical(self._project).text(value))
        path = self._project.absolute_path(name)
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
        found = versions(tops, Modules())
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


_METADATA = (".dist-info", ".egg-info")


def versions(packages: Iterable[str], modules: Modules) -> dict[str, list[str]]:
    """Map top-level packages that are installed to distributions, such as "psycopg-3.2.1".

    `importlib.metadata.packages_distributions` parses all that is installed; this looks for
    the packages' names in the lists of files.
    """
    folders = {name: _installed_in(name, modules) for name in packages}
    found: dict[str, list[str]] = {name: [] for name, folder in folders.items() if folder}
    for folder in sorted({folder for folder in folders.values() if folder}):
        wanted = [name for name, one in folders.items() if one == folder]
        listed = sorted(name for name in os.listdir(folder) if name.endswith(_METADATA))
        for metadata in listed:
            contents = _contents(os.path.join(folder, metadata))
            for name in wanted:
                if _mentions(contents, name):
                    found[name].append(_versioned(metadata))
        for name in wanted:
            # Without a list of files any of them may be it.
            found[name] = found[name] or [_versioned(one) for one in listed]
    return found


def _installed_in(package: str, modules: Modules) -> str | None:
    place = modules.locate(package)
    if place is None:
        return None
    if place.folders:
        folder = os.path.dirname(place.folders[0])
    else:
        folder = os.path.dirname(place.file or "")
    return folder if os.path.basename(folder) in INSTALLED else None


def _contents(metadata: str) -> bytes:
    return b"\n" + b"\n".join(_lists(metadata))


def _lists(metadata: str) -> Iterator[bytes]:
    for name in ("RECORD", "top_level.txt", "installed-files.txt"):
        try:
            with open(os.path.join(metadata, name), "rb") as file:
                yield file.read()
        except OSError:
            continue


def _mentions(contents: bytes, package: str) -> bool:
    name = package.encode()
    if b"\n" + name + b"/" in contents or b"\n" + name + b".py," in contents:
        return True
    return re.search(rb"\n" + re.escape(name) + rb"(\s|$)", contents) is not None


def _versioned(metadata: str) -> str:
    return metadata.rpartition(".")[0]
