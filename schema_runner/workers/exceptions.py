"""Exceptions of tests, on their way from a worker to the run."""

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

from .pickling import Text, named, notes_of, pickled, pickled_for_any

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

_PLAIN = (str, int, float, bool, type(None))


class PickledException(NamedTuple):
    """An exception, pickled twice: as it is, if that is possible, and for any process to read."""

    pickled: bytes | None
    plain: bytes
    is_failure: bool
    # What the test has printed before.
    output: str


class Caught(tuple[Any, ...]):
    """What `sys.exc_info` returns; `raised` is the same, ready for the pipe to the run.

    It is made while the test is under way, so that local variables are shown as they were.
    """

    raised: PickledException

    def __new__(cls, err: ExcInfo, test: Any, *, output: str, with_locals: bool) -> "Caught":
        caught = super().__new__(cls, err)
        caught.raised = _raised(err, test, output=output, with_locals=with_locals)
        return caught


class SubTest(NamedTuple):
    """A subtest without its test: its parameters as texts, and pickled if that is possible."""

    message: str | None
    pickled: bytes | None
    texts: dict[str, str]


class PickledValue(NamedTuple):
    """Anything else: pickled, or else as text."""

    pickled: bytes | None
    text: str


def encode(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Make an event of a result fit for a pipe; `test` is the one that it is about."""
    return tuple(item if type(item) in _PLAIN else _encode(item, test) for item in event)


def decode(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Return an event as a result is to be told it."""
    return tuple(_decode(item, test) for item in event)


def exc_info(error: BaseException) -> ExcInfo:
    return type(error), error, error.__traceback__


def _encode(item: Any, test: Any) -> Any:
    if isinstance(item, Caught):
        return item.raised
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[1], BaseException):
        return _raised(cast("ExcInfo", item), test)
    if isinstance(item, _SubTest):
        message, parameters = item._message, dict(item.params)
        return SubTest(
            # unittest's mark for there being none is told by its identity.
            None if message is _subtest_msg_sentinel else str(message),
            _pickled(parameters),
            {name: repr(value) for name, value in parameters.items()},
        )
    return PickledValue(_pickled(item), str(item))


def _raised(
    err: ExcInfo, test: Any, *, output: str = "", with_locals: bool = False
) -> PickledException:
    kind, error, tb = err
    hide_frames(error)
    before, about = error.__traceback__, test or _ErrorHolder("")
    is_failure = issubclass(kind, _failure_exception(test))
    # The frames that unittest leaves out: only here can it tell which those are.
    shown = TestResult()._clean_tracebacks(kind, error, tb, about)  # type: ignore[attr-defined]
    # Frozen data classes refuse assignments.
    error.with_traceback(shown)
    try:
        return PickledException(
            pickled(error, with_locals=with_locals),
            pickled_for_any(error, with_locals=with_locals),
            is_failure,
            output,
        )
    finally:
        # Another test may raise the same one.
        error.with_traceback(before)


def _failure_exception(test: Any) -> type[BaseException]:
    return getattr(test, "failureException", None) or AssertionError


def _pickled(value: object) -> bytes | None:
    """Return what can be read back, if it can."""
    # Whatever a class of the project's own may raise.
    with suppress(Exception):
        pickled = pickle.dumps(value)
        pickle.loads(pickled)  # noqa: S301
        return pickled
    return None


def _decode(item: Any, test: Any) -> Any:
    if isinstance(item, PickledException):
        return _decode_raised(item, test)
    if isinstance(item, SubTest):
        parameters: Any = {name: Text(text) for name, text in item.texts.items()}
        with suppress(Exception):
            parameters = pickle.loads(item.pickled or b"")  # noqa: S301
        message = _subtest_msg_sentinel if item.message is None else item.message
        return _SubTest(test or TestCase(), message, parameters)
    if isinstance(item, PickledValue):
        # It may be of a class that only a worker has.
        with suppress(Exception):
            return pickle.loads(item.pickled or b"")  # noqa: S301
        return item.text
    return item


def _decode_raised(raised: PickledException, test: Any) -> ExcInfo:
    try:
        error = pickle.loads(raised.pickled or raised.plain)  # noqa: S301
    except Exception:
        error = pickle.loads(raised.plain)  # noqa: S301
    if raised.output:
        error.__notes__ = [*notes_of(error), raised.output]
    kind, failure = type(error), _failure_exception(test)
    if raised.is_failure and not issubclass(kind, failure):
        kind = named(failure, kind.__module__, kind.__qualname__)
    return kind, error, error.__traceback__


def hide_frames(error: BaseException) -> None:
    """Take them out of the tracebacks of an exception, of those that led to it and of its group.

    They are marked as for pytest, by a local variable `__tracebackhide__`.
    """
    seen = set()
    found: list[BaseException | None] = [error]
    while found:
        one = found.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        tb = one.__traceback__
        while tb is not None:
            while tb.tb_next is not None and _is_hidden(tb.tb_next):
                tb.tb_next = tb.tb_next.tb_next
            tb = tb.tb_next
        found += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            found += one.exceptions


def _is_hidden(tb: TracebackType) -> bool:
    frame = tb.tb_frame
    is_ours = str(frame.f_globals.get("__name__")).startswith("schema_runner.")
    return is_ours and "__tracebackhide__" in frame.f_code.co_varnames
