"""Hash what a build depended on, and detect later changes."""

import os
from collections.abc import Iterator, Mapping

from django.conf import settings

from ..project import Project
from .hashing import digest, hash_file, render

SETTING = "setting:"
_COMPILED = (".pyc", ".pyo", "__pycache__")


def is_unchanged(dependencies: Mapping[str, str]) -> bool:
    """Return whether no dependency has changed since the build."""
    return next(changed(dependencies), None) is None


def changed(dependencies: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of the dependencies whose hashes differ now."""
    project = Project.find()
    return (name for name, old in dependencies.items() if hash_dependency(name, project) != old)


def hash_dependency(name: str, project: Project) -> str:
    """Return the hash of a file, folder or setting, or the name of the error if it has none.

    Names: "setting:NAME", a file's path, a folder's path with "/" for the names in it, or a path
    with "*" for the names in its folder with that prefix.
    """
    if name.startswith(SETTING):
        value = getattr(settings, name.removeprefix(SETTING), "absent")
        return digest(project.without_root(render(value)))
    path = project.absolute_path(name)
    try:
        if name.endswith("/"):
            return _hash_listing(path, "")
        if name.endswith("*"):
            folder, prefix = os.path.split(path.removesuffix("*"))
            return _hash_listing(folder, prefix)
    except (OSError, ValueError) as error:
        return type(error).__name__
    return hash_file(path)


def _hash_listing(folder: str, prefix: str) -> str:
    names = [name for name in os.listdir(folder) if not name.endswith(_COMPILED)]
    return digest("\0".join(sorted(name for name in names if name.startswith(prefix))))
