import pickle
import sys
import traceback
import unittest
from contextlib import suppress
from dataclasses import FrozenInstanceError, dataclass
from typing import Any
from unittest import case

import pytest

from schema_runner import TestTimeoutError
from schema_runner.workers.exceptions import EncodedExcInfo, decode, encode

# Python 3.11 shows these differently.
ODD_NOTES = ["a text", 7] if sys.version_info >= (3, 12) else []


class OwnError(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code} {detail}")


class OwnFailureError(Exception): ...


class OwnTest(unittest.TestCase):
    # So that pytest does not collect it.
    __test__ = False
    failureException = OwnFailureError

    def runTest(self) -> None: ...  # noqa: N802


class Unreadable:
    """Can be pickled, but unpickled only if `is_here`."""

    is_here = True

    def __reduce__(self) -> Any:
        return _read, ()


def _read() -> Unreadable:
    if not Unreadable.is_here:
        raise RuntimeError("elsewhere")
    return Unreadable()


class LocalError(Exception):
    """Pickle does not find this class by its name."""


class LocalSyntaxError(SyntaxError): ...


@dataclass(frozen=True)
class FrozenError(Exception):
    text: str


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not to be shown")


for kind in (LocalError, LocalSyntaxError):
    kind.__qualname__ = f"nowhere.{kind.__name__}"


def caught(error: BaseException) -> Any:
    """Return `sys.exc_info()` of an exception raised some calls below."""

    def raise_it(local: Any) -> None:
        raise error

    try:
        # A local variable that cannot be pickled does no harm.
        raise_it(lambda: None)
    except type(error):
        return sys.exc_info()


def sent(event: tuple[Any, ...], test: Any = None) -> tuple[Any, ...]:
    """Return an event as it arrives through a pipe."""
    return decode(pickle.loads(pickle.dumps(encode(event, test))), test)


def sent_error(err: Any, test: Any = None, *, method: str = "addError") -> Any:
    received, number, error = sent((method, 1, err), test)
    assert (received, number) == (method, 1)
    return error


def formatted(err: Any) -> str:
    return "".join(traceback.format_exception(*err))


def test_other_values_are_kept_or_become_text() -> None:
    """Methods, counts and durations keep their types; reasons of skips may be any object."""
    event = ("addSkip", 3, "not today", 0.5, None, True, ["a", 1])
    assert sent(event) == event
    odd = lambda: None  # noqa: E731
    assert sent(("addSkip", 0, odd)) == ("addSkip", 0, str(odd))


# Exceptions that are unpickled; `SHOWN` has those that pickle cannot carry.
KEPT = [KeyError("k"), AssertionError("1 != 2"), SystemExit(3), KeyboardInterrupt()]
KEPT += [OwnError(7, detail="its arguments are not those of its class"), OSError(2, "no", "file")]
SHOWN = [
    *(
        LocalError("kept"),
        ValueError(lambda: None, "kept"),
        LocalError(),
        LocalError("two\nlines"),
    ),
    *(KeyError(lambda: None), LocalSyntaxError("kept"), MuteError("never shown")),
    ExceptionGroup("kept", [ValueError(lambda: None, "inside"), TypeError("beside it")]),
]
# What tblib loses: arguments, and the suggestion for a misspelt name.
BUILTIN = ["b'\\xff'.decode()", "compile('a = (1,', 'f.py', 'exec')", "object().__strr__", "lenn"]


@pytest.mark.parametrize("error", [*KEPT, *SHOWN], ids=lambda one: type(one).__name__)
def test_errors_are_shown_as_in_the_worker(error: BaseException) -> None:
    """Tracebacks have source lines, markers, causes and notes, but no frames of unittest."""
    error.add_note("a note\nof two lines")
    error.__cause__ = caught(ValueError("cause"))[1]
    before = error.__cause__.__traceback__
    err = caught(error)
    kind, value, _ = received = sent_error(err)
    assert formatted(received) == formatted(err)
    assert kind.__name__ == type(error).__name__
    assert isinstance(value, next(one for one in type(error).__mro__ if one in BASES))
    if error in KEPT:
        assert kind is type(error)
        assert value.args == error.args
    # Another test may raise the same exception.
    assert error.__traceback__ is err[2]
    assert error.__cause__.__traceback__ is before


BASES = {KeyError, AssertionError, SystemExit, KeyboardInterrupt, OSError, ValueError, Exception}


@pytest.mark.parametrize("code", BUILTIN)
def test_errors_of_python_are_shown_as_in_the_worker(code: str) -> None:
    with pytest.raises((AttributeError, NameError, SyntaxError, UnicodeError)) as info:
        eval(code)
    error = info.value
    received = sent_error((type(error), error, error.__traceback__))
    assert formatted(received) == formatted((type(error), error, error.__traceback__))
    assert isinstance(received[1], type(error))


def test_a_long_chain_is_shown_to_its_beginning() -> None:
    error: BaseException = ValueError("first")
    for number in range(100):
        error, before = ValueError(f"number {number}"), error
        error.__context__ = before
    err = (ValueError, error, None)
    assert formatted(sent_error(err)) == formatted(err)


@pytest.mark.parametrize("notes", [("of a", "tuple"), ["kept"], None, *ODD_NOTES])
@pytest.mark.parametrize("kind", [ValueError, LocalError, FrozenError])
def test_notes_and_attributes_of_exceptions(kind: type[Exception], notes: object) -> None:
    """Notes and attributes that tests add are shown, followed by what --buffer captured."""
    error = kind("odd")
    with suppress(FrozenInstanceError):
        error.__notes__ = notes  # type: ignore[assignment]
    err = caught(error)
    caught_error = EncodedExcInfo(err, None, output="Stdout:\nprinted", with_locals=False)
    (_, received) = decode(encode(("addError", caught_error)))
    assert formatted(received) == f"{formatted(err)}Stdout:\nprinted\n"


def test_exception_groups_keep_their_exceptions() -> None:
    inner = ExceptionGroup("inner", [caught(ValueError("deep"))[1]])
    err = caught(ExceptionGroup("outer", [inner, caught(TypeError("flat"))[1]]))
    received = sent_error(err)
    assert type(received[1]) is ExceptionGroup
    assert formatted(received) == formatted(err)


def test_failures_stay_failures() -> None:
    """Whether an exception is a failure depends on the test's failureException, pickled or not."""
    own, failure = caught(OwnFailureError(lambda: None)), caught(AssertionError(lambda: None))
    slow = caught(TestTimeoutError("slow"))
    assert issubclass(sent_error(own, OwnTest(), method="addFailure")[0], OwnFailureError)
    assert not issubclass(sent_error(own, method="addFailure")[0], AssertionError)
    assert issubclass(sent_error(failure, method="addFailure")[0], AssertionError)
    received = sent_error(failure, OwnTest(), method="addSubTest")[0]
    assert not issubclass(received, OwnFailureError)
    assert sent_error(slow, method="addFailure")[0] is TestTimeoutError


def test_exceptions_that_only_the_worker_can_unpickle_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    err = caught(ValueError(Unreadable()))
    event = pickle.dumps(encode(("addError", 0, err)))
    monkeypatch.setattr(Unreadable, "is_here", False)
    _, _, received = decode(pickle.loads(event))
    assert formatted(received) == formatted(err)


SUBTESTS: list[tuple[object, dict[str, object]]] = [
    *[(case._subtest_msg_sentinel, {"number": 1}), (case._subtest_msg_sentinel, {}), (7, {})],
    ("a message", {"number": 1, "text": "a b"}),
    ("", {"kind": int, "items": [1, (2, None)]}),
    ("local", {"function": lambda: None, "number": 1}),
]


@pytest.mark.parametrize(("message", "parameters"), SUBTESTS)
def test_subtests_keep_their_descriptions(message: object, parameters: dict[str, object]) -> None:
    """With or without a message; parameters stay values if they can be pickled."""
    test = OwnTest()
    before = case._SubTest(test, message, parameters)
    _, _, after, err = sent(("addSubTest", 0, before, None), test)
    assert err is None
    assert after.test_case is test
    assert str(after) == str(before)
    assert after.id() == before.id()
    if "function" not in parameters:
        assert dict(after.params) == parameters
