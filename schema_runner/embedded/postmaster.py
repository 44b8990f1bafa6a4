"""Start the postmaster, the server process of a cluster, or find the one that runs.

Callers hold the cluster's lock, so no other process starts or stops the server meanwhile.
"""

import os
import shlex
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ..errors import SchemaRunnerError
from . import watcher
from .account import Account
from .cluster import SUPERUSER, Cluster

_SOCKET_PREFIX = "schema-runner-"
_SOCKET_NAME = ".s.PGSQL.65535"
_LONGEST_SOCKET_PATH = 103  # bytes on macOS; Linux allows 107
_SECONDS_TO_START = "120"
_SECONDS_FOR_ORPHANS = 10


class StartError(SchemaRunnerError):
    """The server does not start: its data folder may be damaged."""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server.

    `data_dir`: its data folder.
    `bin_dir`: the folder of its programs, such as `psql`.
    `socket_dir`: the folder of its Unix socket.
    `user`: its superuser.
    `version`: its version number, such as "18.3".
    """

    data_dir: Path
    bin_dir: Path
    socket_dir: Path
    port: int
    user: str
    version: str

    def conninfo(self, dbname: str = "postgres") -> str:
        """Return a libpq connection string for the database."""
        host = str(self.socket_dir)
        return make_conninfo(host=host, port=self.port, user=self.user, dbname=dbname)

    def database(self, name: str) -> dict[str, object]:
        """Create the database if it is missing; return an entry for Django's DATABASES."""
        create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        exists = "SELECT FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) %s::name"
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            if connection.execute(exists, [name]).fetchone() is None:
                # Another process may create it at the same time: 42P04 if that has committed,
                # else 23505.
                with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    connection.execute(create)
        return django_entry(name, str(self.socket_dir), self.port)


def django_entry(name: str, host: object, port: object) -> dict[str, object]:
    """Return an entry for Django's DATABASES."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": SUPERUSER,
        "PASSWORD": "",
        "HOST": host,
        "PORT": port,
    }


def running_server(cluster: Cluster) -> EmbeddedServer | None:
    """Return the cluster's server if it accepts connections."""
    try:
        _, _, _, port, folder, _, _, status = watcher.read_pid_file(cluster.data_dir)
    except ValueError:  # missing, or incomplete because the server is starting
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        if status != "ready" or probe.connect_ex(f"{folder}/.s.PGSQL.{port}") != 0:
            return None
    return EmbeddedServer(
        data_dir=cluster.data_dir,
        bin_dir=cluster.bin_dir,
        socket_dir=Path(folder),
        port=int(port),
        user=SUPERUSER,
        version=cluster.version,
    )


def start_server(cluster: Cluster) -> EmbeddedServer:
    """Start the server and wait until it accepts connections.

    Raises StartError if it exits or refuses connections, and SchemaRunnerError if it takes longer
    than 120 seconds, or if backends of a killed server still use the data folder.
    """
    try:
        _run_pg_ctl(cluster, _make_socket_dir(cluster))
        server = running_server(cluster)
        if server is None:
            raise StartError(_with_log(cluster, "exited right after its start."))
        try:
            # A server with a damaged catalog may start, and then refuse every connection.
            psycopg.connect(server.conninfo(), connect_timeout=10).close()
        except psycopg.OperationalError as error:
            raise StartError(_with_log(cluster, f"refuses connections:\n{error}")) from error
    except BaseException:
        watcher.stop_server(cluster.data_dir)
        raise
    return server


def _run_pg_ctl(cluster: Cluster, socket_dir: Path) -> None:
    log, data_dir = cluster.log, cluster.data_dir
    # On the command line, because the socket folder differs from start to start.
    options = shlex.join(["-c", "listen_addresses=", "-k", str(socket_dir)])
    times = ["-w", "-t", _SECONDS_TO_START]
    deadline = time.monotonic() + _SECONDS_FOR_ORPHANS
    while True:
        with suppress(OSError):
            log.replace(log.with_suffix(".log.1"))
        result = cluster.account.run(
            cluster.bin_dir / "pg_ctl", "start", *times, "-l", log, "-o", options, "-D", data_dir
        )
        if result.returncode == 0:
            return
        if watcher.running_pid(data_dir) is not None:
            problem = f"did not start within {_SECONDS_TO_START} seconds."
            raise SchemaRunnerError(_with_log(cluster, problem))
        if "still in use" not in _log_tail(cluster):
            raise StartError(_with_log(cluster, f"did not start:\n{result.stdout}"))
        # Backends of a killed postmaster exit when they notice.
        if time.monotonic() > deadline:
            problem = "was killed, but its backends are still running. Kill them."
            raise SchemaRunnerError(_with_log(cluster, problem))
        time.sleep(0.1)


def _make_socket_dir(cluster: Cluster) -> Path:
    account = cluster.account
    folder = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=_socket_parent(account)))
    # postmaster.pid contains the path too, but is gone if another program stops the server.
    cluster.sibling("socket").write_text(str(folder), "utf-8")
    account.chown(folder)
    return folder


def _socket_parent(account: Account) -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    longest = f"{runtime}/{_SOCKET_PREFIX}12345678/{_SOCKET_NAME}"
    is_short = len(os.fsencode(longest)) <= _LONGEST_SOCKET_PATH
    # The server's account cannot enter root's runtime folder. On macOS, TMPDIR is too long.
    if is_short and os.access(runtime, os.W_OK | os.X_OK) and not account.is_other_user:
        return runtime
    return "/tmp"  # noqa: S108 - mkdtemp follows


def _log_tail(cluster: Cluster) -> str:
    try:
        lines = cluster.log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-20:])


def _with_log(cluster: Cluster, problem: str) -> str:
    return (
        f"The server in {cluster.data_dir} {problem.strip()}\n"
        f"The end of its log:\n{_log_tail(cluster)}"
    )
