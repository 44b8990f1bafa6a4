"""Events of a run, for observers."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from .errors import TestTimeoutError


class Outcome(StrEnum):
    """The outcome of a test."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_SUCCESS = "unexpected success"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"


class Started(NamedTuple):
    """A test has started.

    `test_id`: unittest's id, such as `library.test_books.BookTests.test_title`.
    `worker`: number of the worker, from 1.
    `attempt`: 1 for the first run, more for retries.
    `time`: start time in seconds since the Unix epoch.
    """

    test_id: str
    worker: int
    attempt: int
    time: float


class Finished(NamedTuple):
    """A test has ended.

    `duration`: in seconds, including the work of the test case around the test, such as the flush.
    """

    test_id: str
    worker: int
    attempt: int
    outcome: Outcome
    duration: float


class FixtureFailed(NamedTuple):
    """The set-up of a class or module has failed.

    `name`: name in the report, such as `setUpClass (library.test_books.BookTests)`.
    `test_ids`: tests that did not run because of the failure.
    """

    name: str
    test_ids: tuple[str, ...]
    worker: int
    attempt: int


class ClassFinished(NamedTuple):
    """A worker has finished a class, or a part of a split class. Durations are in seconds.

    `time`: start time in seconds since the Unix epoch.
    `duration`: from the set-up of the class to the end of its tear-down.
    `processor_time`: CPU time of the process.
    `overhead`: the part of `duration` that was not spent in tests.
    `keeps_state`: whether tests changed attributes of the class or its module; None if unknown.
    `resets`, `reset_time`: number and total time of resets.
    `changed_outside`: what has changed meanwhile in the project's own database, if it contains
    the schemas; another session may have changed it, or the change may have been rolled back.
    """

    test_class: str
    worker: int
    attempt: int
    time: float
    duration: float
    processor_time: float
    overhead: float
    keeps_state: bool | None
    resets: int
    reset_time: float
    changed_outside: tuple[str, ...] = ()


class WorkerReady(NamedTuple):
    """A worker process is set up.

    `duration`: set-up time in seconds.
    `is_replacement`: whether the process replaces an earlier one with the same number.
    """

    worker: int
    duration: float
    is_replacement: bool


Event: TypeAlias = Started | Finished | FixtureFailed | ClassFinished | WorkerReady
Observer: TypeAlias = Callable[[Event], object]

_METHOD_OUTCOMES = {
    "addSkip": Outcome.SKIPPED,
    "addExpectedFailure": Outcome.EXPECTED_FAILURE,
    "addUnexpectedSuccess": Outcome.UNEXPECTED_SUCCESS,
    "addFailure": Outcome.FAILED,
    "addError": Outcome.ERROR,
}
BAD_OUTCOMES = frozenset(
    {
        Outcome.FAILED,
        Outcome.ERROR,
        Outcome.UNEXPECTED_SUCCESS,
        Outcome.TIMED_OUT,
        Outcome.CRASHED,
    }
)
_FROM_BEST_TO_WORST = [
    Outcome.PASSED,
    *_METHOD_OUTCOMES.values(),
    Outcome.TIMED_OUT,
    Outcome.CRASHED,
]


def outcome_of(calls: Iterable[tuple[str, object]]) -> Outcome:
    """Return the worst outcome among the calls of a result's methods for one test.

    `calls`: pairs of a method's name and a `sys.exc_info()` tuple, or any other value if there is
    no error.
    """
    return max(
        (_outcome_of_call(*call) for call in calls),
        key=_FROM_BEST_TO_WORST.index,
        default=Outcome.PASSED,
    )


def _outcome_of_call(method: str, error: object) -> Outcome:
    kind = error[0] if isinstance(error, tuple) else None
    if not isinstance(kind, type):
        return _METHOD_OUTCOMES.get(method, Outcome.PASSED)
    if issubclass(kind, TestTimeoutError):
        return Outcome.TIMED_OUT
    if method == "addSubTest":
        return Outcome.FAILED if issubclass(kind, AssertionError) else Outcome.ERROR
    return _METHOD_OUTCOMES.get(method, Outcome.PASSED)
