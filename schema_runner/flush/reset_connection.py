"""A worker's additional connection for resets, kept open if the server has enough connections."""

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from ..connections import disconnect
from ..errors import SchemaRunnerError
from ..postgres.capacity import connections_left
from ..postgres.server import Connection

# Below this number of free connections on the server, open the connection for each reset only.
_MIN_FREE_CONNECTIONS = 10


@dataclass(slots=True)
class ResetConnection:
    """A connection outside Django, which tests never see. It caches plans and catalogs.

    `connect`: opens the connection.
    `is_temporary`: whether `release` closes it, because the server has few connections left.
    """

    connect: Callable[[], Connection]
    is_temporary: bool = False
    _connection: Connection | None = None

    def get(self) -> Connection:
        """Return the open connection. Reconnect if a test has ended it."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT")
            except psycopg.OperationalError:
                self.close()
        if self._connection is None:
            self._connection = self._open()
            self.is_temporary |= connections_left(self._connection) < _MIN_FREE_CONNECTIONS
        return self._connection

    def _open(self) -> Connection:
        if not self.is_temporary:
            try:
                return self.connect()
            except SchemaRunnerError:
                self.is_temporary = True
        # Make room: Django closes this thread's connections after each test anyway.
        disconnect()
        return self.connect()

    def release(self) -> None:
        """Close the connection until its next use, if it is temporary."""
        if self.is_temporary:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
