"""What tests raise, on its way from a worker to the run."""

import pickle
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, cast
from unittest.case import (  # type: ignore[attr-defined]
    TestCase,
    _SubTest,
    _subtest_msg_sentinel,
)

from ..errors import WorkerAssertionError, WorkerError

# Traceback objects can be pickled only with its help.
try:
    from tblib import pickling_support  # type: ignore[import-untyped]
except ImportError:
    pickling_support = None

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

_PLAIN = (str, int, float, bool, type(None))


class Raised(NamedTuple):
    """An exception with its traceback: as text, and pickled if that is possible.

    Even then it may be that only a worker can read it.
    """

    pickled: bytes | None
    text: str
    is_failure: bool


class SubTest(NamedTuple):
    """A subtest without its test: its parameters as texts, and pickled if that is possible."""

    message: str | None
    pickled: bytes | None
    texts: dict[str, str]


class Other(NamedTuple):
    """Anything else: pickled, or else as text."""

    pickled: bytes | None
    text: str


class _Text:
    """Stands for a value that is shown like this."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def encode(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Make an event of a result fit for a pipe; `test` is the one that it is about."""
    return tuple(item if type(item) in _PLAIN else _encode(item, test) for item in event)


def decode(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Return an event as a result is to be told it."""
    return tuple(_decode(item, test) for item in event)


def exc_info(error: BaseException) -> ExcInfo:
    return type(error), error, error.__traceback__


def _encode(item: Any, test: Any) -> Any:
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[1], BaseException):
        return _encode_raised(cast("ExcInfo", item), test)
    if isinstance(item, _SubTest):
        message, parameters = item._message, dict(item.params)
        return SubTest(
            # unittest's mark for there being none is told by its identity.
            None if message is _subtest_msg_sentinel else str(message),
            _pickled(parameters),
            {name: repr(value) for name, value in parameters.items()},
        )
    return Other(_pickled(item), str(item))


def _encode_raised(err: ExcInfo, test: Any) -> Raised:
    is_failure = issubclass(err[0], getattr(test, "failureException", AssertionError))
    if pickling_support is not None:
        # For this one alone: Django does so for all classes of exceptions there are, each time.
        pickling_support.install(err[1])
    return Raised(_pickled(err), "".join(traceback.format_exception(*err)), is_failure)


def _pickled(value: object) -> bytes | None:
    """Return what can be read back, if it can."""
    # Whatever a class of the project's own may raise.
    with suppress(Exception):
        pickled = pickle.dumps(value)
        pickle.loads(pickled)  # noqa: S301
        return pickled
    return None


def _decode(item: Any, test: Any) -> Any:
    if isinstance(item, Raised):
        return _decode_raised(item)
    if isinstance(item, SubTest):
        parameters: Any = {name: _Text(text) for name, text in item.texts.items()}
        with suppress(Exception):
            parameters = pickle.loads(item.pickled or b"")  # noqa: S301
        message = _subtest_msg_sentinel if item.message is None else item.message
        return _SubTest(test or TestCase(), message, parameters)
    if isinstance(item, Other):
        # It may be of a class that only a worker has.
        with suppress(Exception):
            return pickle.loads(item.pickled or b"")  # noqa: S301
        return item.text
    return item


def _decode_raised(raised: Raised) -> ExcInfo:
    with suppress(Exception):
        err: ExcInfo = pickle.loads(raised.pickled or b"")  # noqa: S301
        return err
    kind = WorkerAssertionError if raised.is_failure else WorkerError
    return exc_info(kind(f"raised in a worker, and shown as text:\n\n{raised.text}"))
