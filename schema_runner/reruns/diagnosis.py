"""The diagnosis of failures, by running them alone, after other tests and alongside others."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from ..errors import listing
from ..workers.report import Failure
from .probe import FirstToStart, SuiteRunner, TestPosition
from .run_log import RunLog

# How often each probe is repeated, to see whether its outcome is always the same.
_TIMES = 5
# How often a test that has not failed again in any probe runs alone.
_MORE_TIMES = 10
# A run of one class starts a worker only if it may need retries.
_WORKER_OPTIONS = ("--parallel=2", "--retries=1")


class Fault(StrEnum):
    """Why a test fails, as docs/failures.md explains."""

    BROKEN = "broken"
    POLLUTED = "polluted"
    PARALLEL_UNSAFE = "parallel-unsafe"
    FLAKY = "flaky"
    WORKER_ONLY = "worker-only"


class Verdict(NamedTuple):
    """The diagnosis of a failure."""

    # The name of the failure: a test's id, or a fixture such as "setUpClass (A)".
    name: str
    fault: Fault
    evidence: str
    # The tests that reproduce the failure, and the options to add to the command.
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()


class Diagnosis:
    """Diagnoses each failure of a run, from the log of the run and with probes."""

    def __init__(self, runner: SuiteRunner, run_log: RunLog) -> None:
        self._runner = runner
        self._run_log = run_log
        self._positions = {
            test.id(): (index, position)
            for index, tests in enumerate(runner.tests)
            for position, test in enumerate(tests)
        }

    def run(self, failures: Sequence[Failure]) -> list[Verdict]:
        """Return a verdict for each failure, or for the first ones if the run is stopped."""
        verdicts = []
        for failure in failures:
            self._runner.log(f"Diagnosing {failure.name}.")
            verdict = self._diagnose(failure)
            if self._runner.is_stopped:
                break
            verdicts.append(verdict)
        return verdicts

    def _diagnose(self, failure: Failure) -> Verdict:
        failed = self._count_alone(failure, _TIMES)
        if failed == _TIMES and all(
            self._runner.passes_outside_worker(failure) for _ in range(_TIMES)
        ):
            evidence = (
                f"it fails in a worker process and passes outside of one, as without --parallel "
                f"({_TIMES} of {_TIMES} times each)"
            )
            tests = self._tests_of(failure)
            return Verdict(failure.name, Fault.WORKER_ONLY, evidence, tests, _WORKER_OPTIONS)
        if failed == _TIMES:
            evidence = f"it fails alone in a fresh schema, {_TIMES} of {_TIMES} times"
            return Verdict(failure.name, Fault.BROKEN, evidence, self._tests_of(failure))
        if failed:
            return self._flaky(failure, failed, _TIMES)
        return (
            self._check_pollution(failure)
            or self._check_parallel(failure)
            or self._check_flaky(failure)
        )

    def _check_pollution(self, failure: Failure) -> Verdict | None:
        """Check whether it fails after the tests that came before it in its worker."""
        # The tests of a failed tearDownClass are part of the failure, not before it.
        first = self._tests_of(failure)[0] if failure.is_teardown else failure.name
        before = self._positions_of(self._run_log.before(first))

        def fails_after(tests: Sequence[TestPosition]) -> bool:
            return self._runner.fails(failure, after=tests)

        if not before or not fails_after(before):
            return None
        least = _minimize(before, fails_after)
        failed = _count(lambda: fails_after(least), _TIMES)
        if failed < _TIMES:
            # It fails only sometimes after these tests.
            return None
        names = self._names_of(least)
        evidence = (
            f"it fails after {listing(names)} in the same worker, {_TIMES} of {_TIMES} times, "
            f"and never alone in a fresh schema"
        )
        return Verdict(failure.name, Fault.POLLUTED, evidence, (*names, *self._tests_of(failure)))

    def _check_parallel(self, failure: Failure) -> Verdict | None:
        """Check whether it fails alongside the tests that other workers ran at the same time."""
        test_ids = self._tests_of(failure)
        others = self._positions_of(self._run_log.alongside(test_ids))
        if not others:
            return None
        # Of two tests that conflict, perhaps only the one that starts first, or second, fails.
        orders = itertools.cycle(FirstToStart)
        failed = _count(
            lambda: self._runner.fails_alongside(failure, others, first=next(orders)), _TIMES
        )
        if not failed:
            return None
        alone = self._count_alone(failure, _TIMES)
        if alone:
            return self._flaky(failure, alone, 2 * _TIMES)
        names = self._names_of(others)
        evidence = (
            f"it fails while another worker runs {listing(names)}, {failed} of {_TIMES} times, "
            f"and never alone in a fresh schema"
        )
        tests = (*test_ids, *names)
        return Verdict(failure.name, Fault.PARALLEL_UNSAFE, evidence, tests, ("--parallel=2",))

    def _check_flaky(self, failure: Failure) -> Verdict:
        """Run it alone more often, in case it fails sometimes."""
        failed = self._count_alone(failure, _MORE_TIMES)
        return self._flaky(failure, failed, _TIMES + _MORE_TIMES)

    def _flaky(self, failure: Failure, failed: int, times: int) -> Verdict:
        evidence = f"it fails alone in a fresh schema, {failed} of {times} times"
        if not failed:
            evidence = f"it did not fail again, neither alone ({times} times) nor with other tests"
        return Verdict(failure.name, Fault.FLAKY, evidence, self._tests_of(failure))

    def _count_alone(self, failure: Failure, times: int) -> int:
        return _count(lambda: self._runner.fails(failure), times)

    def _tests_of(self, failure: Failure) -> tuple[str, ...]:
        tests = self._runner.tests[failure.subsuite]
        return tuple(tests[position].id() for position in failure.positions)

    def _positions_of(self, names: Iterable[str]) -> list[TestPosition]:
        return [self._positions[name] for name in names]

    def _names_of(self, tests: Iterable[TestPosition]) -> list[str]:
        return [self._runner.tests[subsuite][position].id() for subsuite, position in tests]


def _count(fails: Callable[[], bool], times: int) -> int:
    return sum(fails() for _ in range(times))


def _minimize(
    tests: list[TestPosition], fails_after: Callable[[Sequence[TestPosition]], bool]
) -> list[TestPosition]:
    """Return a minimal subset of the tests, in order, after which something fails.

    Bisects the tests. If several are needed together, leaves out smaller and smaller parts
    (Zeller's delta debugging).
    """
    pieces = 2
    while len(tests) > 1:
        size = -(-len(tests) // pieces)
        for start in range(0, len(tests), size):
            if fails_after(tests[start : start + size]):
                tests, pieces = tests[start : start + size], 2
                break
        else:
            for start in range(0, len(tests), size):
                rest = [*tests[:start], *tests[start + size :]]
                if pieces > 2 and fails_after(rest):
                    tests, pieces = rest, max(pieces - 1, 2)
                    break
            else:
                if pieces >= len(tests):
                    break
                pieces = min(2 * pieces, len(tests))
    return tests
