"""The lease of a run: advisory locks on its own connection, taken again if that is lost."""

import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self

import psycopg

from ..errors import LeaseLostError, SchemaRunnerError
from . import databases, locks
from .server import Connection, Server

_END_HOLDER = """
    SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND (classid::bigint << 32) + objid::bigint = %s AND pid = %s
"""
# Seconds for which a run tries to take a lease again: a server may be restarting.
_LIMIT = 30.0
# The same where nothing is left to do but to clean up.
_LAST = 3.0
_PAUSE = 0.2
# How long, in seconds, a schema is gone that a worker replaces by a fresh one.
_RENEWAL = 0.5
# How long, in seconds, one attempt may take where no answer comes from the server.
_CONNECT_TIMEOUT = 5


class Lease:
    """The locks that prove a run alive in one host database.

    They belong to the session of its `connection`, so they end with the process, however it
    ends. See "Advisory Locks" in PostgreSQL's manual (13.3.5).
    """

    # Whether it has been given up.
    _is_closed = False

    def __init__(self, connection: Connection, run: int, *, is_in_host: bool = True) -> None:
        self.run = run
        self.connection = connection
        self.is_in_host = is_in_host
        self._process, self._backend = os.getpid(), connection.info.backend_pid
        locks.LEASED[connection] = {run}
        locks.take(connection, run)
        if is_in_host:
            self.share(locks.HOST_IN_USE)

    @classmethod
    def outside(cls, server: Server, run: int) -> Self:
        """Hold a run's lease in none of its databases."""
        return cls(server.connect_for_maintenance(), run, is_in_host=False)

    @property
    def is_cut_off(self) -> bool:
        """Whether the locks are gone, so that others may take this run for dead.

        That is a look at the socket, which says so without a word to the server.
        """
        connection = self.connection
        # A forked process has let go of the socket.
        if os.getpid() != self._process or self._is_closed:
            return False
        try:
            # What the server has sent before its end has to be read before.
            while not connection.closed and _is_readable(connection):
                connection.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return connection.closed

    def move_to(self, connection: Connection) -> bool:
        """Take the locks on another connection; return False while others have one of them."""
        held = locks.LEASED[self.connection]
        # The server may not know yet that the connection is lost.
        with connection.transaction():
            # A role that was taken on may not end what the role that logs in has opened.
            connection.execute("SET LOCAL ROLE NONE")
            connection.execute(_END_HOLDER, [self.run, self._backend])
        for lock in sorted(held, key=lambda lock: lock != self.run):
            shared = "" if lock == self.run else "_shared"
            if not locks.call(connection, f"try_advisory_lock{shared}", lock):
                return False
        self.connection.close()
        self.connection, self._backend = connection, connection.info.backend_pid
        locks.LEASED[connection] = held
        return True

    def tables_per_transaction(self, workers: int) -> int:
        return locks.tables_per_transaction(self.connection, workers)

    def share(self, lock: int) -> None:
        """Hold another lock as long as this lease lasts; other runs can hold it too."""
        locks.LEASED[self.connection].add(lock)
        locks.take(self.connection, lock, "advisory_lock_shared")

    def unshare(self, lock: int) -> None:
        """Hold a lock no longer that others can hold too."""
        locks.LEASED[self.connection].discard(lock)
        locks.call(self.connection, "advisory_unlock_shared", lock)

    @staticmethod
    def is_host_in_use(connection: Connection) -> bool:
        """Whether a live run has a lease in the database that is connected to."""
        with locks.held_if_free(connection, locks.HOST_IN_USE) as free:
            return not free

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep other runs from using the shared extensions; yield whether none does."""
        is_alone = locks.call(self.connection, "try_advisory_lock", locks.EXTENSIONS_IN_USE)
        try:
            yield is_alone
        finally:
            if is_alone:
                locks.release(self.connection, locks.EXTENSIONS_IN_USE)

    def leave_extensions(self) -> bool:
        """Give up the shared extensions; return whether no other run uses them."""
        self.unshare(locks.EXTENSIONS_IN_USE)
        return locks.call(self.connection, "try_advisory_lock", locks.EXTENSIONS_IN_USE)

    def close(self) -> None:
        self._is_closed = True
        self.connection.close()


def _is_readable(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class LeasedHost(Protocol):
    """A host database, as far as its lease is concerned."""

    name: str
    lease: Lease
    recovery: "LeaseRecovery"

    @property
    def server(self) -> Server: ...

    def log(self, text: str, /) -> None: ...

    def is_there(self) -> bool: ...

    def missing(self) -> list[str]: ...


class LeaseRecovery:
    """Looks after the lease of a host, in the process that has taken it."""

    def __init__(self, host: LeasedHost) -> None:
        self._host = host
        self._lost_at: float | None = None
        self._next = 0.0
        self._why = ""
        self._error: LeaseLostError | None = None
        self._is_gone = False

    def attempt(self) -> bool:
        """Return whether the lease is held; take it again if it is not, as far as that can be.

        Raises LeaseLostError where something of the run has been removed in the meantime, or no
        attempt has succeeded for long.
        """
        if self._error is not None:
            raise self._error
        if self._lost_at is None and not self._host.lease.is_cut_off:
            return True
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if now < self._next:
            return False
        if not self._is_taken_again():
            if time.monotonic() - self._lost_at > _LIMIT:
                self._fail(f"could not be made again for {_LIMIT:g} s. {self._why}")
            self._next = time.monotonic() + _PAUSE
            return False
        self._lost_at = None
        self._host.log(
            f"The connection by which others see this run alive in {self._host.name!r} was lost; "
            f"it has been made again, and nothing is missing."
        )
        return True

    def insist(self) -> None:
        """Wait until the lease is held. Raises LeaseLostError."""
        while not self.attempt():
            time.sleep(_PAUSE / 4)

    def is_anything_left(self) -> bool:
        """Return whether there is something to clean up as a run ends, and its lease is held.

        Raises LeaseLostError where the server cannot be reached.
        """
        deadline = time.monotonic() + _LAST
        while not self._is_gone:
            try:
                if self.attempt():
                    return True
            except LeaseLostError as error:
                if self._error is not None and not self._is_gone:
                    raise
                # What is left can be dropped, if anything is.
                self._host.log(str(error))
            if time.monotonic() > deadline:
                self._fail(f"could not be made again. {self._why}")
            time.sleep(_PAUSE / 4)
        return False

    def _is_taken_again(self) -> bool:
        host, lease = self._host, self._host.lease
        try:
            connection = _connect(host.server, host.name if lease.is_in_host else None)
        except SchemaRunnerError as error:
            self._why = str(error)
            if lease.is_in_host and _is_dropped(host.server, host.name):
                self._fail_for_good()
            return False
        try:
            if lease.move_to(connection):
                self._refuse_loss()
                return True
            self._why = "Another session holds its lock."
        except psycopg.Error as error:
            self._why = str(error)
        connection.close()
        return False

    def _refuse_loss(self) -> None:
        host = self._host
        if not host.is_there():
            # What has its name now is another run's.
            host.lease.close()
            self._fail_for_good()
        if host.missing():
            # A worker may just be making its schema anew.
            time.sleep(_RENEWAL)
        if missing := host.missing():
            self._lost_at = None
            raise self._lost(f"before it was made again, {', '.join(missing)} was removed.")

    def _fail_for_good(self) -> None:
        self._is_gone = True
        self._fail("in the meantime that was removed.")

    def _fail(self, what: str) -> None:
        self._error = self._lost(what)
        raise self._error

    def _lost(self, what: str) -> LeaseLostError:
        return LeaseLostError(
            f"The connection by which others see this run alive in the database "
            f"{self._host.name!r} was lost, and {what}"
        )


class LeaseWatcher:
    """What the process that runs tests, or waits for workers, looks at all the time."""

    def __init__(self, hosts: Callable[[], Iterable[LeasedHost]]) -> None:
        self._hosts = hosts
        self._why: str | None = None

    def fds(self) -> list[int]:
        """Return the descriptors that can be read once a lease may be lost."""
        leases = [host.lease for host in self._hosts()]
        return [lease.connection.fileno() for lease in leases if not lease.is_cut_off]

    def check(self) -> str | None:
        """Take lost leases again; return why the run cannot go on, once it cannot."""
        for host in [] if self._why else self._hosts():
            try:
                host.recovery.attempt()
            except LeaseLostError as error:
                self._why = str(error)
        return self._why


def _connect(server: Server, database: str | None) -> Connection:
    server = server._replace(params={"connect_timeout": _CONNECT_TIMEOUT, **server.params})
    return server.connect_for_maintenance() if database is None else server.connect(database)


def _is_dropped(server: Server, database: str) -> bool:
    try:
        with _connect(server, None) as maintenance:
            return not databases.exists(maintenance, database)
    except (SchemaRunnerError, psycopg.Error):
        return False
