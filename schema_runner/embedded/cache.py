"""The cache folder, with data folders and copied binaries, and file locks between processes."""

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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's lock alone, among threads as among processes."""
    descriptor = open_file(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _release(descriptor)


def share(path: Path) -> int:
    """Hold the file's lock together with others; return the descriptor for `leave`."""
    descriptor = open_file(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def hold_if_free(path: Path) -> int | None:
    """Hold the file's lock alone until all copies of the descriptor are closed; None if held."""
    descriptor = open_file(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def unlock(path: Path, descriptor: int) -> bool:
    """Let go of a shared lock; return whether nobody else held it.

    The change from shared to exclusive is not atomic: callers hold another lock around `share` and
    `leave`.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever deleted our file may have made another one, which others hold.
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        _release(descriptor)


def open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # Python adds O_CLOEXEC
    except OSError as error:
        raise SchemaRunnerError(
            f"The lock file {path} cannot be opened: {error.strerror}. "
            "Make its folder writable for us, or name another one with XDG_CACHE_HOME."
        ) from error


def _release(descriptor: int) -> None:
    # Closing is not enough: a forked child still has the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


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


def build_then_rename(target: Path, fill: Callable[[Path], None]) -> None:
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
