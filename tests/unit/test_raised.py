import copyreg
import pickle
import sys
import traceback
import unittest
from types import TracebackType
from typing import Any
from unittest import case

import pytest

from schema_runner import TestTimeoutError, WorkerError
from schema_runner.errors import WorkerAssertionError
from schema_runner.execution import raised
from schema_runner.execution.raised import decode, encode


class OwnError(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code} {detail}")


class OwnFailureError(Exception): ...


class OwnTest(unittest.TestCase):
    # None of pytest's.
    __test__ = False
    failureException = OwnFailureError

    def runTest(self) -> None: ...  # noqa: N802


class Unreadable:
    """Can be pickled, and read where `is_here` alone."""

    is_here = True

    def __reduce__(self) -> Any:
        return _read, ()


def _read() -> Unreadable:
    if not Unreadable.is_here:
        raise RuntimeError("elsewhere")
    return Unreadable()


class LocalError(Exception):
    """Its class is not where pickle looks for it."""


LocalError.__qualname__ = "nowhere.LocalError"


def caught(error: BaseException) -> Any:
    """Return what sys.exc_info does in an `except`, some calls above."""

    def raise_it(local: Any) -> None:
        raise error

    try:
        # A local that cannot be pickled does no harm.
        raise_it(lambda: None)
    except type(error):
        return sys.exc_info()


def sent(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Return an event as it comes out of a pipe."""
    return decode(pickle.loads(pickle.dumps(encode(event, test))), test)


def sent_error(err: Any, test: Any = None, *, method: str = "addError") -> Any:
    came, number, error = sent((method, 1, err), test)
    assert (came, number) == (method, 1)
    return error


def formatted(err: Any) -> str:
    return "".join(traceback.format_exception(*err))


def test_other_values_stay_what_they_are_or_come_as_text() -> None:
    """Names of methods, numbers of tests, durations; reasons of skips may be anything."""
    event = ("addSkip", 3, "not today", 0.5, None, True, ["a", 1])
    assert sent(event) == event
    odd = lambda: None  # noqa: E731
    assert sent(("addSkip", 0, odd)) == ("addSkip", 0, str(odd))


ERRORS = [KeyError("k"), AssertionError("1 != 2"), SystemExit(3), KeyboardInterrupt()]
OWN = OwnError(7, detail="its arguments are not those of its class")


@pytest.mark.parametrize("error", [*ERRORS, OWN], ids=repr)
def test_what_can_be_pickled_comes_back_with_its_traceback(error: BaseException) -> None:
    """The same class, the same arguments, and the lines that tblib can carry."""
    err = caught(error)
    kind, value, found = sent_error(err)
    assert kind is type(value) is type(error)
    assert value.args == error.args
    assert [frame.name for frame in traceback.extract_tb(found)] == ["caught", "raise_it"]
    assert formatted((kind, value, found)).endswith(formatted(err)[-20:])


def test_the_causes_come_along() -> None:
    """`from` and "during handling", each with its traceback."""
    try:
        try:
            caught_cause: BaseException = caught(ValueError("cause"))[1]
            raise KeyError("effect") from caught_cause
        except KeyError:
            raise OSError(2, "last")  # noqa: B904
    except OSError:
        came = sent_error(sys.exc_info())
    text = formatted(came)
    assert came[1].errno == 2
    parts = ("direct cause", "During handling", "in raise_it", "ValueError: cause", "KeyError: 'e")
    assert [text.count(part) for part in parts] == [1] * 5


def test_groups_come_back_with_what_is_in_them() -> None:
    inner = ExceptionGroup("inner", [caught(ValueError("deep"))[1]])
    err = caught(ExceptionGroup("outer", [inner, caught(TypeError("flat"))[1]]))
    came = sent_error(err)
    assert isinstance(came[1], ExceptionGroup)
    parts = ("ValueError: deep", "TypeError: flat", "in raise_it")
    assert [formatted(came).count(part) for part in parts] == [1, 1, 3]


UNPICKLABLE = [
    *(LocalError("kept"), ValueError(lambda: None, "kept")),
    ExceptionGroup("kept", [ValueError(lambda: None, "inside")]),
]


@pytest.mark.parametrize("error", UNPICKLABLE, ids=lambda error: type(error).__name__)
def test_what_cannot_be_pickled_comes_as_text(error: Exception) -> None:
    error.__cause__ = caught(ValueError("cause"))[1]
    err = caught(error)
    kind, value, found = sent_error(err)
    assert kind is type(value) is WorkerError
    assert found is None
    for part in (formatted(err), type(error).__name__, "kept", "ValueError: cause", "in raise_it"):
        assert part in str(value)


def test_failures_stay_failures() -> None:
    """What the test's own failureException says, pickled or not."""
    own, failure = caught(OwnFailureError(lambda: None)), caught(AssertionError(lambda: None))
    slow = caught(TestTimeoutError("slow"))
    assert sent_error(own, OwnTest(), method="addFailure")[0] is WorkerAssertionError
    assert sent_error(own, method="addFailure")[0] is WorkerError
    assert sent_error(failure, method="addFailure")[0] is WorkerAssertionError
    assert sent_error(failure, OwnTest(), method="addSubTest")[0] is WorkerError
    assert issubclass(WorkerAssertionError, AssertionError)
    assert sent_error(slow, method="addFailure")[0] is TestTimeoutError


def test_without_tblib_the_traceback_comes_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raised, "pickling_support", None)
    # Another test may have had it teach pickle these, which is for good.
    for kind in (KeyError, TracebackType):
        monkeypatch.delitem(copyreg.dispatch_table, kind, raising=False)
    kind, value, _ = sent_error(caught(KeyError("k")))
    assert kind is WorkerError
    assert "KeyError: 'k'" in str(value)
    assert "in raise_it" in str(value)


def test_what_only_the_worker_can_read_comes_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    event = pickle.dumps(encode(("addError", 0, caught(ValueError(Unreadable())))))
    monkeypatch.setattr(Unreadable, "is_here", False)
    _, _, (kind, value, _) = decode(pickle.loads(event))
    assert kind is WorkerError
    assert "ValueError: <" in str(value)


SUBTESTS: list[tuple[object, dict[str, object]]] = [
    *[(case._subtest_msg_sentinel, {"number": 1}), (case._subtest_msg_sentinel, {}), (7, {})],
    ("a message", {"number": 1, "text": "a b"}),
    ("", {"kind": int, "items": [1, (2, None)]}),
    ("local", {"function": lambda: None, "number": 1}),
]


@pytest.mark.parametrize(("message", "parameters"), SUBTESTS)
def test_subtests_are_described_as_before(message: object, parameters: dict[str, object]) -> None:
    """With or without a message; parameters stay values where they can be pickled."""
    test = OwnTest()
    before = case._SubTest(test, message, parameters)
    _, _, after, err = sent(("addSubTest", 0, before, None), test)
    assert err is None
    assert after.test_case is test
    assert str(after) == str(before)
    assert after.id() == before.id()
    if "function" not in parameters:
        assert dict(after.params) == parameters
