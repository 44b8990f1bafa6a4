"""The watcher: a process that stops a server when its last user has ended, however that ended.

`users` runs this file as a script. It imports nothing of the package until there is a server to
stop, because it mostly waits, and mostly the last user stops the server itself.
"""

import fcntl
import os
import pickle
import sys
from contextlib import suppress


def watch(data_dir: str, users: int, own: int, state: bytes) -> None:
    """Wait until no process holds the lock of the file `users`, and stop the server then.

    `own` is the locked file that shows that there is a watcher. `state` is a pickled list for
    `sys.path`, and the pickled cluster.
    """
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        # No process becomes a user while the cluster's lock is held.
        fcntl.flock(users, fcntl.LOCK_UN)
        try:
            lock = os.open(f"{data_dir}.lock", os.O_RDWR)
        except FileNotFoundError:
            return
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        os.close(lock)
    try:
        if _is_server_s(users, data_dir):
            _stop(state)
    finally:
        # The next user may look for a watcher as soon as it has the cluster's lock.
        os.close(own)
        os.close(lock)


def _is_server_s(users: int, data_dir: str) -> bool:
    """Whether there is a server, and the file of its users is still this one."""
    with suppress(FileNotFoundError):
        is_same = os.path.samestat(os.fstat(users), os.stat(f"{data_dir}.users"))
        return is_same and os.path.exists(f"{data_dir}/postmaster.pid")
    return False


def _stop(state: bytes) -> None:
    sys.path[:], cluster = pickle.loads(state)  # noqa: S301 - what `users` has written
    from .postmaster import halt

    halt(pickle.loads(cluster))  # noqa: S301


if __name__ == "__main__":
    given = sys.stdin.buffer.read()
    if os.fork() == 0:
        # An orphan: no user has to reap it.
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        watch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), given)
