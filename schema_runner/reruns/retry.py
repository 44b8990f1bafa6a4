"""What failed is run again, alone."""

import sys
import unittest
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from unittest.runner import _WritelnDecorator

from ..workers.report import Failure
from .probe import SuiteRuns


class Retry:
    """Tries again what has failed in a run; `limit` says how often a test is."""

    def __init__(self, limit: Callable[[Any], int]) -> None:
        self._limit = limit
        # Each with the number of times that it was run.
        self._kept: deque[tuple[Failure, int]] = deque()
        # The names of what was run again, and the failures of what of that has passed.
        self.retried: list[str] = []
        self.flaky: list[Failure] = []

    def keep(self, failure: Failure, runs: SuiteRuns) -> bool:
        """Keep a failure from the result, if it is to be tried again."""
        is_retried = self._limit_of(failure, runs) > 0
        if is_retried:
            self._kept.append((failure, 1))
        return is_retried

    def run(self, runs: SuiteRuns, give_up: Callable[[Failure], object]) -> None:
        """Try each failure again until it passes, and give up those that do not."""
        if self._kept and not runs.is_stopped:
            runs.log(f"Running again what failed, alone ({len(self._kept)}).")
        while self._kept:
            failure, times = self._kept[0]
            if times > self._limit_of(failure, runs) or runs.is_stopped:
                self._kept.popleft()
                give_up(failure)
            else:
                self._try(failure, times, runs)

    def give_up_all(self, give_up: Callable[[Failure], object]) -> None:
        """Give up what is left of a run that was broken off."""
        while self._kept:
            give_up(self._kept.popleft()[0])

    def _try(self, failure: Failure, times: int, runs: SuiteRuns) -> None:
        others: list[Failure] = []
        has_failed = False

        def keep(one: Failure) -> bool:
            nonlocal has_failed
            if one.name == failure.name:
                has_failed = True
            else:
                others.append(one)
            return True

        is_run = runs.again(failure, attempt=times + 1, keep=keep)
        self._kept.popleft()
        if times == 1 and (is_run or not runs.is_stopped):
            self.retried.append(failure.name)
        if is_run and not has_failed:
            self.flaky.append(failure)
            # Tests of a class whose set-up had failed before.
            self._kept.extend((one, times + 1) for one in others)
        else:
            # What it has come to at first is what the result is going to be told.
            self._kept.appendleft((failure, times + 1))

    def _limit_of(self, failure: Failure, runs: SuiteRuns) -> int:
        if failure.is_teardown:
            # Its tests have their outcomes.
            return 0
        tests = runs.tests[failure.subsuite]
        return max(self._limit(tests[position]) for position in failure.positions)


def show_flaky(failures: Iterable[Failure], result: Any) -> None:
    """Show what has passed when it was run again as it failed at first.

    As failures are shown, where the result shows its own; it counts none of them.
    """
    stream: Any = getattr(result, "stream", None)
    if not hasattr(stream, "writeln"):
        stream = _WritelnDecorator(sys.stderr)
    descriptions = getattr(result, "descriptions", True)
    shown = unittest.TextTestResult(stream, descriptions, verbosity=0)
    shown.tb_locals = getattr(result, "tb_locals", False)
    for failure in failures:
        failure.add_to(shown)
    texts = [
        *(*shown.errors, *shown.failures),
        *((test, "It passed unexpectedly.\n") for test in shown.unexpectedSuccesses),
    ]
    told = [(test, f"Passed when run again. At first:\n{text}") for test, text in texts]
    shown.printErrorList("FLAKY", told)
