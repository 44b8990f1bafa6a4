"""The lease of a run: advisory locks on a dedicated connection, and recovery if it is lost."""

import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self

import psycopg

from ..clock import Clock
from ..errors import LeaseLostError, SchemaRunnerError
from . import databases, locks
from .server import Connection, Server

_END_HOLDER = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND (classid::bigint << 32) + objid::bigint = %s AND pid = %s
"""
# Seconds for which a run tries to recover its lease, for example while the server restarts.
_RECOVERY_TIMEOUT = 30.0
# The same, if only clean-up is left to do.
_CLEANUP_TIMEOUT = 3.0
_RETRY_INTERVAL = 0.2
# Seconds for which a schema may be missing because its worker replaces it.
_REPLACE_SECONDS = 0.5
# Seconds for one attempt, if the server does not answer.
_CONNECT_TIMEOUT = 5


class Lease:
    """The advisory locks that show in one host database that a run is alive.

    PostgreSQL releases them when the session of `connection` ends, even if the process is
    killed. See "Advisory Locks" in PostgreSQL's manual (13.3.5).
    """

    _is_closed = False

    def __init__(self, connection: Connection, run: int, *, is_in_host: bool = True) -> None:
        self.run = run
        self.connection = connection
        self.is_in_host = is_in_host
        self._process, self._backend = os.getpid(), connection.info.backend_pid
        locks.LEASED[connection] = {run}
        locks.acquire(connection, run)
        if is_in_host:
            self.acquire_shared(locks.HOST_IN_USE)

    @classmethod
    def outside_host(cls, server: Server, run: int) -> Self:
        """Return a run's lease, held on a connection to the maintenance database."""
        return cls(server.maintenance(), run, is_in_host=False)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is closed, so that other runs may consider this one dead.

        This reads the socket, and sends nothing to the server.
        """
        connection = self.connection
        # A forked process has no lease: its copy of the socket is closed.
        if os.getpid() != self._process or self._is_closed:
            return False
        try:
            # The end of the stream comes after what the server sent before.
            while not connection.closed and _is_readable(connection):
                connection.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return connection.closed

    def reacquire_on(self, connection: Connection) -> bool:
        """Take the locks on another connection; return False if another session holds one."""
        held = locks.LEASED[self.connection]
        # The server may not know yet that the connection is lost.
        with connection.transaction():
            # After SET ROLE, the role may not end sessions of the role that logged in.
            connection.execute("SET LOCAL ROLE NONE")
            connection.execute(_END_HOLDER, [self.run, self._backend])
        for lock in sorted(held, key=lambda lock: lock != self.run):
            shared = "" if lock == self.run else "_shared"
            if not locks.call_function(connection, f"try_advisory_lock{shared}", lock):
                return False
        self.connection.close()
        self.connection, self._backend = connection, connection.info.backend_pid
        locks.LEASED[connection] = held
        return True

    def acquire_shared(self, lock: int) -> None:
        """Take a shared lock for as long as this lease lasts."""
        locks.LEASED[self.connection].add(lock)
        locks.acquire(self.connection, lock, "advisory_lock_shared")

    def release_shared(self, lock: int) -> None:
        """Release a shared lock of this lease."""
        locks.LEASED[self.connection].discard(lock)
        locks.call_function(self.connection, "advisory_unlock_shared", lock)

    @staticmethod
    def is_host_in_use(connection: Connection) -> bool:
        """Whether a live run holds a lease in the database of this connection."""
        with locks.try_hold(connection, locks.HOST_IN_USE) as free:
            return not free

    @contextmanager
    def exclude_other_runs(self, lock: int) -> Iterator[bool]:
        """Lock what this lease shares with other runs; yield False if one of them uses it."""
        is_alone = locks.call_function(self.connection, "try_advisory_lock", lock)
        try:
            yield is_alone
        finally:
            if is_alone:
                locks.release(self.connection, lock)

    @contextmanager
    def last_use(self, lock: int) -> Iterator[bool]:
        """Release a shared lock; lock it against other runs, and yield True, if none holds it.

        It is released first. Otherwise, of two runs that end at the same time, none is the last.
        """
        self.release_shared(lock)
        with locks.try_hold(self.connection, lock) as is_last:
            yield is_last

    def close(self) -> None:
        self._is_closed = True
        self.connection.close()


def _is_readable(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class LeasedHost(Protocol):
    """The part of a host database that the recovery of its lease needs."""

    name: str
    lease: Lease
    recovery: "LeaseRecovery"

    @property
    def server(self) -> Server: ...

    def log(self, text: str, /) -> None: ...

    def exists(self) -> bool: ...

    def missing_objects(self) -> list[str]: ...


class LeaseRecovery:
    """Recovery of the lease of a host database, in the process that took it."""

    def __init__(self, host: LeasedHost) -> None:
        self._host = host
        self._lost_at: float | None = None
        self._next = 0.0
        self._why = ""
        self._error: LeaseLostError | None = None
        self._is_gone = False

    def try_recover(self) -> bool:
        """Return whether the lease is held, after one attempt to recover a lost one.

        Raises LeaseLostError if objects of the run were dropped in the meantime, or if the lease
        could not be recovered for 30 seconds.
        """
        if self._error is not None:
            raise self._error
        if self._lost_at is None and not self._host.lease.is_lost:
            return True
        now = Clock.monotonic()
        self._lost_at = self._lost_at or now
        if now < self._next:
            return False
        if not self._reacquire():
            if Clock.monotonic() - self._lost_at > _RECOVERY_TIMEOUT:
                self._fail(f"could not be reopened for {_RECOVERY_TIMEOUT:g} s. {self._why}")
            self._next = Clock.monotonic() + _RETRY_INTERVAL
            return False
        self._lost_at = None
        self._host.log(
            f"The connection that holds this run's lease on {self._host.name!r} was lost. It was "
            f"reopened, and nothing is missing."
        )
        return True

    def wait(self) -> None:
        """Wait until the lease is held. Raises LeaseLostError if it cannot be recovered."""
        while not self.try_recover():
            time.sleep(_RETRY_INTERVAL / 4)

    def can_clean_up(self) -> bool:
        """Recover the lease for clean-up; return False if the database no longer exists.

        Raises LeaseLostError if the server cannot be reached.
        """
        deadline = Clock.monotonic() + _CLEANUP_TIMEOUT
        while not self._is_gone:
            try:
                if self.try_recover():
                    return True
            except LeaseLostError as error:
                if self._error is not None and not self._is_gone:
                    raise
                # Objects that still exist can be dropped.
                self._host.log(str(error))
            if Clock.monotonic() > deadline:
                self._fail(f"could not be reopened. {self._why}")
            time.sleep(_RETRY_INTERVAL / 4)
        return False

    def _reacquire(self) -> bool:
        host, lease = self._host, self._host.lease
        try:
            connection = _connect(host.server, host.name if lease.is_in_host else None)
        except SchemaRunnerError as error:
            self._why = str(error)
            if lease.is_in_host and _is_dropped(host.server, host.name):
                self._fail_permanently()
            return False
        try:
            if lease.reacquire_on(connection):
                self._check_nothing_missing()
                return True
            self._why = "Another session holds its lock."
        except psycopg.Error as error:
            self._why = str(error)
        connection.close()
        return False

    def _check_nothing_missing(self) -> None:
        host = self._host
        if not host.exists():
            # Another run's database has its name now.
            host.lease.close()
            self._fail_permanently()
        if host.missing_objects():
            # A worker may be replacing its schema.
            time.sleep(_REPLACE_SECONDS)
        if missing := host.missing_objects():
            self._lost_at = None
            raise self._lost_error(f"{', '.join(missing)} was dropped before it was reopened.")

    def _fail_permanently(self) -> None:
        self._is_gone = True
        self._fail("the database was dropped.")

    def _fail(self, what: str) -> None:
        self._error = self._lost_error(what)
        raise self._error

    def _lost_error(self, what: str) -> LeaseLostError:
        return LeaseLostError(
            f"The connection that holds this run's lease on the database {self._host.name!r} was "
            f"lost, and {what}"
        )


class LeaseWatcher:
    """Checks the leases of a run, in the process that runs tests or supervises workers."""

    def __init__(self, hosts: Callable[[], Iterable[LeasedHost]]) -> None:
        self._hosts = hosts
        self._why: str | None = None

    def fds(self) -> list[int]:
        """Return the file descriptors that become readable when a lease may be lost."""
        leases = [host.lease for host in self._hosts()]
        return [lease.connection.fileno() for lease in leases if not lease.is_lost]

    def check(self) -> str | None:
        """Try to recover lost leases; return the error that ends the run, or None."""
        for host in [] if self._why else self._hosts():
            try:
                host.recovery.try_recover()
            except LeaseLostError as error:
                self._why = str(error)
        return self._why


def _connect(server: Server, database: str | None) -> Connection:
    server = server._replace(params={"connect_timeout": _CONNECT_TIMEOUT, **server.params})
    return server.maintenance() if database is None else server.connect(database)


def _is_dropped(server: Server, database: str) -> bool:
    try:
        with _connect(server, None) as maintenance:
            return not databases.exists(maintenance, database)
    except (SchemaRunnerError, psycopg.Error):
        return False
