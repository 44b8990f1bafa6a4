"""The cache folder, which holds data folders and copied binaries, and its file locks."""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SchemaRunnerError
from .account import Account

_NAME = "django-schema-runner"
SYSTEM_CACHE = Path("/var/cache") / _NAME


def cache_folder(named: str | Path | None, account: Account) -> Path:
    """Return the cache folder, created if missing: `named`, or the user's cache.

    If the server runs as another account that cannot enter the user's cache, return SYSTEM_CACHE.
    Raises SchemaRunnerError if the folder cannot be created or the account cannot enter `named`.
    """
    folder = (Path(named) if named else _user_cache()).resolve()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not account.can_enter(nearest):
        if named:
            raise SchemaRunnerError(
                f"The server runs as user {account.name!r}, which cannot enter {folder}. "
                "Set cache_dir to a folder that it can enter."
            )
        folder = SYSTEM_CACHE
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)  # despite the umask: the server's account must enter it
    except OSError as error:
        raise SchemaRunnerError(
            f"Cannot create the cache folder {folder}: {error.strerror}. "
            "Set XDG_CACHE_HOME to another one."
        ) from error
    return folder


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # the XDG specification ignores relative paths
        return Path(named) / _NAME
    try:
        home = Path.home()
    except RuntimeError as error:
        raise SchemaRunnerError(
            "Found no home folder for the server's data. Set XDG_CACHE_HOME to a folder."
        ) from error
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / _NAME


def build_then_rename(target: Path, fill: Callable[[Path], object]) -> None:
    """Fill a temporary folder and rename it to the target, which is thus never incomplete.

    The caller holds the target's lock, so any other temporary folder was left by a crash.
    """
    for stale in target.parent.glob(f"{target.name}.building-*"):
        shutil.rmtree(stale, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=f"{target.name}.building-", dir=target.parent))
    try:
        fill(building)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file, against other processes and other threads."""
    descriptor = open_lock_file(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing is not enough: a forked child may still have the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def open_lock_file(path: Path) -> int:
    """Open the lock file, created if missing; return its descriptor."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # Python adds O_CLOEXEC
    except OSError as error:
        raise SchemaRunnerError(
            f"Cannot open the lock file {path}: {error.strerror}. "
            "Make its folder writable, or set XDG_CACHE_HOME to another one."
        ) from error
