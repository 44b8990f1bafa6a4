"""The tests of a suite that are run, their order, and the number of workers."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from statistics import median
from typing import Any, NamedTuple
from unittest.loader import _FailedTest  # type: ignore[attr-defined]
from unittest.util import strclass

from .cpus import usable_cpus
from .durations import Durations
from .history import History
from .plan import Ordering, Plan
from .shards import Shard, Weight
from .worker_count import Limits, WorkerCount, choose_worker_count

# What a worker costs before its first test where no run has measured it, in seconds.
_START = 0.5
# The runs that are looked at for what tests wait for.
_RUNS = 5


class SuiteSelection(NamedTuple):
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
            selected = of_shard(tests, shard, self.history)
            self.log(f"Shard {shard} has {len(selected)} of {len(tests)} tests.")
        if only_failed:
            selected = self._only_failed(selected)
        if self.fails_first and not self.keeps_order:
            selected = failed_first(selected, self.history.failed, self.stage_of)
        return selected

    def _only_failed(self, tests: Sequence[Any]) -> Sequence[Any]:
        failed = failed_tests(tests, self.history.failed)
        if not failed:
            self.log("No test is known to have failed: all are run.")
            return tests
        self.log(f"Running what has failed: {len(failed)} of {len(tests)} tests.")
        return failed

    def order(self, tests: Sequence[Any]) -> Ordering | None:
        """Return what decides about the order in parallel; None where it is the suite's."""
        durations = Durations(self.history, tests)
        failed = self.history.failed if self.fails_first else set()
        if self.keeps_order or not (durations.is_measured or failed):
            return None
        return Ordering(durations=durations, stage_of=self.stage_of, first=failed)

    def count_shares(self, subsuites: Sequence[Sequence[Any]], *, workers: int) -> int:
        """Return how many workers could have something to do, if there were so many."""
        tests = [test for subsuite in subsuites for test in subsuite]
        order = self.order(tests)
        plan = Plan(subsuites, workers=workers, is_serial=self.is_serial, order=order)
        # Without pieces of classes it is as many as in stock Django.
        return max(len(subsuites), len(plan.parallel))

    def choose_workers(
        self, subsuites: Sequence[Sequence[Any]], *, connections: int | None
    ) -> WorkerCount:
        """Choose how many workers to have, where that is left to us."""
        tests = [test for subsuite in subsuites for test in subsuite]
        durations = Durations(self.history, tests)
        starts = [run.start for run in self.history.runs if run.start is not None]
        shares = [
            run.processor_share for run in self.history.runs if run.processor_share is not None
        ]
        return choose_worker_count(
            Limits(
                processors=usable_cpus(),
                connections=connections,
                parts=[durations.seconds(subsuite) for subsuite in subsuites],
                is_measured=durations.is_measured,
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


def of_shard(tests: Sequence[Any], shard: Shard, history: History) -> list[Any]:
    """Return those of a shard. What could not be loaded is in all of them."""
    loaded = [test for test in tests if not isinstance(test, _FailedTest)]
    weights = _weights(loaded, history)
    left_out = weights.keys() - shard.select(weights)
    return [test for test in tests if strclass(type(test)) not in left_out]


def _weights(tests: Sequence[Any], history: History) -> dict[str, Weight]:
    durations = Durations(history, tests)
    classes: dict[str, list[Any]] = defaultdict(list)
    # In one order on every machine: that of a sum shows in its last digit.
    for test in sorted(tests, key=lambda test: test.id()):
        classes[strclass(type(test))].append(test)
    return {
        name: Weight(len(its), durations.seconds(its) if name in history.classes else None)
        for name, its in classes.items()
    }


def failed_tests(tests: Sequence[Any], names: Collection[str]) -> list[Any]:
    """Return the tests of these names, and what could not be loaded."""
    return [test for test in tests if isinstance(test, _FailedTest) or test.id() in names]


def failed_first(
    tests: Sequence[Any], names: Collection[str], stage_of: Callable[[Any], int]
) -> list[Any]:
    """Return the tests with the classes first, in each stage, that have some of these names.

    Within such a class, those tests are the first.
    """
    ranks: dict[type, int] = {}
    for test in tests:
        ranks.setdefault(type(test), len(ranks))
    bad = {type(test) for test in tests if test.id() in names}

    def rank(test: Any) -> tuple[int, bool, int, bool]:
        kind = type(test)
        return stage_of(test), kind not in bad, ranks[kind], test.id() not in names

    return sorted(tests, key=rank)
