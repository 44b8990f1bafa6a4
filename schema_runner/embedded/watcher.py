"""The watcher: a process that stops the server when its last user exits, even if that is killed.

`shared_server` runs this file as a script. It imports the package only if it must stop the server,
because usually it only waits, and the last user stops the server itself.
"""

import fcntl
import os
import pickle
import sys
from contextlib import suppress


def watch(data_dir: str, users_lock: int, watcher_lock: int, payload: bytes) -> None:
    """Wait until no process holds a lock on the file `users_lock`, then stop the server.

    `users_lock`, `watcher_lock`: file descriptors; a lock on the second shows that a watcher runs.
    `payload`: a pickled tuple of `sys.path` and the pickled cluster.
    """
    while True:
        fcntl.flock(users_lock, fcntl.LOCK_EX)
        # Check again while holding the cluster's lock, which a process needs to become a user.
        fcntl.flock(users_lock, fcntl.LOCK_UN)
        try:
            cluster_lock = os.open(f"{data_dir}.lock", os.O_RDWR)
        except FileNotFoundError:
            return
        fcntl.flock(cluster_lock, fcntl.LOCK_EX)
        with suppress(BlockingIOError):
            fcntl.flock(users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        os.close(cluster_lock)
    try:
        if _is_current(users_lock, data_dir):
            _stop(payload)
    finally:
        # In this order: the next user holds the cluster's lock when it checks for a watcher.
        os.close(watcher_lock)
        os.close(cluster_lock)


def _is_current(users_lock: int, data_dir: str) -> bool:
    """Whether there is a server, and the descriptor still refers to its lock file."""
    with suppress(FileNotFoundError):
        is_same = os.path.samestat(os.fstat(users_lock), os.stat(f"{data_dir}.users"))
        return is_same and os.path.exists(f"{data_dir}/postmaster.pid")
    return False


def _stop(payload: bytes) -> None:
    sys.path[:], cluster = pickle.loads(payload)  # noqa: S301 - written by `shared_server`
    # Absolute, because this file runs as a script.
    from schema_runner.embedded.postmaster import stop_server

    stop_server(pickle.loads(cluster))  # noqa: S301


if __name__ == "__main__":
    payload = sys.stdin.buffer.read()
    if os.fork() == 0:
        # The parent exits, so that no user must reap the watcher.
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        watch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), payload)
