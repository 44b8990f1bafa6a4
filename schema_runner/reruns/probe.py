"""Run the tests of a suite in workers: all of them, retries, and probes for a diagnosis."""

import itertools
import unittest
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from ..scheduling.queue import Part, PartQueue
from ..workers.handle import WorkerPool
from ..workers.lease_check import LeaseCheck, stop_with_error
from ..workers.report import Failure, Keep, Report, ReportTargets
from ..workers.supervisor import StartOrder, Supervisor


class FirstToStart(Enum):
    """Which tests start first if those of a failure run alongside others."""

    TOGETHER = auto()
    OTHERS = auto()
    FAILURE = auto()


# A test: the index of its subsuite, and its position there.
TestPosition: TypeAlias = tuple[int, int]


class SuiteRunner:
    """Runs tests, listed by subsuite, in workers.

    `pool` starts workers whose results are reported, `probe_pool` those of probes, whose results
    are not.
    """

    def __init__(
        self,
        tests: Sequence[Sequence[Any]],
        targets: ReportTargets,
        *,
        pool: WorkerPool,
        probe_pool: WorkerPool,
        lease_check: LeaseCheck,
    ) -> None:
        self.tests = tests
        self.log = targets.log
        self._targets = targets
        self._pool = pool
        self._probe_pool = probe_pool
        self._lease_check = lease_check

    @property
    def is_stopped(self) -> bool:
        """Whether the run has been stopped, so that no more tests start."""
        return self._targets.result.shouldStop

    def run(self, queue: PartQueue, *, workers: int, keep: Keep) -> None:
        """Run the parts of a queue, and report them."""
        report = Report(self.tests, self._targets, keep=keep)
        self._supervise(queue, report, workers=workers, start=StartOrder.INITIAL)

    def retry(self, failure: Failure, *, attempt: int, keep: Keep) -> bool:
        """Run a failure's tests alone, in a fresh process with a fresh schema, and report them.

        Return whether all of its tests have ended.
        """
        report = Report(self.tests, self._targets, attempt=attempt, keep=keep)
        self._supervise(PartQueue([Part(1, failure.subsuite, failure.positions)]), report)
        return set(_positions(failure)) <= report.finished_tests

    def fails(self, failure: Failure, *, after: Sequence[TestPosition] = ()) -> bool:
        """Return whether a failure occurs again, after the given tests. Nothing is reported.

        All of these tests run in one fresh process with a fresh schema.
        """
        return self._probe(failure, list(_parts([*after, *_positions(failure)]))).has_failed

    def passes_outside_worker(self, failure: Failure) -> bool:
        """Return whether a failure's tests pass in a process that is not a worker.

        The process is always forked, and has a fresh schema. Nothing is reported.
        """
        parts = list(_parts(_positions(failure)))
        probe = self._probe(failure, parts, pool=self._probe_pool.as_main_process())
        return probe.has_ended and not probe.has_failed

    def fails_alongside(
        self, failure: Failure, others: Sequence[TestPosition], *, first: FirstToStart
    ) -> bool:
        """Return whether a failure occurs again while other tests run. Nothing is reported.

        The other tests run in a second worker. Both workers have a fresh schema.
        """
        (part,) = _parts(_positions(failure))
        other_parts = list(_parts(others, first_key=part.key + 1))
        # The first worker gets the first part, and starts first.
        index = 1 if first is FirstToStart.OTHERS else 0
        parts = [*other_parts[:index], part, *other_parts[index:]]
        is_together = first is FirstToStart.TOGETHER
        start = StartOrder.TOGETHER if is_together else StartOrder.IN_TURN
        return self._probe(failure, parts, workers=2, start=start).has_failed

    def _probe(
        self,
        failure: Failure,
        parts: Sequence[Part],
        *,
        pool: WorkerPool | None = None,
        **options: Any,
    ) -> "_ProbeResult":
        """Run parts in fresh processes, and return whether a failure occurs again."""
        failures: list[Failure] = []

        def keep(one: Failure) -> bool:
            failures.append(one)
            return True

        targets = self._targets._replace(
            result=_SilentResult(lambda: self.is_stopped),
            observers=(),
            log=lambda _text: None,
        )
        report = Report(self.tests, targets, keep=keep)
        queue = PartQueue(parts, prefetch=0)
        self._supervise(queue, report, pool=pool or self._probe_pool, **options)
        has_failed = any(failure.overlaps(one) for one in failures)
        return _ProbeResult(has_failed, set(_positions(failure)) <= report.finished_tests)

    def _supervise(
        self,
        queue: PartQueue,
        report: Report,
        *,
        pool: WorkerPool | None = None,
        workers: int = 1,
        start: StartOrder = StartOrder.TOGETHER,
    ) -> None:
        supervisor = Supervisor(
            workers=workers, queue=queue, pool=pool or self._pool, report=report, start=start
        )
        supervisor.run(self._lease_check)
        if (why := self._lease_check.check()) and not self.is_stopped:
            stop_with_error(self._targets.result, why)


class _ProbeResult(NamedTuple):
    """Whether a failure occurred again in a probe, and whether all of its tests ended."""

    has_failed: bool
    has_ended: bool


class _SilentResult(unittest.TestResult):
    """A result that prints nothing, and that also stops when the result of the run does."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped, self._has_stopped = is_stopped, False
        super().__init__()

    @property
    def shouldStop(self) -> bool:  # noqa: N802
        return self._has_stopped or self._is_stopped()

    @shouldStop.setter
    def shouldStop(self, value: bool) -> None:  # noqa: N802
        # Set if a worker process cannot be set up.
        self._has_stopped = value


def _positions(failure: Failure) -> list[TestPosition]:
    return [(failure.subsuite, position) for position in failure.positions]


def _parts(tests: Sequence[TestPosition], first_key: int = 1) -> Iterator[Part]:
    """Yield parts of the tests, in order: one for consecutive tests of the same class."""
    groups = itertools.groupby(tests, key=itemgetter(0))
    for key, (subsuite, group) in enumerate(groups, first_key):
        yield Part(key, subsuite, tuple(position for _, position in group))
