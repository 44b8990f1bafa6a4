"""How long tests are going to take, by what earlier runs have measured."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any
from unittest.util import strclass

from .history import History

# What a test is taken to last of which nothing is known, in seconds, where others say nothing.
_USUAL = 0.02


class Durations:
    """Estimates for the tests of a suite; one that is new takes as long as the middle one."""

    def __init__(self, history: History, tests: Iterable[Any]) -> None:
        self._history = history
        measured = [self._measured(test) for test in tests]
        known = [seconds for seconds in measured if seconds is not None]
        # Whether more than half of the tests have been measured.
        self.is_measured = 2 * len(known) > len(measured)
        self._usual = median(known) if known else _USUAL

    def seconds(self, tests: Sequence[Any]) -> float:
        """Estimate tests of one class, with what the class does around them."""
        return self.overhead(tests[0]) + sum(map(self.seconds_of, tests))

    def seconds_of(self, test: Any) -> float:
        """Estimate one test, alone."""
        measured = self._measured(test)
        return self._usual if measured is None else measured

    def _measured(self, test: Any) -> float | None:
        record = self._history.tests.get(test.id())
        return None if record is None else record.seconds

    def overhead(self, test: Any) -> float:
        """Estimate what the class of a test does before its first test and after the last."""
        record = self._history.classes.get(strclass(type(test)))
        return 0.0 if record is None else record.overhead

    def is_divisible(self, test: Any) -> bool:
        """Whether the tests of the class of a test are known to leave each other nothing."""
        record = self._history.classes.get(strclass(type(test)))
        return record is not None and not record.keeps_state
