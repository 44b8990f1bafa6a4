"""Start the embedded server, or use the running one, and stop it when its last user exits.

Each process that uses a server holds a shared lock on the server's file `users`. The process that
gets an exclusive lock on this file, the last user or the watcher, stops the server.
"""

import atexit
import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import SchemaRunnerError
from . import watcher
from .account import server_account
from .binaries import find_binaries, reachable_binaries
from .cache import cache_folder, file_lock, open_lock_file
from .cluster import DEFAULT_SETTINGS, Cluster, build_cluster, plan_cluster
from .postmaster import EmbeddedServer, StartError, running_server, start_server

# The descriptors of this process's shared locks, by pid and data folder. Module state, because a
# lock outlives the caller's objects. A forked child inherits its parent's entries, and ignores
# them because of the pid.
_users_locks: dict[tuple[int, Path], int] = {}
_logger = logging.getLogger("schema_runner.embedded")


def start(
    *,
    bin_dir: str | Path | None = None,
    settings: Mapping[str, str | int | float | bool] | None = None,
    cache_dir: str | Path | None = None,
) -> EmbeddedServer:
    """Start a server with these settings, or return the running one.

    `bin_dir`: the folder of PostgreSQL's programs. The default is the environment variable
    SCHEMA_RUNNER_PG_BIN, else the first folder found: that of the extra "embedded", one on PATH,
    or that of a system package.
    `settings`: names and values for postgresql.conf, instead of DEFAULT_SETTINGS.
    `cache_dir`: the parent of the data folder, instead of the user's cache folder.

    The server stops when the last process that uses it calls `stop` or exits, even if killed.
    Raises SchemaRunnerError, with the end of the server's log if there is one.
    """
    account = server_account()
    programs = find_binaries(bin_dir)
    settings = DEFAULT_SETTINGS if settings is None else settings
    try:
        cache = cache_folder(cache_dir, account)
        programs = reachable_binaries(programs, account=account, cache=cache)
        cluster = plan_cluster(cache=cache, bin_dir=programs, account=account, settings=settings)
        with file_lock(cluster.sibling("lock")):
            _acquire_server(cluster)
            try:
                return _ensure_running(cluster)
            except BaseException:
                _release_server(cluster.data_dir)
                raise
    except OSError as error:  # a full disk, or a /tmp that is read-only
        # copytree() collects an error for each file; report the first.
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        raise SchemaRunnerError(f"Cannot start the embedded server: {reason}") from error


def stop(server: EmbeddedServer) -> None:
    """Stop using the server, which stops if no other process uses it."""
    _release_server(server.data_dir)


def hand_over_server(server: EmbeddedServer) -> None:
    """Keep the shared lock across exec: the new program and its children count as users."""
    os.set_inheritable(_users_locks[os.getpid(), server.data_dir], True)


def _acquire_server(cluster: Cluster) -> None:
    """Register this process as a user of the cluster; wait if another process is stopping it."""
    key = (os.getpid(), cluster.data_dir)
    if key not in _users_locks:
        descriptor = open_lock_file(cluster.sibling("users"))
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _users_locks[key] = descriptor
    # Without an interpreter, only users that exit normally stop the server.
    if sys.executable and not getattr(sys, "frozen", False):
        _ensure_watcher(cluster)


def _release_server(data_dir: Path) -> None:
    """Unregister this process; if it was the last user, stop the server."""
    descriptor = _users_locks.pop((os.getpid(), data_dir), None)
    if descriptor is None:
        return
    try:
        # Unlocked first, because two users that exit at once could not get exclusive locks.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        watcher.stop_unused_server(data_dir, descriptor)
    except BlockingIOError:
        # There are other users, or one process is stopping the server: wait for that.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    finally:
        # Closing is not enough: a forked child may still have the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@atexit.register
def _release_all() -> None:
    # In a forked child, `_release_server` ignores the parent's entries.
    for _, data_dir in list(_users_locks):
        _release_server(data_dir)


def _ensure_watcher(cluster: Cluster) -> None:
    """Start the watcher unless there is one, or the interpreter cannot be executed.

    It inherits the descriptors of its lock files, but no terminal, pipes or process group.
    """
    watcher_lock = open_lock_file(cluster.sibling("watcher"))
    # A second open file description, because a flock() lock belongs to one.
    users_lock = open_lock_file(cluster.sibling("users"))
    descriptors = [users_lock, watcher_lock]
    arguments = [str(cluster.data_dir), *map(str, descriptors)]
    try:
        with suppress(OSError):
            fcntl.flock(watcher_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            subprocess.run(  # noqa: S603 - our own program, and no shell
                [sys.executable, "-I", "-S", watcher.__file__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,
                cwd="/",
                check=False,
            )
    finally:
        # The watcher has copies of both descriptors.
        for descriptor in descriptors:
            os.close(descriptor)


def _ensure_running(cluster: Cluster) -> EmbeddedServer:
    server = running_server(cluster)
    if server is not None:
        return server
    # We hold the lock, so a server that runs but does not accept connections belongs to a process
    # that was killed while it started or stopped the server.
    watcher.stop_server(cluster.data_dir)
    is_new = not cluster.data_dir.exists()
    if is_new:
        build_cluster(cluster)
    try:
        return start_server(cluster)
    except StartError as failure:
        if is_new:
            raise
        return _rebuild(cluster, failure)


def _rebuild(cluster: Cluster, failure: StartError) -> EmbeddedServer:
    damaged = cluster.sibling("damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    cluster.data_dir.rename(damaged)
    try:
        build_cluster(cluster)
        server = start_server(cluster)
    except BaseException:
        # The data folder was not the cause (a full disk, for example): put it back.
        shutil.rmtree(cluster.data_dir, ignore_errors=True)
        damaged.rename(cluster.data_dir)
        raise
    _logger.warning("%s\nCreated a new data folder; the old one is now %s.", failure, damaged)
    return server
