"""Start and stop the postmaster, the server process of a cluster.

Callers hold the cluster's lock, so no other process starts or stops the server meanwhile.
"""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from ..errors import SchemaRunnerError
from .account import Account
from .cluster import SUPERUSER, Cluster

_SOCKET_PREFIX = "schema-runner-"
_SOCKET_NAME = "/.s.PGSQL.65535"
_LONGEST_SOCKET_PATH = 103  # bytes on macOS; Linux allows 107
_SECONDS_TO_START = "120"
_SECONDS_TO_STOP = "60"
_SECONDS_TO_EXIT = 10
_SECONDS_FOR_ORPHANS = 10


class StartError(SchemaRunnerError):
    """The server does not start: its data folder may be damaged."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The contents of a postmaster.pid file, whose server may no longer be running.

    https://www.postgresql.org/docs/current/storage-file-layout.html
    """

    data_dir: Path
    pid: int
    port: int
    socket_dir: Path
    is_ready: bool

    def accepts_connections(self) -> bool:
        """Whether the server accepts connections, which it does not while it starts or stops."""
        if not (self.is_ready and self.is_running()):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket_dir / f".s.PGSQL.{self.port}")) == 0

    def is_running(self) -> bool:
        """Whether the process is this server, and not a later one with the same pid."""
        return f" -D {self.data_dir} " in f"{_command_line(self.pid)} "


def conninfo(*, host: Path, port: int, dbname: str) -> str:
    """Return a connection string for the superuser; `host` is the socket's folder."""
    return make_conninfo(host=str(host), port=port, user=SUPERUSER, dbname=dbname)


def read_postmaster(cluster: Cluster) -> Postmaster | None:
    """Return the contents of postmaster.pid; None if it is missing or incomplete."""
    try:
        lines = (cluster.data_dir / "postmaster.pid").read_text("utf-8").splitlines()
        return Postmaster(
            data_dir=cluster.data_dir,
            pid=int(lines[0]),
            port=int(lines[3]),
            socket_dir=Path(lines[4]),
            is_ready=[line.strip() for line in lines[7:]] == ["ready"],
        )
    except (OSError, ValueError, IndexError):
        return None


def start_server(cluster: Cluster) -> Postmaster:
    """Start the server and wait until it accepts connections.

    Raises StartError if it exits or refuses connections, and SchemaRunnerError if it takes longer
    than 120 seconds, or if backends of a killed server still use the data folder.
    """
    socket_dir = _make_socket_dir(cluster)
    try:
        _start(cluster, socket_dir)
        postmaster = read_postmaster(cluster)
        if postmaster is None:
            raise StartError(_with_log(cluster, "exited right after its start."))
        _check_connection(cluster, postmaster)
    except BaseException:
        stop_server(cluster, mode="immediate")
        raise
    return postmaster


def stop_server(cluster: Cluster, *, mode: str = "fast") -> None:
    """Stop the server if it is running, and remove its socket folder and pid file.

    Raises SchemaRunnerError if the server does not stop.
    """
    postmaster = read_postmaster(cluster)
    if postmaster is not None:
        if postmaster.is_running():
            _stop(cluster, mode)
        # pg_ctl waits until postmaster.pid is gone, which is shortly before the process ends.
        deadline = time.monotonic() + _SECONDS_TO_EXIT
        while (is_running := postmaster.is_running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_running:
            raise SchemaRunnerError(
                f"The server in {cluster.data_dir} did not stop. Kill process {postmaster.pid}."
            )
    _remove_socket_dir(cluster)
    # PostgreSQL mistakes a stale file for a live server's if the pid is in use again, or belongs
    # to a zombie that no process reaps, as in many containers.
    (cluster.data_dir / "postmaster.pid").unlink(missing_ok=True)


def _start(cluster: Cluster, socket_dir: Path) -> None:
    deadline = time.monotonic() + _SECONDS_FOR_ORPHANS
    while (result := _pg_ctl_start(cluster, socket_dir)).returncode != 0:
        postmaster = read_postmaster(cluster)
        if postmaster is not None and postmaster.is_running():
            raise SchemaRunnerError(
                _with_log(cluster, f"did not start within {_SECONDS_TO_START} seconds.")
            )
        if "still in use" not in _log_tail(cluster):
            raise StartError(_with_log(cluster, f"did not start:\n{result.stdout}"))
        # Backends of a killed postmaster exit when they notice.
        if time.monotonic() > deadline:
            raise SchemaRunnerError(
                _with_log(cluster, "was killed, but its backends are still running. Kill them.")
            )
        time.sleep(0.1)


def _pg_ctl_start(cluster: Cluster, socket_dir: Path) -> subprocess.CompletedProcess[str]:
    log = _log(cluster)
    with contextlib.suppress(OSError):
        log.replace(log.with_suffix(".log.1"))
    # On the command line, because the socket folder differs from start to start.
    options = shlex.join(["-c", "listen_addresses=", "-k", str(socket_dir)])
    return _pg_ctl(cluster, "start", "-t", _SECONDS_TO_START, "-l", log, "-o", options)


def _stop(cluster: Cluster, mode: str) -> None:
    _pg_ctl(cluster, "stop", "-t", _SECONDS_TO_STOP, "-m", mode)


def _pg_ctl(cluster: Cluster, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = cluster.bin_dir / "pg_ctl"
    return cluster.account.run(program, *arguments, "-w", "-D", cluster.data_dir)


def _check_connection(cluster: Cluster, postmaster: Postmaster) -> None:
    # A server with a damaged catalog may start, and then refuse every connection.
    address = conninfo(host=postmaster.socket_dir, port=postmaster.port, dbname="postgres")
    try:
        psycopg.connect(address, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        raise StartError(_with_log(cluster, f"refuses connections:\n{error}")) from error


def _make_socket_dir(cluster: Cluster) -> Path:
    account = cluster.account
    folder = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=_socket_parent(account)))
    # postmaster.pid contains the path too, but is gone if another program stops the server.
    cluster.sibling("socket").write_text(str(folder), "utf-8")
    account.chown(folder)
    return folder


def _socket_parent(account: Account) -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    length = len(os.fsencode(runtime)) + len(f"/{_SOCKET_PREFIX}12345678{_SOCKET_NAME}")
    is_suitable = os.access(runtime, os.W_OK | os.X_OK) and length <= _LONGEST_SOCKET_PATH
    # The server's account cannot enter root's runtime folder. On macOS, TMPDIR is too long.
    return runtime if is_suitable and not account.is_other_user else "/tmp"  # noqa: S108 - mkdtemp follows


def _remove_socket_dir(cluster: Cluster) -> None:
    note = cluster.sibling("socket")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(note.read_text("utf-8"), ignore_errors=True)
        note.unlink()


def _command_line(pid: int) -> str:
    """Return the command line of a process; empty for a zombie or a missing process."""
    if not Path("/proc/self").exists():  # macOS
        command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
        result = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        return os.fsdecode(result.stdout.rstrip())
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
    except OSError:
        return ""


def _log(cluster: Cluster) -> Path:
    return cluster.data_dir / "server.log"


def _log_tail(cluster: Cluster) -> str:
    try:
        lines = _log(cluster).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-20:])


def _with_log(cluster: Cluster, problem: str) -> str:
    return (
        f"The server in {cluster.data_dir} {problem.strip()}\n"
        f"The end of its log:\n{_log_tail(cluster)}"
    )
