"""The postmaster: the running server of a cluster.

Whoever calls holds the cluster's lock, so nobody else starts or stops it meanwhile.
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
_LONGEST_SOCKET_PATH = 103  # macOS; Linux takes 107
_SECONDS_TO_START = "120"
_SECONDS_TO_STOP = "60"
_SECONDS_TO_EXIT = 10
_SECONDS_FOR_ORPHANS = 10


class StartError(SchemaRunnerError):
    """The server does not come up: its data folder may be damaged."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What postmaster.pid tells of a server, alive or not.

    https://www.postgresql.org/docs/current/storage-file-layout.html
    """

    data_dir: Path
    pid: int
    port: int
    socket_dir: Path
    is_ready: bool

    def answers(self) -> bool:
        """Whether it takes connections now; one that starts or stops does not."""
        if not (self.is_ready and self.lives()):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket_dir / f".s.PGSQL.{self.port}")) == 0

    def lives(self) -> bool:
        """Whether the process is this server and no later one with the same number."""
        return f" -D {self.data_dir} " in f"{_command_line(self.pid)} "


def conninfo(*, host: Path, port: int, dbname: str) -> str:
    """Return the connection string of the superuser; `host` is the socket's folder."""
    return make_conninfo(host=str(host), port=port, user=SUPERUSER, dbname=dbname)


def find_postmaster(cluster: Cluster) -> Postmaster | None:
    """Return what the data folder tells of its server; None if nothing, or nothing whole."""
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


def launch(cluster: Cluster) -> Postmaster:
    """Start the server and return it when it takes connections; may raise StartError."""
    socket_dir = _make_socket_dir(cluster)
    try:
        _start(cluster, socket_dir)
        postmaster = find_postmaster(cluster)
        if postmaster is None:
            raise StartError(_with_log(cluster, "ended as soon as it had started"))
        _greet(cluster, postmaster)
    except BaseException:
        halt(cluster, mode="immediate")
        raise
    return postmaster


def halt(cluster: Cluster, *, mode: str = "fast") -> None:
    """Stop the server if it lives, and remove what it has, or a killed one had, left behind."""
    postmaster = find_postmaster(cluster)
    if postmaster is not None:
        if postmaster.lives():
            _stop(cluster, mode)
        # pg_ctl waits for the server's file to go, which is a moment before the process does.
        deadline = time.monotonic() + _SECONDS_TO_EXIT
        while (lives := postmaster.lives()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if lives:
            raise SchemaRunnerError(
                f"The server in {cluster.data_dir} does not stop: end process {postmaster.pid}."
            )
    _remove_socket_dir(cluster)
    # PostgreSQL takes a stale file for a live server if its number is in use again, or belongs
    # to a zombie that nobody reaps, as in many a container.
    (cluster.data_dir / "postmaster.pid").unlink(missing_ok=True)


def _start(cluster: Cluster, socket_dir: Path) -> None:
    deadline = time.monotonic() + _SECONDS_FOR_ORPHANS
    while (result := _pg_ctl_start(cluster, socket_dir)).returncode != 0:
        postmaster = find_postmaster(cluster)
        if postmaster is not None and postmaster.lives():
            raise SchemaRunnerError(_with_log(cluster, "did not start in time"))
        if "still in use" not in _log_tail(cluster):
            raise StartError(_with_log(cluster, f"did not start:\n{result.stdout}"))
        # Sessions of a killed server end by themselves, each as soon as it looks up.
        if time.monotonic() > deadline:
            raise SchemaRunnerError(_with_log(cluster, "was killed, but has sessions: end them"))
        time.sleep(0.1)


def _pg_ctl_start(cluster: Cluster, socket_dir: Path) -> subprocess.CompletedProcess[str]:
    log = _log(cluster)
    with contextlib.suppress(OSError):
        log.replace(log.with_suffix(".log.1"))
    # On the command line, as these are of this run: the data folder is named by its settings.
    options = shlex.join(["-c", "listen_addresses=", "-k", str(socket_dir)])
    return _pg_ctl(cluster, "start", "-t", _SECONDS_TO_START, "-l", log, "-o", options)


def _stop(cluster: Cluster, mode: str) -> None:
    _pg_ctl(cluster, "stop", "-t", _SECONDS_TO_STOP, "-m", mode)


def _pg_ctl(cluster: Cluster, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = cluster.bin_dir / "pg_ctl"
    return cluster.account.run(program, *arguments, "-w", "-D", cluster.data_dir)


def _greet(cluster: Cluster, postmaster: Postmaster) -> None:
    # A server may well start on a damaged catalog, and then turn every session away.
    address = conninfo(host=postmaster.socket_dir, port=postmaster.port, dbname="postgres")
    try:
        psycopg.connect(address, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        raise StartError(_with_log(cluster, f"lets nobody in:\n{error}")) from error


def _make_socket_dir(cluster: Cluster) -> Path:
    account = cluster.account
    folder = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=_socket_parent(account)))
    # A server that is stopped by others takes its pid file, and with it the path, away.
    cluster.beside("socket").write_text(str(folder), "utf-8")
    account.own(folder)
    return folder


def _socket_parent(account: Account) -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    length = len(os.fsencode(runtime)) + len(f"/{_SOCKET_PREFIX}12345678{_SOCKET_NAME}")
    is_fit = os.access(runtime, os.W_OK | os.X_OK) and length <= _LONGEST_SOCKET_PATH
    # Root's own is closed to the server's account. TMPDIR is too long on macOS.
    return runtime if is_fit and not account.is_foreign else "/tmp"  # noqa: S108 - mkdtemp follows


def _remove_socket_dir(cluster: Cluster) -> None:
    note = cluster.beside("socket")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(note.read_text("utf-8"), ignore_errors=True)
        note.unlink()


def _command_line(pid: int) -> str:
    """Return the words that a process was started with; none for a zombie or a missing one."""
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


def _with_log(cluster: Cluster, what: str) -> str:
    return (
        f"The server in {cluster.data_dir} {what.strip()}\n"
        f"The end of its log:\n{_log_tail(cluster)}"
    )
