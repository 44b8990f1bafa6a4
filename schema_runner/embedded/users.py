"""The users of a cluster: processes that need its server to go on."""

import atexit
import os
from pathlib import Path

from . import locks
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


def leave(data_dir: Path) -> None:
    """Make this process no user any more; the last one stops the server."""
    cluster, descriptor = _joined.pop((os.getpid(), data_dir), (None, -1))
    if cluster is None or not data_dir.exists():
        return  # a server whose folder was deleted notices it, and ends by itself
    with locks.locked(cluster.beside("lock")):
        if locks.leave(cluster.beside("users"), descriptor):
            halt(cluster)


@atexit.register
def _leave_all() -> None:
    # In a forked child all entries are its parent's, which `leave` does not find.
    for _, data_dir in list(_joined):
        leave(data_dir)
