"""Why a test fails: found out by running it alone, after others and beside others."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from ..errors import count, listing
from ..workers.report import Failure
from .probe import FirstToStart, Spot, SuiteRuns
from .run_log import RunLog

# How often something is run in the same way, to see whether it always comes to the same.
_TIMES = 5
# How often something is run alone that has not failed again in any way.
_MORE = 10
# A run of one class has a worker only where something may have to be run again.
_IN_A_WORKER = ("--parallel=2", "--retries=1")


class Fault(StrEnum):
    """What is wrong with a test that fails."""

    BROKEN = "broken"
    POLLUTED = "polluted"
    PARALLEL_UNSAFE = "parallel-unsafe"
    FLAKY = "flaky"
    WORKER_ONLY = "worker-only"


class Verdict(NamedTuple):
    """What was found out about a failure of that name.

    To see it again, run the tests with these options of the command besides those it had.
    """

    name: str
    fault: Fault
    evidence: str
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()


class Diagnosis:
    """Finds a verdict on each failure of a run of which the `run_log` is known."""

    def __init__(self, runs: SuiteRuns, run_log: RunLog) -> None:
        self._runs = runs
        self._run_log = run_log
        self._spots = {
            test.id(): (index, position)
            for index, tests in enumerate(runs.tests)
            for position, test in enumerate(tests)
        }

    def run(self, failures: Sequence[Failure]) -> list[Verdict]:
        """Return the verdicts: fewer than failures where the run is broken off."""
        verdicts = []
        for failure in failures:
            self._runs.log(f"Finding out why {failure.name} fails.")
            verdict = self._judge(failure)
            if self._runs.is_stopped:
                break
            verdicts.append(verdict)
        return verdicts

    def _judge(self, failure: Failure) -> Verdict:
        failed = self._count_alone(failure, _TIMES)
        if failed == _TIMES and all(self._runs.passes_outside(failure) for _ in range(_TIMES)):
            evidence = (
                f"it fails in a worker process, {_TIMES} times of {_TIMES}, and passes outside of "
                f"one, as without --parallel, {_TIMES} times of {_TIMES}"
            )
            tests = self._tests_of(failure)
            return Verdict(failure.name, Fault.WORKER_ONLY, evidence, tests, _IN_A_WORKER)
        if failed == _TIMES:
            evidence = f"it fails alone in a fresh schema, {_TIMES} times of {_TIMES}"
            return Verdict(failure.name, Fault.BROKEN, evidence, self._tests_of(failure))
        if failed:
            return self._flaky(failure, failed, _TIMES)
        return (
            self._judge_after(failure) or self._judge_beside(failure) or self._judge_rare(failure)
        )

    def _judge_after(self, failure: Failure) -> Verdict | None:
        """Look whether the tests that came before it in its worker make it fail."""
        # Its own tests come before a fixture that fails after them, and are run with it anyhow.
        first = self._tests_of(failure)[0] if failure.is_teardown else failure.name
        before = self._spots_of(self._run_log.before(first))

        def fails_after(spots: Sequence[Spot]) -> bool:
            return self._runs.fails(failure, after=spots)

        if not before or not fails_after(before):
            return None
        least = _least(before, fails_after)
        failed = _count(lambda: fails_after(least), _TIMES)
        if failed < _TIMES:
            # Chance has had a part in it.
            return None
        names = self._names_of(least)
        evidence = (
            f"it fails after {listing(names)} in the same worker, {_TIMES} times of {_TIMES}, "
            f"and never alone in a fresh schema"
        )
        return Verdict(failure.name, Fault.POLLUTED, evidence, (*names, *self._tests_of(failure)))

    def _judge_beside(self, failure: Failure) -> Verdict | None:
        """Look whether the tests of other workers make it fail, at the same time."""
        test_ids = self._tests_of(failure)
        beside = self._spots_of(self._run_log.beside(test_ids))
        if not beside:
            return None
        # What two tests do to each other may befall just the one that comes second, or first.
        ways = itertools.cycle(FirstToStart)
        failed = _count(
            lambda: self._runs.fails_beside(failure, beside, beginning=next(ways)), _TIMES
        )
        if not failed:
            return None
        alone = self._count_alone(failure, _TIMES)
        if alone:
            return self._flaky(failure, alone, 2 * _TIMES)
        names = self._names_of(beside)
        evidence = (
            f"it fails beside {listing(names)}, {count(failed, 'time')} of {_TIMES}, and never "
            f"alone ({2 * _TIMES} times)"
        )
        tests = (*test_ids, *names)
        return Verdict(failure.name, Fault.PARALLEL_UNSAFE, evidence, tests, ("--parallel=2",))

    def _judge_rare(self, failure: Failure) -> Verdict:
        """Run it more often: what it does now and then may show."""
        return self._flaky(failure, self._count_alone(failure, _MORE), _TIMES + _MORE)

    def _flaky(self, failure: Failure, failed: int, times: int) -> Verdict:
        evidence = f"it fails alone in a fresh schema {count(failed, 'time')} of {times}"
        if not failed:
            evidence = f"it has not failed again, alone {times} times and among the same tests"
        return Verdict(failure.name, Fault.FLAKY, evidence, self._tests_of(failure))

    def _count_alone(self, failure: Failure, times: int) -> int:
        return _count(lambda: self._runs.fails(failure), times)

    def _tests_of(self, failure: Failure) -> tuple[str, ...]:
        tests = self._runs.tests[failure.subsuite]
        return tuple(tests[position].id() for position in failure.positions)

    def _spots_of(self, names: Iterable[str]) -> list[Spot]:
        return [self._spots[name] for name in names]

    def _names_of(self, spots: Iterable[Spot]) -> list[str]:
        return [self._runs.tests[subsuite][position].id() for subsuite, position in spots]


def _count(fails: Callable[[], bool], times: int) -> int:
    return sum(fails() for _ in range(times))


def _least(spots: list[Spot], fails_after: Callable[[Sequence[Spot]], bool]) -> list[Spot]:
    """Return as few of the tests, in their order, as make something fail, by bisection.

    Where several of them are needed together, parts are left out that get smaller and smaller
    (Zeller's "delta debugging").
    """
    pieces = 2
    while len(spots) > 1:
        size = -(-len(spots) // pieces)
        for start in range(0, len(spots), size):
            if fails_after(spots[start : start + size]):
                spots, pieces = spots[start : start + size], 2
                break
        else:
            for start in range(0, len(spots), size):
                rest = [*spots[:start], *spots[start + size :]]
                if pieces > 2 and fails_after(rest):
                    spots, pieces = rest, max(pieces - 1, 2)
                    break
            else:
                if pieces >= len(spots):
                    break
                pieces = min(2 * pieces, len(spots))
    return spots
