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


class OwnFailureError(Exception):
    pass


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


def caught(error: BaseException) -> Any:
    """Return what sys.exc_info does in an `except`, some calls above."""

    def raise_it(local: Any) -> None:
        raise error

    try:
        # A local that cannot be pickled is in nobody's way.
        raise_it(lambda: None)
    except type(error):
        return sys.exc_info()


def sent(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Return an event as it comes out of a pipe."""
    return decode(pickle.loads(pickle.dumps(encode(event, test))), test)


def formatted(err: Any) -> str:
    return "".join(traceback.format_exception(*err))


def test_plain_values_stay_what_they_are() -> None:
    """Names of methods, numbers of tests, reasons and durations."""
    event = ("addSkip", 3, "not today", 0.5, None, True)
    assert sent(event) == event


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        AssertionError("1 != 2"),
        OwnError(7, detail="its arguments are not those of its class"),
        SystemExit(3),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_can_be_pickled_comes_back_with_its_traceback(error: BaseException) -> None:
    """The same class, the same arguments, and the lines that tblib can carry."""
    err = caught(error)
    _, number, (kind, value, found) = sent(("addError", 1, err))
    assert number == 1
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
        err = sys.exc_info()
    _, _, came = sent(("addError", 0, err))
    text = formatted(came)
    assert came[1].errno == 2
    assert "direct cause" in text
    assert "During handling" in text
    assert text.count("in raise_it") == 1
    assert [text.count(word) for word in ("ValueError: cause", "KeyError: 'effect'")] == [1, 1]


def test_groups_come_back_with_what_is_in_them() -> None:
    """Nested ones too, each with its own traceback."""
    inner = ExceptionGroup("inner", [caught(ValueError("deep"))[1]])
    err = caught(ExceptionGroup("outer", [inner, caught(TypeError("flat"))[1]]))
    _, _, came = sent(("addError", 0, err))
    assert isinstance(came[1], ExceptionGroup)
    text = formatted(came)
    assert "ValueError: deep" in text
    assert "TypeError: flat" in text
    assert text.count("in raise_it") == 3


class Local(Exception):  # noqa: N818
    """Its class is not where pickle looks for it."""


Local.__qualname__ = "nowhere.Local"


@pytest.mark.parametrize(
    "error",
    [
        Local("kept"),
        ValueError(lambda: None, "kept"),
        ExceptionGroup("kept", [ValueError(lambda: None, "inside")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_pickled_comes_as_text(error: Exception) -> None:
    """The whole traceback, with the causes."""
    error.__cause__ = caught(ValueError("cause"))[1]
    err = caught(error)
    method, _, (kind, value, found) = sent(("addError", 0, err))
    assert method == "addError"
    assert kind is WorkerError
    assert isinstance(value, WorkerError)
    assert found is None
    text = str(value)
    assert formatted(err) in text
    for part in (type(error).__name__, "kept", "ValueError: cause", "in raise_it"):
        assert part in text


def test_failures_stay_failures() -> None:
    """What the test's own failureException says, pickled or not."""
    own, test = caught(OwnFailureError(lambda: None)), OwnTest()
    assert sent(("addFailure", 0, own), test)[2][0] is WorkerAssertionError
    assert sent(("addFailure", 0, own))[2][0] is WorkerError
    failure = caught(AssertionError(lambda: None))
    assert sent(("addFailure", 0, failure))[2][0] is WorkerAssertionError
    assert sent(("addSubTest", 0, failure), test)[2][0] is WorkerError
    assert issubclass(WorkerAssertionError, AssertionError)
    assert sent(("addFailure", 0, caught(TestTimeoutError("slow"))))[2][0] is TestTimeoutError


def test_without_tblib_the_traceback_comes_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not one of our requirements."""
    monkeypatch.setattr(raised, "pickling_support", None)
    # Another test may have had it teach pickle these, which is for good.
    for kind in (KeyError, TracebackType):
        monkeypatch.delitem(copyreg.dispatch_table, kind, raising=False)
    err = caught(KeyError("k"))
    _, _, (kind, value, _) = sent(("addError", 0, err))
    assert kind is WorkerError
    assert "KeyError: 'k'" in str(value)
    assert "in raise_it" in str(value)


def test_an_error_that_cannot_be_read_in_the_run_comes_as_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It can be read in the worker alone."""
    event = pickle.dumps(encode(("addError", 0, caught(ValueError(Unreadable())))))
    monkeypatch.setattr(Unreadable, "is_here", False)
    _, _, (kind, value, _) = decode(pickle.loads(event))
    assert kind is WorkerError
    assert "ValueError: <" in str(value)


def test_other_values_come_as_they_are_or_as_text() -> None:
    """Reasons of skips may be anything that can be shown."""
    assert sent(("addSkip", 0, ["a", 1])) == ("addSkip", 0, ["a", 1])
    odd = lambda: None  # noqa: E731
    assert sent(("addSkip", 0, odd)) == ("addSkip", 0, str(odd))


def subtest(message: object, **parameters: object) -> tuple[Any, Any]:
    """Return a subtest before and after, for the same test."""
    test = OwnTest()
    before = case._SubTest(test, message, parameters)
    _, _, after, err = sent(("addSubTest", 0, before, None), test)
    assert err is None
    assert after.test_case is test
    return before, after


@pytest.mark.parametrize(
    ("message", "parameters"),
    [
        (case._subtest_msg_sentinel, {"number": 1}),
        (case._subtest_msg_sentinel, {}),
        ("a message", {"number": 1, "text": "a b"}),
        ("", {"kind": int, "items": [1, (2, None)]}),
        ("local", {"function": lambda: None, "number": 1}),
        (7, {}),
    ],
)
def test_subtests_are_described_as_before(message: object, parameters: dict[str, object]) -> None:
    """With or without a message, whatever their parameters are."""
    before, after = subtest(message, **parameters)
    assert str(after) == str(before)
    assert after.id() == before.id()


def test_parameters_stay_values_where_they_can() -> None:
    """A result class of the project's own may look at them."""
    _, after = subtest("m", number=1, items=[1])
    assert dict(after.params) == {"number": 1, "items": [1]}
