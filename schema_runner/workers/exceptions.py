"""Exceptions of tests, encoded in a worker and decoded in the main process."""

import pickle
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, cast
from unittest import TestResult
from unittest.case import (  # type: ignore[attr-defined]
    TestCase,
    _SubTest,
    _subtest_msg_sentinel,
)
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]

from .pickling import (
    ReprText,
    exception_class,
    notes_of,
    pickle_exactly,
    pickle_portably,
)

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

_PRIMITIVES = (str, int, float, bool, type(None))


class PickledException(NamedTuple):
    """An exception, pickled twice.

    `exact`: the exception itself; None if pickle cannot reproduce it.
    `portable`: an exception that looks the same and that any process can unpickle.
    `output`: what the test printed before the exception, with --buffer.
    """

    exact: bytes | None
    portable: bytes
    is_failure: bool
    output: str


class EncodedExcInfo(tuple[Any, ...]):
    """A `sys.exc_info()` tuple; `encoded` is the same, encoded for the pipe.

    It is encoded during the test, so that it shows local variables as they were then.
    """

    encoded: PickledException

    def __new__(
        cls, err: ExcInfo, test: Any, *, output: str, with_locals: bool
    ) -> "EncodedExcInfo":
        exc_info = super().__new__(cls, err)
        exc_info.encoded = _pickle_exception(err, test, output=output, with_locals=with_locals)
        return exc_info


class SubTest(NamedTuple):
    """A subtest without its test."""

    message: str | None
    parameters: "dict[str, PickledValue]"


class PickledValue(NamedTuple):
    """Any other value, pickled if possible, and as text."""

    pickled: bytes | None
    text: str

    def unpickled(self) -> Any:
        # Its class may not be importable in this process.
        with suppress(Exception):
            return pickle.loads(self.pickled or b"")  # noqa: S301
        return ReprText(self.text)


def encode(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Encode an event of a result for the pipe; `test` is the test that it is about."""
    return tuple(item if type(item) in _PRIMITIVES else _encode(item, test) for item in event)


def decode(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Decode an event for a result."""
    return tuple(_decode(item, test) for item in event)


def exc_info(error: BaseException) -> ExcInfo:
    return type(error), error, error.__traceback__


def _encode(item: Any, test: Any) -> Any:
    if isinstance(item, EncodedExcInfo):
        return item.encoded
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[1], BaseException):
        return _pickle_exception(cast("ExcInfo", item), test)
    if isinstance(item, _SubTest):
        # unittest compares its sentinel by identity.
        message = None if item._message is _subtest_msg_sentinel else str(item._message)
        parameters = {
            name: PickledValue(_pickle_if_possible(value), repr(value))
            for name, value in item.params.items()
        }
        return SubTest(message, parameters)
    return PickledValue(_pickle_if_possible(item), str(item))


def _pickle_exception(
    err: ExcInfo, test: Any, *, output: str = "", with_locals: bool = False
) -> PickledException:
    exc_type, error, tb = err
    hide_frames(error)
    original, case = error.__traceback__, test or _ErrorHolder("")
    is_failure = issubclass(exc_type, _failure_exception(test))
    # Remove unittest's frames here: only this process knows which they are.
    shown = TestResult()._clean_tracebacks(exc_type, error, tb, case)  # type: ignore[attr-defined]
    # Not by assignment, which frozen dataclasses refuse.
    error.with_traceback(shown)
    try:
        return PickledException(
            pickle_exactly(error, with_locals=with_locals),
            pickle_portably(error, with_locals=with_locals),
            is_failure,
            output,
        )
    finally:
        # Another test may raise the same object.
        error.with_traceback(original)


def _failure_exception(test: Any) -> type[BaseException]:
    return getattr(test, "failureException", None) or AssertionError


def _pickle_if_possible(value: object) -> bytes | None:
    """Pickle a value; return None if it cannot be unpickled."""
    # Classes of the project may raise anything.
    with suppress(Exception):
        pickled = pickle.dumps(value)
        pickle.loads(pickled)  # noqa: S301
        return pickled
    return None


def _decode(item: Any, test: Any) -> Any:
    if isinstance(item, PickledException):
        return _unpickle_exception(item, test)
    if isinstance(item, SubTest):
        parameters = {name: value.unpickled() for name, value in item.parameters.items()}
        message = _subtest_msg_sentinel if item.message is None else item.message
        return _SubTest(test or TestCase(), message, parameters)
    if isinstance(item, PickledValue):
        return item.unpickled()
    return item


def _unpickle_exception(encoded: PickledException, test: Any) -> ExcInfo:
    try:
        error = pickle.loads(encoded.exact or encoded.portable)  # noqa: S301
    except Exception:
        error = pickle.loads(encoded.portable)  # noqa: S301
    if encoded.output:
        error.__notes__ = [*notes_of(error), encoded.output]
    exc_type, failure = type(error), _failure_exception(test)
    if encoded.is_failure and not issubclass(exc_type, failure):
        exc_type = exception_class(failure, exc_type.__module__, exc_type.__qualname__)
    return exc_type, error, error.__traceback__


def hide_frames(error: BaseException) -> None:
    """Remove this package's hidden frames from an exception, its causes and its group.

    As in pytest, the local variable `__tracebackhide__` marks a hidden frame.
    """
    seen = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        tb = current.__traceback__
        while tb is not None:
            while tb.tb_next is not None and _is_hidden(tb.tb_next):
                tb.tb_next = tb.tb_next.tb_next
            tb = tb.tb_next
        pending += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions


def _is_hidden(tb: TracebackType) -> bool:
    frame = tb.tb_frame
    is_ours = str(frame.f_globals.get("__name__")).startswith("schema_runner.")
    return is_ours and "__tracebackhide__" in frame.f_code.co_varnames
