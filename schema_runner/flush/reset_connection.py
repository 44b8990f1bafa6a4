"""A connection that is kept from one test to the next, where the server can spare it."""

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from ..connections import disconnect
from ..errors import SchemaRunnerError
from ..postgres.capacity import connections_left
from ..postgres.server import Connection

# How many others have to be left for that.
_RESERVE = 10


@dataclass(slots=True)
class ResetConnection:
    """What `connect` opens: tests never see it, its plans are ready and its catalogs read.

    Where connections are scarce, it is opened whenever there is need for it.
    """

    connect: Callable[[], Connection]
    is_scarce: bool = False
    _connection: Connection | None = None

    def get(self) -> Connection:
        """Return the connection; another one where a test has ended it."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT")
            except psycopg.OperationalError:
                self.close()
        if self._connection is None:
            self._connection = self._open()
            self.is_scarce |= connections_left(self._connection) < _RESERVE
        return self._connection

    def _open(self) -> Connection:
        if not self.is_scarce:
            try:
                return self.connect()
            except SchemaRunnerError:
                self.is_scarce = True
        # Django closes this thread's own after each test anyway.
        disconnect()
        return self.connect()

    def spare(self) -> None:
        """Leave it to others until it is needed again, if it is scarce."""
        if self.is_scarce:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
