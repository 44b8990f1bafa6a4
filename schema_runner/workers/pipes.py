"""Messages through pipes; a writer that dies in mid-message cannot block the reader."""

import os
import pickle
import struct
import threading
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Any

# The length of the message that follows, in bytes.
_HEADER = struct.Struct("!Q")
_READ_SIZE = 1 << 16
# Reads of one pipe before other pipes get their turn.
_MAX_READS = 64
# The most seconds that `Receiver.wait` waits.
_POLL_INTERVAL = 0.2


class Sender:
    """The writing end of a pipe.

    Unless it is `blocking`, data that does not fit into the pipe is kept for the next `flush`, so
    that a busy reader does not delay the writer.
    """

    def __init__(self, connection: Connection, *, blocking: bool) -> None:
        self.connection = connection
        self._unsent = bytearray()
        os.set_blocking(connection.fileno(), blocking)

    def send(self, message: object) -> int:
        """Pickle and send a message; return its size in bytes."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._unsent += _HEADER.pack(len(data)) + data
        self.flush()
        return _HEADER.size + len(data)

    def flush(self) -> None:
        """Send the data that was kept. Raises OSError if the reader has closed the pipe."""
        while self._unsent:
            try:
                sent = os.write(self.connection.fileno(), self._unsent)
            except BlockingIOError:
                return
            del self._unsent[:sent]


class Receiver:
    """The reading end of a pipe.

    Only `next` and `wait` block. `Connection.recv` would block if a killed process had sent half a
    message, and a process that it had forked kept the pipe open.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._bytes = bytearray()
        self._messages: deque[Any] = deque()
        self.is_at_eof = False
        # A signal handler must not read while this is set.
        self.is_reading = False
        # A debugger may wait for the terminal in another thread.
        self._lock = threading.RLock()
        os.set_blocking(connection.fileno(), False)

    def receive(self) -> list[Any]:
        """Return the complete messages that have arrived since the last call."""
        self._read()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def next(self) -> Any:
        """Wait for a message and return it; None at EOF."""
        self._read()
        while not self._messages and not self.is_at_eof:
            self.wait()
            self._read()
        return self._messages.popleft() if self._messages else None

    def wait(self) -> None:
        """Wait for data, for a short time only: a signal handler may have read it already."""
        wait([self.connection], _POLL_INTERVAL)

    def pop_first(self, kind: type) -> Any:
        """Remove and return the first message of a type, leaving others; None without one."""
        with self._lock:
            for message in self.peek():
                if isinstance(message, kind):
                    self._messages.remove(message)
                    return message
        return None

    def peek(self) -> list[Any]:
        """Return the messages that have arrived, without removing them."""
        self._read()
        return list(self._messages)

    def read_bytes(self) -> bytes:
        """Return the bytes that have arrived, for a pipe without messages."""
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
        while len(self._bytes) >= start + _HEADER.size:
            (length,) = _HEADER.unpack_from(self._bytes, start)
            end = start + _HEADER.size + length
            if len(self._bytes) < end:
                break
            self._messages.append(pickle.loads(self._bytes[start + _HEADER.size : end]))  # noqa: S301
            start = end
        del self._bytes[:start]

    def _fill(self) -> None:
        for _ in range(_MAX_READS):
            try:
                data = os.read(self.connection.fileno(), _READ_SIZE)
            except BlockingIOError:
                return
            if not data:
                self.is_at_eof = True
                return
            self._bytes += data
