"""Estimates of test durations, from the history of earlier runs."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any
from unittest.util import strclass

from .history import History

# Assumed seconds of a test if the history has no test of the suite.
_DEFAULT_SECONDS = 0.02


class Durations:
    """Estimated durations of a suite's tests; a test without history gets the median."""

    def __init__(self, history: History, tests: Iterable[Any]) -> None:
        self._history = history
        measured = [self._measured(test) for test in tests]
        known = [seconds for seconds in measured if seconds is not None]
        # Whether the history has more than half of the tests.
        self.is_measured = 2 * len(known) > len(measured)
        self._default = median(known) if known else _DEFAULT_SECONDS

    def seconds(self, tests: Sequence[Any]) -> float:
        """Estimate the seconds of tests of one class, including the overhead of the class."""
        return self.overhead(tests[0]) + sum(map(self.seconds_of, tests))

    def seconds_of(self, test: Any) -> float:
        """Estimate the seconds of one test, without the overhead of its class."""
        measured = self._measured(test)
        return self._default if measured is None else measured

    def _measured(self, test: Any) -> float | None:
        record = self._history.tests.get(test.id())
        return None if record is None else record.seconds

    def overhead(self, test: Any) -> float:
        """Estimate the seconds of the test's class before its first test and after its last."""
        record = self._history.classes.get(strclass(type(test)))
        return 0.0 if record is None else record.overhead

    def can_split(self, test: Any) -> bool:
        """Whether earlier runs showed that the tests of this test's class share no state."""
        record = self._history.classes.get(strclass(type(test)))
        return record is not None and not record.keeps_state
