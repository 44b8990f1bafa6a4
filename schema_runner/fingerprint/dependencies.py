"""Hash what a build depended on, and detect later changes."""

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
    """Return whether no dependency has changed since the build."""
    return next(changed(dependencies), None) is None


def changed(dependencies: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of the dependencies whose hashes differ now, packages first."""
    now = DependencyHashes(Project.find())
    packages = [name for name in dependencies if name.startswith(PACKAGE)]
    for name, value in now.hash_packages(packages).items():
        if dependencies[name] != value:
            yield name
    for name, value in dependencies.items():
        if not name.startswith(PACKAGE) and now.hash_of(name) != value:
            yield name


class DependencyHashes:
    """Hashes the current contents of files, folders and settings."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def hash_of(self, name: str) -> str:
        """Return the hash of a dependency; ABSENT if it does not exist.

        Names: "setting:NAME", a file's path, a folder's path with "/" for the names in it, or a
        path with "*" for the names in its folder with that prefix.
        """
        if name.startswith(SETTING):
            value = getattr(settings, name.removeprefix(SETTING), ABSENT)
            return digest(Canonical(self._project).text(value))
        path = self._project.absolute_path(name)
        try:
            if name.endswith("/"):
                return _hash_listing(path, "")
            if name.endswith("*"):
                return _hash_listing(
                    os.path.dirname(path), os.path.basename(path).removesuffix("*")
                )
            return _hash_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        except (OSError, ValueError) as error:
            return f"unreadable: {type(error).__name__}"

    def hash_packages(self, names: list[str]) -> dict[str, str]:
        """Return the hashes of the versions of installed packages."""
        tops = [name.removeprefix(PACKAGE) for name in names]
        installed = installed_versions(tops, Modules())
        return {f"{PACKAGE}{top}": digest(repr(installed.get(top))) for top in tops}


def _hash_file(path: str) -> str:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        return f"no file but {stat.S_IFMT(mode):o}"  # Do not read: a pipe may block forever.
    with open(path, "rb") as file:
        return digest(file.read())


def _hash_listing(folder: str, prefix: str) -> str:
    names = os.listdir(folder)
    return digest("\0".join(sorted(name for name in names if _is_relevant(name, prefix))))


def _is_relevant(name: str, prefix: str) -> bool:
    is_compiled = name == "__pycache__" or name.endswith((".pyc", ".pyo"))
    return name.startswith(prefix) and not is_compiled


_METADATA = (".dist-info", ".egg-info")


def installed_versions(packages: Iterable[str], modules: Modules) -> dict[str, list[str]]:
    """Map installed top-level packages to their distributions, such as "psycopg-3.2.1".

    Search the distributions' lists of files for the packages' names. This is faster than
    `importlib.metadata.packages_distributions`, which parses all of them.
    """
    folders = {name: _installation_folder(name, modules) for name in packages}
    versions: dict[str, list[str]] = {name: [] for name, folder in folders.items() if folder}
    for folder in sorted({folder for folder in folders.values() if folder}):
        wanted = [name for name, parent in folders.items() if parent == folder]
        distributions = sorted(name for name in os.listdir(folder) if name.endswith(_METADATA))
        for metadata in distributions:
            contents = _read_file_lists(os.path.join(folder, metadata))
            for name in wanted:
                if _lists_package(contents, name):
                    versions[name].append(_distribution(metadata))
        for name in wanted:
            # If no list of files mentions it, any distribution may contain it.
            versions[name] = versions[name] or [
                _distribution(metadata) for metadata in distributions
            ]
    return versions


def _installation_folder(package: str, modules: Modules) -> str | None:
    module_file = modules.locate(package)
    if module_file is None:
        return None
    if module_file.folders:
        folder = os.path.dirname(module_file.folders[0])
    else:
        folder = os.path.dirname(module_file.file or "")
    return folder if os.path.basename(folder) in INSTALLED else None


def _read_file_lists(metadata: str) -> bytes:
    return b"\n" + b"\n".join(_file_lists(metadata))


def _file_lists(metadata: str) -> Iterator[bytes]:
    for name in ("RECORD", "top_level.txt", "installed-files.txt"):
        try:
            with open(os.path.join(metadata, name), "rb") as file:
                yield file.read()
        except OSError:
            continue


def _lists_package(contents: bytes, package: str) -> bool:
    name = package.encode()
    if b"\n" + name + b"/" in contents or b"\n" + name + b".py," in contents:
        return True
    return re.search(rb"\n" + re.escape(name) + rb"(\s|$)", contents) is not None


def _distribution(metadata: str) -> str:
    return metadata.rpartition(".")[0]
