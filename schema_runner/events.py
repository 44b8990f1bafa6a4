"""What happens in a run, for whoever wants to show or to remember it."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from .errors import TestTimeoutError


class Outcome(StrEnum):
    """How a test has ended."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_SUCCESS = "unexpected success"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"


class Started(NamedTuple):
    """A test has begun.

    `test_id` is unittest's, `worker` the worker's number from 1, `attempt` counts from 1, and
    `time` is in seconds since the Unix epoch.
    """

    test_id: str
    worker: int
    attempt: int
    time: float


class Finished(NamedTuple):
    """A test is over; `duration` is in seconds, with what its class does before and after it."""

    test_id: str
    worker: int
    attempt: int
    outcome: Outcome
    duration: float


class FixtureFailed(NamedTuple):
    """The set-up of a class or a module has failed, so that `test_ids` have not been run.

    `name` is as it is reported, such as `setUpClass (library.test_books.BookTests)`.
    """

    name: str
    test_ids: tuple[str, ...]
    worker: int
    attempt: int


class ClassFinished(NamedTuple):
    """A worker is through with tests of a class: all of them, or some of a class that is split.

    `time` is when it began with them, in seconds since the Unix epoch; `duration` and
    `processor_time` are in seconds, from then to the end of what the class does after its tests.
    Of the duration, `overhead` was spent outside of the tests. It `keeps_state` if tests have
    changed attributes of the class or of its module; None where nobody has looked. `resets`
    counts those that were done after tests that commit, which took `reset_time` seconds.
    `changed_outside` names what has changed meanwhile in the project's own database, where the
    schemas are in that one; another session may have done it, or it may have been rolled back.
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
    """A worker process is set up, which took so many seconds.

    It `is_replacement` if another process has been the same worker before.
    """

    worker: int
    duration: float
    is_replacement: bool


Event: TypeAlias = Started | Finished | FixtureFailed | ClassFinished | WorkerReady
Observer: TypeAlias = Callable[[Event], object]

_OUTCOMES = {
    "addSkip": Outcome.SKIPPED,
    "addExpectedFailure": Outcome.EXPECTED_FAILURE,
    "addUnexpectedSuccess": Outcome.UNEXPECTED_SUCCESS,
    "addFailure": Outcome.FAILED,
    "addError": Outcome.ERROR,
}
# How a test ends with which something is wrong.
BAD = frozenset(
    {
        Outcome.FAILED,
        Outcome.ERROR,
        Outcome.UNEXPECTED_SUCCESS,
        Outcome.TIMED_OUT,
        Outcome.CRASHED,
    }
)
# What a result is told of a test with which nothing is wrong.
GOOD_OUTCOMES = {"addSuccess", "addSkip", "addExpectedFailure"}
_FROM_BEST_TO_WORST = [Outcome.PASSED, *_OUTCOMES.values(), Outcome.TIMED_OUT, Outcome.CRASHED]


def outcome_of(calls: Iterable[tuple[str, object]]) -> Outcome:
    """Return the worst outcome of a test, whose result has had methods called with an error each.

    The error is as `sys.exc_info` returns it, and anything else where there is none.
    """
    return max(
        (_of(*call) for call in calls), key=_FROM_BEST_TO_WORST.index, default=Outcome.PASSED
    )


def _of(method: str, error: object) -> Outcome:
    kind = error[0] if isinstance(error, tuple) else None
    if not isinstance(kind, type):
        return _OUTCOMES.get(method, Outcome.PASSED)
    if issubclass(kind, TestTimeoutError):
        return Outcome.TIMED_OUT
    if method == "addSubTest":
        return Outcome.FAILED if issubclass(kind, AssertionError) else Outcome.ERROR
    return _OUTCOMES.get(method, Outcome.PASSED)
