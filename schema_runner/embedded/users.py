"""The users of a cluster: processes that need its server to go on."""

import atexit
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from . import locks, watcher
from .cluster import Cluster
from .postmaster import halt

# The one piece of module state: a lock is held for the life of the process, by no object of the
# caller's. A forked child finds its parent's entry under its parent's number, and lets it be.
_joined: dict[tuple[int, Path], tuple[Cluster, int]] = {}


def join(cluster: Cluster) -> None:
    """Make this process a user of the cluster, once; the caller holds the cluster's lock."""
    key = (os.getpid(), cluster.data_dir)
    if key not in _joined:
        _joined[key] = (cluster, locks.share(cluster.beside("users")))
    own = locks.hold_if_free(cluster.beside("watcher"))
    if own is not None:
        _start_watcher(cluster, own)


def leave(data_dir: Path) -> None:
    """Make this process no user any more; the last one stops the server."""
    cluster, descriptor = _joined.pop((os.getpid(), data_dir), (None, -1))
    if cluster is None or not data_dir.exists():
        return  # a server whose folder was deleted notices it, and ends by itself
    with locks.locked(cluster.beside("lock")):
        if locks.leave(cluster.beside("users"), descriptor):
            halt(cluster)


def hand_over(data_dir: Path) -> None:
    """Let the program that replaces this process, and its children, be the user instead."""
    _, descriptor = _joined[os.getpid(), data_dir]
    os.set_inheritable(descriptor, True)


def _start_watcher(cluster: Cluster, own: int) -> None:
    """Start what stops the server where the last user's exit handlers do not run.

    It inherits the lock `own`, but no terminal, no pipes, and not our process group's signals.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        # There is no interpreter to run: users stop the server as they end in order.
        os.close(own)
        return
    # Another lock on the same file than ours.
    users = locks.open_file(cluster.beside("users"))
    arguments = [str(cluster.data_dir), str(users), str(own)]
    paths = [os.path.abspath(path) for path in sys.path]
    try:
        with suppress(OSError):  # Nor is there one then.
            subprocess.run(  # noqa: S603 - our own program, and no shell
                [sys.executable, "-I", "-S", watcher.__file__, *arguments],
                input=pickle.dumps((paths, pickle.dumps(cluster))),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[users, own],
                start_new_session=True,
                cwd="/",
                check=False,
            )
    finally:
        # The watcher has its own descriptors of the two.
        os.close(users)
        os.close(own)


@atexit.register
def _leave_all() -> None:
    # In a forked child all entries are its parent's, which `leave` does not find.
    for _, data_dir in list(_joined):
        leave(data_dir)
