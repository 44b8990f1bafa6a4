"""Messages through a pipe, read in such a way that nobody's death can block the reader."""

import os
import pickle
import struct
import threading
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Any

# Before each message: its length in bytes.
_LENGTH = struct.Struct("!Q")
_READ = 1 << 16
# How often a pipe is read at a time, at most: others are to have their turn.
_READS = 64
# How often somebody who waits looks, in seconds.
_LOOK = 0.2


class Sender:
    """The end of a pipe that messages go into.

    Unless it `waits` for room in the pipe, what does not fit is kept for the next `flush`: a
    reader that is busy for long holds nobody up.
    """

    def __init__(self, connection: Connection, *, waits: bool) -> None:
        self._connection = connection
        self._unsent = bytearray()
        os.set_blocking(connection.fileno(), waits)

    def send(self, message: object) -> int:
        """Send what pickle can carry; return how many bytes that takes."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._unsent += _LENGTH.pack(len(data)) + data
        self.flush()
        return _LENGTH.size + len(data)

    def flush(self) -> None:
        """Send what was kept; raise OSError where nobody can read it any more."""
        while self._unsent:
            try:
                sent = os.write(self._connection.fileno(), self._unsent)
            except BlockingIOError:
                return
            del self._unsent[:sent]


class Receiver:
    """The end of a pipe that messages come out of.

    Reading never blocks, unlike `Connection.recv`: that waits for the rest of a message of which a
    process has sent the beginning, and for the end of a pipe that a process of its own has still
    open, though it be killed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bytes = bytearray()
        self._messages: deque[Any] = deque()
        self.is_at_end = False
        # Whether a signal's handler has to leave this alone.
        self.is_reading = False
        # A debugger may wait in a thread of its own.
        self._lock = threading.RLock()
        os.set_blocking(connection.fileno(), False)

    def receive(self) -> list[Any]:
        """Return the messages that have come in whole since the last time."""
        self._read()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def next(self) -> Any:
        """Wait for one message; None at the end of the pipe."""
        self._read()
        while not self._messages and not self.is_at_end:
            self.wait()
            self._read()
        return self._messages.popleft() if self._messages else None

    def wait(self) -> None:
        """Wait for more, but not for ever: a signal's handler may have read it meanwhile."""
        wait([self._connection], _LOOK)

    def take(self, kind: type) -> Any:
        """Return the first message of a kind that has come in, past others; None if none has."""
        with self._lock:
            for message in self.peek():
                if isinstance(message, kind):
                    self._messages.remove(message)
                    return message
        return None

    def peek(self) -> list[Any]:
        """Return the messages that have come in and leave them to be received."""
        self._read()
        return list(self._messages)

    def read_bytes(self) -> bytes:
        """Return what has come through a pipe of bytes."""
        self._fill()
        read = bytes(self._bytes)
        self._bytes.clear()
        return read

    def _read(self) -> None:
        with self._lock:
            self.is_reading = True
            try:
                self._fill()
                self._parse()
            finally:
                self.is_reading = False

    def _parse(self) -> None:
        start = 0
        while len(self._bytes) >= start + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            end = start + _LENGTH.size + length
            if len(self._bytes) < end:
                break
            self._messages.append(pickle.loads(self._bytes[start + _LENGTH.size : end]))  # noqa: S301
            start = end
        del self._bytes[:start]

    def _fill(self) -> None:
        for _ in range(_READS):
            try:
                data = os.read(self._connection.fileno(), _READ)
            except BlockingIOError:
                return
            if not data:
                self.is_at_end = True
                return
            self._bytes += data
