"""The folder that keeps what is slow to make: data folders and copied binaries."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import SchemaRunnerError
from .account import Account

_NAME = "django-schema-runner"
SYSTEM_CACHE = Path("/var/cache") / _NAME


def cache_folder(named: str | Path | None, account: Account) -> Path:
    """Return the cache folder, made if missing: the named one, or the user's.

    Root's own cache is mostly closed to the server's account; the system's is taken then.
    """
    folder = (Path(named) if named else _user_cache()).resolve()
    if account.is_foreign and not account.can_enter(_nearest(folder)):
        if named:
            raise SchemaRunnerError(
                f"The user {account.name!r}, as whom the server runs, cannot enter {folder}. "
                "Name a cache_dir that it can."
            )
        folder = SYSTEM_CACHE
    _make(folder)
    return folder


def build_aside(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder beside the target, and rename it: the target is never half made.

    The caller holds the target's lock, so what lies beside it already is left from a crash.
    """
    for left in target.parent.glob(f"{target.name}.building-*"):
        shutil.rmtree(left, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=f"{target.name}.building-", dir=target.parent))
    try:
        fill(building)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # as its specification says
        return Path(named) / _NAME
    try:
        home = Path.home()
    except RuntimeError as error:
        raise SchemaRunnerError(
            "There is no home folder for the server's data. Name a folder with XDG_CACHE_HOME."
        ) from error
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / _NAME


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _make(folder: Path) -> None:
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)  # whatever our umask: the server's account has to pass
    except OSError as error:
        raise SchemaRunnerError(
            f"The cache folder {folder} cannot be made: {error.strerror}. "
            "Name another one with XDG_CACHE_HOME."
        ) from error
