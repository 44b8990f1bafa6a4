import sys
from typing import Any

import pytest

from schema_runner import Finished, Outcome, Started, TestTimeoutError
from schema_runner.execution.events import outcome_of


def raised(error: BaseException) -> Any:
    """Return what sys.exc_info does in an `except`."""
    try:
        raise error
    except type(error):
        return sys.exc_info()


FAILURE = raised(AssertionError("no"))
ERROR = raised(KeyError("k"))
SLOW = raised(TestTimeoutError("slow"))


class OwnFailureError(AssertionError): ...


@pytest.mark.parametrize(
    ("calls", "outcome"),
    [
        ([], Outcome.PASSED),
        ([("startTest", None), ("addSuccess", None), ("stopTest", None)], Outcome.PASSED),
        ([("addDuration", 0.5)], Outcome.PASSED),
        ([("addFailure", FAILURE)], Outcome.FAILED),
        ([("addError", ERROR)], Outcome.ERROR),
        ([("addSkip", "not today")], Outcome.SKIPPED),
        ([("addExpectedFailure", None)], Outcome.EXPECTED_FAILURE),
        ([("addExpectedFailure", FAILURE)], Outcome.EXPECTED_FAILURE),
        ([("addUnexpectedSuccess", None)], Outcome.UNEXPECTED_SUCCESS),
        ([("addSubTest", None)], Outcome.PASSED),
        ([("addSubTest", FAILURE)], Outcome.FAILED),
        ([("addSubTest", raised(OwnFailureError()))], Outcome.FAILED),
        ([("addSubTest", ERROR)], Outcome.ERROR),
        ([("addFailure", SLOW)], Outcome.TIMED_OUT),
        ([("addError", SLOW)], Outcome.TIMED_OUT),
        ([("addSubTest", SLOW)], Outcome.TIMED_OUT),
        # The worst of several: a tear-down may fail after the test has.
        ([("addSubTest", FAILURE), ("addSubTest", None), ("addSuccess", None)], Outcome.FAILED),
        ([("addFailure", FAILURE), ("addError", ERROR)], Outcome.ERROR),
        ([("addSkip", "in a subtest"), ("addSubTest", FAILURE)], Outcome.FAILED),
        ([("addFailure", SLOW), ("addError", ERROR)], Outcome.TIMED_OUT),
        ([("addExpectedFailure", None), ("addError", ERROR)], Outcome.ERROR),
    ],
)
def test_calls_have_an_outcome_in_any_order(
    calls: list[tuple[str, Any]], outcome: Outcome
) -> None:
    """Calls of other methods change nothing."""
    assert outcome_of(calls) is outcome
    assert outcome_of(reversed(calls)) is outcome


def test_events_are_values() -> None:
    """They can be compared, kept and not changed, and outcomes are plain words."""
    started = Started("a.B.test_c", 2, 1, 1.5)
    assert started == Started("a.B.test_c", 2, 1, 1.5)
    finished = Finished("a.B.test_c", 2, 1, Outcome.PASSED, 0.25)
    assert {started, finished, finished} == {finished, started}
    with pytest.raises(AttributeError):
        started.worker = 3  # type: ignore[misc]
    assert f"{finished.outcome}, {Outcome.UNEXPECTED_SUCCESS}" == "passed, unexpected success"
