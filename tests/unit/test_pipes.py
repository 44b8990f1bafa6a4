import os
import pickle
import struct
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from schema_runner.workers.pipes import Receiver, Sender

# More than the buffer of any system's pipe.
LARGE = "x" * (1 << 22)

Ends = tuple[Connection, Connection]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The read end and the write end of a pipe."""
    reading, writing = Pipe(duplex=False)
    with reading, writing:
        yield reading, writing


@pytest.fixture
def receiver(ends: Ends) -> Receiver:
    return Receiver(ends[0])


@pytest.fixture
def sender(ends: Ends) -> Sender:
    """A sender that blocks while the pipe is full."""
    return Sender(ends[1], blocking=True)


def frame(message: object) -> bytes:
    """Return a message in the format of the pipe."""
    data = pickle.dumps(message)
    return struct.pack("!Q", len(data)) + data


def test_messages_arrive_complete_and_in_order(receiver: Receiver, sender: Sender) -> None:
    """`send` returns the number of bytes sent."""
    assert receiver.receive() == []
    for message in ("one", {"two": 2}, None, ()):
        sender.send(message)
    assert receiver.receive() == ["one", {"two": 2}, None, ()]
    assert receiver.receive() == []
    assert not receiver.is_at_eof
    sent = sender.send("some") + sender.send("more")
    assert len(receiver.read_bytes()) == sent


def test_a_message_in_parts_is_assembled(ends: Ends, receiver: Receiver) -> None:
    """Byte by byte, with the end of one message and the start of the next in one read."""
    data, following = frame("first"), frame("second")
    for byte in data[:-1]:
        os.write(ends[1].fileno(), bytes([byte]))
        assert receiver.receive() == []
    os.write(ends[1].fileno(), data[-1:] + following[:3])
    assert receiver.receive() == ["first"]
    os.write(ends[1].fileno(), following[3:])
    assert receiver.receive() == ["second"]


def test_peek_does_not_consume_messages(receiver: Receiver, sender: Sender) -> None:
    """Any number of times; `next` then returns them one by one."""
    sender.send(1)
    assert receiver.peek() == [1]
    sender.send(2)
    assert receiver.peek() == [1, 2]
    assert receiver.next() == 1
    assert receiver.receive() == [2]
    assert receiver.peek() == []


def test_a_blocking_sender_continues_when_there_is_room(
    receiver: Receiver, sender: Sender
) -> None:
    """While another thread reads, one call sends more than the pipe's buffer."""
    read: list[object] = []
    reader = threading.Thread(target=lambda: read.extend([receiver.next(), receiver.next()]))
    reader.start()
    sender.send(LARGE)
    sender.send("after it")
    reader.join()
    assert read == [LARGE, "after it"]


def test_a_non_blocking_sender_keeps_the_rest(ends: Ends, receiver: Receiver) -> None:
    """A sender that does not block keeps the rest until `flush`, in order."""
    sender = Sender(ends[1], blocking=False)
    sender.send(LARGE)
    sender.send("after it")
    assert receiver.receive() == []
    read: list[object] = []
    while len(read) < 2:
        sender.flush()
        read += receiver.receive()
    assert read == [LARGE, "after it"]


# Nothing of the next message, half of its length, its length, or the start of it.
@pytest.mark.parametrize("length", [0, 3, 8, 12])
def test_an_incomplete_message_is_ignored(ends: Ends, receiver: Receiver, length: int) -> None:
    """Complete messages before it are received; the rest is discarded at the end of the pipe."""
    os.write(ends[1].fileno(), frame("whole") + frame("broken off")[:length])
    ends[1].close()
    assert receiver.next() == "whole"
    assert receiver.next() is None
    assert receiver.is_at_eof
    assert receiver.receive() == []


def test_an_incomplete_message_in_an_open_pipe_does_not_block(
    ends: Ends, receiver: Receiver
) -> None:
    """A process started by a test may hold the write end of its dead worker."""
    with os.fdopen(os.dup(ends[1].fileno()), "wb"):
        os.write(ends[1].fileno(), frame("whole") + frame("broken off")[:-1])
        ends[1].close()
        assert receiver.receive() == ["whole"]
        assert receiver.receive() == []
        assert not receiver.is_at_eof
    assert receiver.receive() == []
    assert receiver.is_at_eof


@pytest.mark.parametrize("blocking", [True, False])
def test_sending_to_a_dead_reader_is_an_os_error(ends: Ends, blocking: bool) -> None:
    """Python ignores SIGPIPE, so the error can be caught."""
    ends[0].close()
    with pytest.raises(BrokenPipeError):
        Sender(ends[1], blocking=blocking).send("unread")


def test_objects_that_cannot_be_pickled_are_not_sent(receiver: Receiver, sender: Sender) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        sender.send(lambda: None)
    sender.send("next")
    assert receiver.receive() == ["next"]


def test_bytes_are_read_without_framing(ends: Ends, receiver: Receiver) -> None:
    """The bell has no messages."""
    assert receiver.read_bytes() == b""
    os.write(ends[1].fileno(), b"..")
    assert receiver.read_bytes() == b".."
    os.write(ends[1].fileno(), b"Thread 1")
    ends[1].close()
    assert receiver.read_bytes() == b"Thread 1"
    assert receiver.is_at_eof
    assert receiver.read_bytes() == b""
