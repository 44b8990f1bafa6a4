"""A lease that was lost: noticed, and taken again under the same identity if nothing is gone."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import psycopg

from ..errors import LeaseLostError, SchemaRunnerError
from . import databases

if TYPE_CHECKING:
    from .hosts import Host
    from .server import Connection, Server

# Seconds for which a run tries to take a lease again: a server may be restarting.
_LIMIT = 30.0
# The same where nothing is left to do but to clean up.
_LAST = 3.0
_PAUSE = 0.2
# How long, in seconds, a schema is gone that a worker replaces by a fresh one.
_RENEWAL = 0.5
# How long, in seconds, one attempt may take where no answer comes from the server.
_CONNECT_TIMEOUT = 5


class Recovery:
    """Looks after the lease of a host, in the process that has taken it."""

    def __init__(self, host: "Host") -> None:
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


class Watch:
    """What the process that runs tests, or waits for workers, looks at all the time."""

    def __init__(self, hosts: Callable[[], Iterable["Host"]]) -> None:
        self._hosts = hosts
        self._why: str | None = None

    def files(self) -> list[int]:
        """Return the descriptors that can be read once a lease may be lost."""
        leases = [host.lease for host in self._hosts()]
        return [lease.connection.fileno() for lease in leases if not lease.is_cut_off]

    def heed(self) -> str | None:
        """Take lost leases again; return why the run cannot go on, once it cannot."""
        for host in [] if self._why else self._hosts():
            try:
                host.recovery.attempt()
            except LeaseLostError as error:
                self._why = str(error)
        return self._why


def _connect(server: "Server", database: str | None) -> "Connection":
    server = server._replace(params={"connect_timeout": _CONNECT_TIMEOUT, **server.params})
    return server.connect_for_maintenance() if database is None else server.connect(database)


def _is_dropped(server: "Server", database: str) -> bool:
    try:
        with _connect(server, None) as maintenance:
            return not databases.exists(maintenance, database)
    except (SchemaRunnerError, psycopg.Error):
        return False
