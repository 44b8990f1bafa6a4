"""Stop the server; as a script, the watcher: stop it when no process uses it any longer.

The watcher is for users that are killed. It imports nothing from the package, and so needs neither
its search path nor its memory.
"""

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress

_SECONDS_TO_STOP = 60
_Path = str | os.PathLike[str]


def watch(data_dir: str, users_lock: int, watcher_lock: int) -> None:
    """Wait until no process holds a lock on the file `users_lock`, then stop the server.

    `users_lock`, `watcher_lock`: file descriptors; a lock on the second shows that a watcher runs.
    """
    fcntl.flock(users_lock, fcntl.LOCK_EX)
    try:
        stop_unused_server(data_dir, users_lock)
    finally:
        # In this order: the next user waits for the second lock, and then checks for a watcher.
        os.close(watcher_lock)
        os.close(users_lock)


def stop_unused_server(data_dir: _Path, users_lock: int) -> None:
    """Stop the server; the caller has an exclusive lock on the file of its users."""
    with suppress(FileNotFoundError):
        # If the cache was deleted, its server shuts down on its own, and the file of that name
        # belongs to another one.
        if os.path.samestat(os.fstat(users_lock), os.stat(f"{data_dir}.users")):
            stop_server(data_dir)


def stop_server(data_dir: _Path) -> None:
    """Stop the server if it is running, and remove its socket folder and pid file.

    Raises TimeoutError if the server does not stop.
    """
    pid = running_pid(data_dir)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGINT)  # a fast shutdown
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while _is_running(data_dir, pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The server in {data_dir} did not stop. Kill process {pid}.")
            time.sleep(0.02)
    _remove_socket_dir(data_dir)
    # PostgreSQL mistakes a stale file for a live server's if the pid is in use again, or belongs
    # to a zombie that no process reaps, as in many containers.
    with suppress(FileNotFoundError):
        os.unlink(f"{data_dir}/postmaster.pid")


def read_pid_file(data_dir: _Path) -> list[str]:
    """Return the lines of postmaster.pid; none if it is missing.

    https://www.postgresql.org/docs/current/storage-file-layout.html
    """
    try:
        with open(f"{data_dir}/postmaster.pid", encoding="utf-8") as file:
            return [line.strip() for line in file]
    except OSError:
        return []


def running_pid(data_dir: _Path) -> str | None:
    """Return the pid of the server; None if it is not running."""
    lines = read_pid_file(data_dir)
    return lines[0] if lines and _is_running(data_dir, lines[0]) else None


def _is_running(data_dir: _Path, pid: str) -> bool:
    """Whether the process is this server, and not a later one with the same pid."""
    return f" -D {data_dir} " in f"{_command_line(pid)} "


def _command_line(pid: str) -> str:
    """Return the command line of a process; empty for a zombie or a missing process."""
    if not os.path.exists("/proc/self"):  # macOS
        import subprocess

        command = ["/bin/ps", "-ww", "-o", "command=", "-p", pid]
        result = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        return os.fsdecode(result.stdout.rstrip())
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read().replace(b"\0", b" "))
    except OSError:
        return ""


def _remove_socket_dir(data_dir: _Path) -> None:
    import shutil

    note = f"{data_dir}.socket"
    with suppress(FileNotFoundError):
        with open(note, encoding="utf-8") as file:
            shutil.rmtree(file.read(), ignore_errors=True)
        os.unlink(note)


if __name__ == "__main__" and os.fork() == 0:
    # The parent exits, so that no user must reap the watcher.
    watch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
