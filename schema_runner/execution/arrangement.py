"""How a suite is run: which tests of it, in which order, and in how many workers."""

from collections.abc import Callable, Collection, Sequence
from statistics import median
from typing import Any, NamedTuple
from unittest.util import strclass

from ..foresight import selection
from ..foresight.forecast import Forecast
from ..foresight.history import History
from ..foresight.processors import usable_processors
from ..foresight.sharding import Shard
from ..foresight.worker_count import Choice, Situation, choose
from .plan import Order, Plan

# What a worker costs before its first test where no run has measured it, in seconds.
_START = 0.5
# The runs that are looked at for what tests wait for.
_RUNS = 5


class Arrangement(NamedTuple):
    """What is known of a suite beforehand.

    `stage_of` tells of a test how many kinds of tests come before it. `keeps_order` where the
    order of the suite is to stay.
    """

    history: History
    stage_of: Callable[[Any], int]
    is_serial: Callable[[Any], bool]
    keeps_order: bool
    fails_first: bool
    log: Callable[[str], None]

    def select(
        self, tests: Sequence[Any], *, shard: Shard | None, only_failed: bool
    ) -> Sequence[Any]:
        """Return the tests to run, in an order that holds without workers too."""
        selected = tests
        if shard is not None:
            selected = selection.of_shard(tests, shard, self.history)
            self.log(f"Shard {shard} has {len(selected)} of {len(tests)} tests.")
        if only_failed:
            selected = self._only_failed(selected)
        if self.fails_first and not self.keeps_order:
            selected = selection.failed_first(selected, self.history.failed, self.stage_of)
        return selected

    def _only_failed(self, tests: Sequence[Any]) -> Sequence[Any]:
        failed = selection.failed(tests, self.history.failed)
        if not failed:
            self.log("No test is known to have failed: all are run.")
            return tests
        self.log(f"Running what has failed: {len(failed)} of {len(tests)} tests.")
        return failed

    def order(self, tests: Sequence[Any]) -> Order | None:
        """Return what decides about the order in parallel; None where it is the suite's."""
        forecast = Forecast(self.history, tests)
        failed = self.history.failed if self.fails_first else set()
        if self.keeps_order or not (forecast.is_measured or failed):
            return None
        return Order(forecast=forecast, stage_of=self.stage_of, first=failed)

    def count_shares(self, subsuites: Sequence[Sequence[Any]], *, workers: int) -> int:
        """Return how many workers could have something to do, if there were so many."""
        tests = [test for subsuite in subsuites for test in subsuite]
        order = self.order(tests)
        plan = Plan(subsuites, workers=workers, is_serial=self.is_serial, order=order)
        # Without pieces of classes it is as many as in stock Django.
        return max(len(subsuites), len(plan.parallel))

    def choose_workers(
        self, subsuites: Sequence[Sequence[Any]], *, connections: int | None
    ) -> Choice:
        """Choose how many workers to have, where that is left to us."""
        tests = [test for subsuite in subsuites for test in subsuite]
        forecast = Forecast(self.history, tests)
        starts = [run.start for run in self.history.runs if run.start is not None]
        shares = [
            run.processor_share for run in self.history.runs if run.processor_share is not None
        ]
        return choose(
            Situation(
                processors=usable_processors(),
                connections=connections,
                parts=[forecast.seconds(subsuite) for subsuite in subsuites],
                is_measured=forecast.is_measured,
                start=median(starts) if starts else _START,
                processor_share=median(shares[-_RUNS:]) if shares else None,
            )
        )


def names_tests(labels: Collection[str], tests: Sequence[Any]) -> bool:
    """Whether several labels name tests or classes of tests: so somebody has ordered them."""
    if len(labels) < 2:
        return False
    named = {test.id() for test in tests} | {strclass(type(test)) for test in tests}
    return named.issuperset(labels)


def stage_by(kinds: Sequence[type]) -> Callable[[Any], int]:
    """Return the function that tells of a test how many of these kinds come before it."""

    def stage_of(test: Any) -> int:
        of_kind = (index for index, kind in enumerate(kinds) if isinstance(test, kind))
        return next(of_kind, len(kinds))

    return stage_of
