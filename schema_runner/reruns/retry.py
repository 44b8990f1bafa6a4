"""Retries of failed tests."""

import sys
import unittest
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from unittest.runner import _WritelnDecorator

from ..errors import count
from ..workers.report import Failure
from .probe import SuiteRunner


class Retry:
    """Collects failures and retries them; `limit` returns the number of retries of a test."""

    def __init__(self, limit: Callable[[Any], int]) -> None:
        self._limit = limit
        # Each with the number of attempts so far.
        self._pending: deque[tuple[Failure, int]] = deque()
        # The names of all failures that were retried, and the failures that passed on a retry.
        self.retried: list[str] = []
        self.flaky: list[Failure] = []

    def keep(self, failure: Failure, runner: SuiteRunner) -> bool:
        """Keep a failure if it has retries; return whether it has any."""
        has_retries = self._limit_of(failure, runner) > 0
        if has_retries:
            self._pending.append((failure, 1))
        return has_retries

    def run(self, runner: SuiteRunner, give_up: Callable[[Failure], object]) -> None:
        """Retry each failure until it passes, and call `give_up` with those that never do."""
        if self._pending and not runner.is_stopped:
            runner.log(f"Retrying {count(len(self._pending), 'failure')}, each alone.")
        while self._pending:
            failure, attempts = self._pending[0]
            if attempts > self._limit_of(failure, runner) or runner.is_stopped:
                self._pending.popleft()
                give_up(failure)
            else:
                self._retry(failure, attempts, runner)

    def give_up_all(self, give_up: Callable[[Failure], object]) -> None:
        """Call `give_up` with all remaining failures, after the run was interrupted."""
        while self._pending:
            give_up(self._pending.popleft()[0])

    def _retry(self, failure: Failure, attempts: int, runner: SuiteRunner) -> None:
        others: list[Failure] = []
        has_failed = False

        def keep(one: Failure) -> bool:
            nonlocal has_failed
            if one.name == failure.name:
                has_failed = True
            else:
                others.append(one)
            return True

        has_ended = runner.retry(failure, attempt=attempts + 1, keep=keep)
        self._pending.popleft()
        if attempts == 1 and (has_ended or not runner.is_stopped):
            self.retried.append(failure.name)
        if has_ended and not has_failed:
            self.flaky.append(failure)
            # Tests of a class whose set-up has now passed.
            self._pending.extend((one, attempts + 1) for one in others)
        else:
            # Keep the first failure, because that is the one to report.
            self._pending.appendleft((failure, attempts + 1))

    def _limit_of(self, failure: Failure, runner: SuiteRunner) -> int:
        if failure.is_teardown:
            # Its tests have outcomes already.
            return 0
        tests = runner.tests[failure.subsuite]
        return max(self._limit(tests[position]) for position in failure.positions)


def show_flaky(failures: Iterable[Failure], result: Any) -> None:
    """Print the first failure of each test that passed on a retry.

    They are printed like the result's own failures, but the result does not count them.
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
    flaky = [(test, f"Passed on a retry. First failure:\n{text}") for test, text in texts]
    shown.printErrorList("FLAKY", flaky)
