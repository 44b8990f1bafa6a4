import sys
from typing import Any

import pytest

from schema_runner import Finished, Outcome, Started, TestTimeoutError
from schema_runner.events import outcome_of


def raised(error: BaseException) -> Any:
    """Return `sys.exc_info()` of an exception that was raised and caught."""
    try:
        raise error
    except type(error):
        return sys.exc_info()


class OwnFailureError(AssertionError): ...


FAILURE, OWN_FAILURE = raised(AssertionError("no")), raised(OwnFailureError())
ERROR, SLOW = raised(KeyError("k")), raised(TestTimeoutError("slow"))
Calls = list[tuple[str, Any]]
OUTCOMES: dict[Outcome, list[Calls]] = {
    Outcome.PASSED: [
        *([], [("addDuration", 0.5)], [("addSubTest", None)]),
        [("startTest", None), ("addSuccess", None), ("stopTest", None)],
    ],
    Outcome.SKIPPED: [[("addSkip", "not today")]],
    Outcome.EXPECTED_FAILURE: [[("addExpectedFailure", None)], [("addExpectedFailure", FAILURE)]],
    Outcome.UNEXPECTED_SUCCESS: [[("addUnexpectedSuccess", None)]],
    Outcome.FAILED: [
        *([("addFailure", FAILURE)], [("addSubTest", FAILURE)], [("addSubTest", OWN_FAILURE)]),
        [("addSubTest", FAILURE), ("addSubTest", None), ("addSuccess", None)],
        [("addSkip", "in a subtest"), ("addSubTest", FAILURE)],
    ],
    # A tear-down can fail after the test has failed.
    Outcome.ERROR: [
        *([("addError", ERROR)], [("addSubTest", ERROR)]),
        [("addFailure", FAILURE), ("addError", ERROR)],
        [("addExpectedFailure", None), ("addError", ERROR)],
    ],
    Outcome.TIMED_OUT: [
        *([("addFailure", SLOW)], [("addError", SLOW)], [("addSubTest", SLOW)]),
        [("addFailure", SLOW), ("addError", ERROR)],
    ],
}


@pytest.mark.parametrize(
    ("calls", "outcome"),
    [(calls, outcome) for outcome, several in OUTCOMES.items() for calls in several],
)
def test_the_worst_call_is_the_outcome(calls: Calls, outcome: Outcome) -> None:
    """In any order; calls of other methods change nothing."""
    assert outcome_of(calls) is outcome
    assert outcome_of(reversed(calls)) is outcome


def test_events_are_immutable_values() -> None:
    """Events can be compared and are immutable, and outcomes are strings."""
    started = Started("a.B.test_c", 2, 1, 1.5)
    assert started == Started("a.B.test_c", 2, 1, 1.5)
    finished = Finished("a.B.test_c", 2, 1, Outcome.PASSED, 0.25)
    assert {started, finished, finished} == {finished, started}
    with pytest.raises(AttributeError):
        started.worker = 3  # type: ignore[misc]
    assert f"{finished.outcome}, {Outcome.UNEXPECTED_SUCCESS}" == "passed, unexpected success"
