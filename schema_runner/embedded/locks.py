"""File locks between processes.

They are `flock` locks: the kernel drops them with the last descriptor of the file, so a killed
process leaves none behind. Children made by `fork` share the descriptor, and so the lock: what is
released here is released for them too.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SchemaRunnerError


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


def leave(path: Path, descriptor: int) -> bool:
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
