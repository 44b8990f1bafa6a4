"""A server for development and tests, shared by the processes that need it."""

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
from .cache import cache_folder, locked
from .cluster import DEFAULT_SETTINGS, SUPERUSER, Cluster, build_cluster, plan_cluster
from .postmaster import Postmaster, StartError, conninfo, find_postmaster, halt, launch

# The one piece of module state: a lock is held for the life of the process, by no object of the
# caller's. A forked child finds its parent's entry under its parent's number, and lets it be.
_joined: dict[tuple[int, Path], tuple[Cluster, int]] = {}


def join_server(cluster: Cluster) -> None:
    """Make this process a user of the cluster, once; the caller holds the cluster's lock."""
    key = (os.getpid(), cluster.data_dir)
    if key not in _joined:
        _joined[key] = (cluster, cache.share(cluster.beside("users")))
    own = cache.hold_if_free(cluster.beside("watcher"))
    if own is not None:
        _start_watcher(cluster, own)


def leave_server(data_dir: Path) -> None:
    """Make this process no user any more; the last one stops the server."""
    cluster, descriptor = _joined.pop((os.getpid(), data_dir), (None, -1))
    if cluster is None or not data_dir.exists():
        return  # a server whose folder was deleted notices it, and ends by itself
    with cache.locked(cluster.beside("lock")):
        if cache.unlock(cluster.beside("users"), descriptor):
            halt(cluster)


def hand_over_server(data_dir: Path) -> None:
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
    users = cache.open_file(cluster.beside("users"))
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
        leave_server(data_dir)


_logger = logging.getLogger("schema_runner.embedded")


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server, reached by the Unix socket in `socket_dir`; `user` is its superuser.

    `version` is the server's number, such as "18.3".
    """

    data_dir: Path
    bin_dir: Path
    socket_dir: Path
    port: int
    user: str
    version: str

    def conninfo(self, dbname: str = "postgres") -> str:
        """Return a libpq connection string."""
        return conninfo(host=self.socket_dir, port=self.port, dbname=dbname)

    def database(self, name: str) -> dict[str, object]:
        """Return an entry for Django's DATABASES, and create the database if it is missing."""
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
    """Return a server with these settings, started if it does not run, and built if missing.

    The programs come from `bin_dir`, else from the folder in the environment variable
    SCHEMA_RUNNER_PG_BIN, else from the wheel of the extra "embedded", else from what is installed
    on PATH and by packages. `settings` go to postgresql.conf in place of DEFAULT_SETTINGS; with {}
    it is as initdb makes it. `cache_dir` replaces the user's cache folder, in which the data
    folder lives.

    The server runs until `stop`, or until this process ends, be it killed, if no other process
    uses it then.
    Raises SchemaRunnerError, with the end of the server's log if it came to that.
    """
    try:
        return _start(bin_dir, settings, cache_dir)
    except OSError as error:  # a full disk, or a /tmp that is read-only
        # What copies folders tells of each file.
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        raise SchemaRunnerError(f"The embedded server cannot be started: {reason}") from error


def stop(server: EmbeddedServer) -> None:
    """Release the server, as the end of the process would; only the last user stops it."""
    leave_server(server.data_dir)


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
    with locked(cluster.beside("lock")):
        postmaster = _ensure_running(cluster)
        join_server(cluster)
    return EmbeddedServer(
        data_dir=cluster.data_dir,
        bin_dir=cluster.bin_dir,
        socket_dir=postmaster.socket_dir,
        port=postmaster.port,
        user=SUPERUSER,
        version=cluster.number,
    )


def _ensure_running(cluster: Cluster) -> Postmaster:
    postmaster = find_postmaster(cluster)
    if postmaster is not None and postmaster.answers():
        return postmaster
    # We hold the lock, so a server that lives and does not answer was left by a process that was
    # killed while it started or stopped it.
    halt(cluster, mode="immediate")
    if not cluster.data_dir.exists():
        build_cluster(cluster)
        return launch(cluster)
    try:
        return launch(cluster)
    except StartError as failure:
        return _rebuild(cluster, failure)


def _rebuild(cluster: Cluster, failure: StartError) -> Postmaster:
    aside = cluster.beside("damaged")
    shutil.rmtree(aside, ignore_errors=True)
    cluster.data_dir.rename(aside)
    try:
        build_cluster(cluster)
        postmaster = launch(cluster)
    except BaseException:
        # Not the folder's fault, then: a full disk, say.
        shutil.rmtree(cluster.data_dir, ignore_errors=True)
        aside.rename(cluster.data_dir)
        raise
    _logger.warning("%s\nIt was built anew; the old folder is now %s.", failure, aside)
    return postmaster


def _create_database(connection: psycopg.Connection, name: str) -> None:
    # Another process may have been faster: 42P04 if it has committed, 23505 if it was about to.
    with contextlib.suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
