"""Select the tests to run, their order and the number of workers."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from statistics import median
from typing import Any, NamedTuple
from unittest.loader import _FailedTest  # type: ignore[attr-defined]
from unittest.util import strclass

from .cpus import usable_cpus
from .history import History
from .plan import Durations, Ordering, Plan
from .shards import Shard, Weight
from .worker_count import Limits, WorkerCount, choose_worker_count

# Assumed seconds that a worker takes to start, if the history has no measurement.
_DEFAULT_START = 0.5
# The number of recent runs whose median is the `processor_share`.
_RECENT_RUNS = 5


class SuiteSelection(NamedTuple):
    """Selects and orders the tests of a suite, by the history and the options of the run."""

    history: History
    # Returns the stage of a test: how many kinds of tests come before its kind.
    stage_of: Callable[[Any], int]
    is_serial: Callable[[Any], bool]
    # Whether tests run in the order of the suite.
    keeps_order: bool
    # Whether tests that failed in their last run come first.
    failed_first: bool
    log: Callable[[str], None]

    def select(
        self, tests: Sequence[Any], *, shard: Shard | None, only_failed: bool
    ) -> Sequence[Any]:
        """Return the tests to run, in the order of a run without workers."""
        selected = tests
        if shard is not None:
            selected = select_shard(tests, shard, self.history)
            self.log(f"Running shard {shard}: {len(selected)} of {len(tests)} tests.")
        if only_failed:
            selected = self._only_failed(selected)
        if self.failed_first and not self.keeps_order:
            selected = move_failed_first(selected, self.history.failed, self.stage_of)
        return selected

    def _only_failed(self, tests: Sequence[Any]) -> Sequence[Any]:
        names = self.history.failed
        # Modules that cannot be imported may have been fixed.
        failed = [test for test in tests if isinstance(test, _FailedTest) or test.id() in names]
        if not failed:
            self.log("The history has no failed tests. Running all tests.")
            return tests
        self.log(f"Running the last failed tests: {len(failed)} of {len(tests)} tests.")
        return failed

    def order(self, tests: Sequence[Any]) -> Ordering | None:
        """Return how to order tests in parallel; None for the order of the suite."""
        durations = Durations(self.history, tests)
        failed = self.history.failed if self.failed_first else set()
        if self.keeps_order or not (durations.is_measured or failed):
            return None
        return Ordering(durations=durations, stage_of=self.stage_of, first=failed)

    def max_workers(self, subsuites: Sequence[Sequence[Any]], *, workers: int) -> int:
        """Return the most workers that the parts of the suite can occupy.

        The suite is split into parts for this number of `workers`.
        """
        order = self.order([*chain.from_iterable(subsuites)])
        plan = Plan(subsuites, workers=workers, is_serial=self.is_serial, order=order)
        # As in stock Django, at least one for each class.
        return max(len(subsuites), len(plan.parallel))

    def choose_workers(
        self, subsuites: Sequence[Sequence[Any]], *, connections: int | None
    ) -> WorkerCount:
        """Choose the number of workers for --parallel auto."""
        durations = Durations(self.history, chain.from_iterable(subsuites))
        runs = self.history.runs
        starts = [run.start for run in runs if run.start is not None]
        shares = [run.processor_share for run in runs if run.processor_share is not None]
        return choose_worker_count(
            Limits(
                processors=usable_cpus(),
                connections=connections,
                parts=[durations.seconds(subsuite) for subsuite in subsuites],
                is_measured=durations.is_measured,
                start=median(starts) if starts else _DEFAULT_START,
                processor_share=median(shares[-_RECENT_RUNS:]) if shares else None,
            )
        )


def names_tests(labels: Collection[str], tests: Sequence[Any]) -> bool:
    """Whether there are several labels, all of tests or test classes: the user's own order."""
    if len(labels) < 2:
        return False
    names = {test.id() for test in tests} | {strclass(type(test)) for test in tests}
    return names.issuperset(labels)


def stage_by(kinds: Sequence[type]) -> Callable[[Any], int]:
    """Return a function that returns how many of these kinds come before a test's kind."""

    def stage_of(test: Any) -> int:
        matching = (index for index, kind in enumerate(kinds) if isinstance(test, kind))
        return next(matching, len(kinds))

    return stage_of


def select_shard(tests: Sequence[Any], shard: Shard, history: History) -> list[Any]:
    """Return the tests of a shard. Modules that cannot be imported are in every shard."""
    loaded = [test for test in tests if not isinstance(test, _FailedTest)]
    durations = Durations(history, loaded)
    classes: dict[str, list[Any]] = defaultdict(list)
    # Sorted, because floating-point sums depend on the order, which must be the same on every
    # machine.
    for test in sorted(loaded, key=lambda test: test.id()):
        classes[strclass(type(test))].append(test)
    weights = {
        name: Weight(len(cases), durations.seconds(cases) if name in history.classes else None)
        for name, cases in classes.items()
    }
    left_out = weights.keys() - shard.select(weights)
    return [test for test in tests if strclass(type(test)) not in left_out]


def move_failed_first(
    tests: Sequence[Any], names: Collection[str], stage_of: Callable[[Any], int]
) -> list[Any]:
    """Return the tests: in each class those with these ids first, in each stage their classes.

    Otherwise the order stays the same.
    """
    ranks = {kind: rank for rank, kind in enumerate(dict.fromkeys(map(type, tests)))}
    failed = {type(test) for test in tests if test.id() in names}

    def rank(test: Any) -> tuple[int, bool, int, bool]:
        kind = type(test)
        return stage_of(test), kind not in failed, ranks[kind], test.id() not in names

    return sorted(tests, key=rank)
