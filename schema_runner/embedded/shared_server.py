"""Start the embedded server, or use the running one, and stop it when its last user exits."""

import atexit
import contextlib
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from ..errors import SchemaRunnerError
from . import cache, watcher
from .account import server_account
from .binaries import find_binaries, reachable_binaries, read_version
from .cache import cache_folder, file_lock
from .cluster import DEFAULT_SETTINGS, SUPERUSER, Cluster, build_cluster, plan_cluster
from .postmaster import (
    Postmaster,
    StartError,
    conninfo,
    read_postmaster,
    start_server,
    stop_server,
)

# The clusters that this process uses, with the descriptors of their shared locks, by pid and data
# folder. Module state, because a lock outlives the caller's objects. A forked child inherits its
# parent's entries, and ignores them because of the pid.
_used_clusters: dict[tuple[int, Path], tuple[Cluster, int]] = {}


def acquire_server(cluster: Cluster) -> None:
    """Register this process as a user of the cluster; the caller holds the cluster's lock."""
    key = (os.getpid(), cluster.data_dir)
    if key not in _used_clusters:
        _used_clusters[key] = (cluster, cache.acquire_shared(cluster.sibling("users")))
    watcher_lock = cache.try_acquire(cluster.sibling("watcher"))
    if watcher_lock is not None:
        _start_watcher(cluster, watcher_lock)


def release_server(data_dir: Path) -> None:
    """Unregister this process; if it was the last user, stop the server."""
    cluster, descriptor = _used_clusters.pop((os.getpid(), data_dir), (None, -1))
    if cluster is None or not data_dir.exists():
        return  # a server whose data folder was deleted shuts down on its own
    with cache.file_lock(cluster.sibling("lock")):
        if cache.release_shared(cluster.sibling("users"), descriptor):
            stop_server(cluster)


def hand_over_server(data_dir: Path) -> None:
    """Keep the shared lock across exec: the new program and its children count as users."""
    _, descriptor = _used_clusters[os.getpid(), data_dir]
    os.set_inheritable(descriptor, True)


def _start_watcher(cluster: Cluster, watcher_lock: int) -> None:
    """Start the watcher, which stops the server if the last user's exit handlers do not run.

    It inherits the descriptor `watcher_lock`, but no terminal, pipes or process group.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        # Without an interpreter, only users that exit normally stop the server.
        os.close(watcher_lock)
        return
    # A second open file description, because a flock() lock belongs to one.
    users_lock = cache.open_lock_file(cluster.sibling("users"))
    arguments = [str(cluster.data_dir), str(users_lock), str(watcher_lock)]
    paths = [os.path.abspath(path) for path in sys.path]
    try:
        with suppress(OSError):  # no watcher then
            subprocess.run(  # noqa: S603 - our own program, and no shell
                [sys.executable, "-I", "-S", watcher.__file__, *arguments],
                input=pickle.dumps((paths, pickle.dumps(cluster))),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[users_lock, watcher_lock],
                start_new_session=True,
                cwd="/",
                check=False,
            )
    finally:
        # The watcher has copies of both descriptors.
        os.close(users_lock)
        os.close(watcher_lock)


@atexit.register
def _release_all() -> None:
    # In a forked child, `release_server` ignores the parent's entries.
    for _, data_dir in list(_used_clusters):
        release_server(data_dir)


_logger = logging.getLogger("schema_runner.embedded")


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
        return conninfo(host=self.socket_dir, port=self.port, dbname=dbname)

    def database(self, name: str) -> dict[str, object]:
        """Create the database if it is missing; return an entry for Django's DATABASES."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            query = (
                "SELECT FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) %s::name"
            )
            if connection.execute(query, [name]).fetchone() is None:
                _create_database(connection, name)
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": self.user,
            "PASSWORD": "",
            "HOST": str(self.socket_dir),
            "PORT": self.port,
        }


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
    try:
        return _start(bin_dir, settings, cache_dir)
    except OSError as error:  # a full disk, or a /tmp that is read-only
        # copytree() collects an error for each file; report the first.
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        raise SchemaRunnerError(f"Cannot start the embedded server: {reason}") from error


def stop(server: EmbeddedServer) -> None:
    """Stop using the server, which stops if no other process uses it."""
    release_server(server.data_dir)


def _start(
    bin_dir: str | Path | None,
    settings: Mapping[str, str | int | float | bool] | None,
    cache_dir: str | Path | None,
) -> EmbeddedServer:
    account = server_account()
    programs = find_binaries(bin_dir)
    cache = cache_folder(cache_dir, account)
    programs = reachable_binaries(programs, account=account, cache=cache)
    cluster = plan_cluster(
        cache=cache,
        bin_dir=programs,
        version=read_version(programs, account),
        account=account,
        settings=DEFAULT_SETTINGS if settings is None else settings,
    )
    with file_lock(cluster.sibling("lock")):
        postmaster = _ensure_running(cluster)
        acquire_server(cluster)
    return EmbeddedServer(
        data_dir=cluster.data_dir,
        bin_dir=cluster.bin_dir,
        socket_dir=postmaster.socket_dir,
        port=postmaster.port,
        user=SUPERUSER,
        version=cluster.version_number,
    )


def _ensure_running(cluster: Cluster) -> Postmaster:
    postmaster = read_postmaster(cluster)
    if postmaster is not None and postmaster.accepts_connections():
        return postmaster
    # We hold the lock, so a server that runs but does not accept connections belongs to a process
    # that was killed while it started or stopped the server.
    stop_server(cluster, mode="immediate")
    if not cluster.data_dir.exists():
        build_cluster(cluster)
        return start_server(cluster)
    try:
        return start_server(cluster)
    except StartError as failure:
        return _rebuild(cluster, failure)


def _rebuild(cluster: Cluster, failure: StartError) -> Postmaster:
    damaged = cluster.sibling("damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    cluster.data_dir.rename(damaged)
    try:
        build_cluster(cluster)
        postmaster = start_server(cluster)
    except BaseException:
        # The data folder was not the cause (a full disk, for example): put it back.
        shutil.rmtree(cluster.data_dir, ignore_errors=True)
        damaged.rename(cluster.data_dir)
        raise
    _logger.warning("%s\nCreated a new data folder; the old one is now %s.", failure, damaged)
    return postmaster


def _create_database(connection: psycopg.Connection, name: str) -> None:
    # Another process may create it at the same time: 42P04 if that has committed, else 23505.
    with contextlib.suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
