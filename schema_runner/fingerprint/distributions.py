"""The versions of installed packages, read from the names of their metadata folders."""

import os
import re
from collections.abc import Iterable, Iterator

from .modules import Modules
from .project import INSTALLED

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
