"""The tests of a suite, run in workers: all of them, and some of them once more."""

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
    """What begins first when something is run beside others."""

    TOGETHER = auto()
    OTHERS = auto()
    IT = auto()


# A test: the number of its subsuite, and its position there.
Spot: TypeAlias = tuple[int, int]


class SuiteRuns:
    """Runs tests that are listed by subsuite; `probing` is the crew for what nobody is told of."""

    def __init__(
        self,
        tests: Sequence[Sequence[Any]],
        audience: ReportTargets,
        *,
        pool: WorkerPool,
        probing: WorkerPool,
        watch: LeaseCheck,
    ) -> None:
        self.tests = tests
        self.log = audience.log
        self._audience = audience
        self._pool = pool
        self._probing = probing
        self._watch = watch

    @property
    def is_stopped(self) -> bool:
        """Whether no more tests are to begin."""
        return self._audience.result.shouldStop

    def run(self, queue: PartQueue, *, workers: int, keep: Keep) -> None:
        """Run a schedule, and tell of it."""
        report = Report(self.tests, self._audience, keep=keep)
        self._supervise(workers=workers, queue=queue, pool=self._pool, report=report)

    def again(self, failure: Failure, *, attempt: int, keep: Keep) -> bool:
        """Run what has failed alone, in a fresh process with a fresh schema, and tell of it.

        Return whether all of its tests have come to an end.
        """
        report = Report(self.tests, self._audience, attempt=attempt, keep=keep)
        queue = PartQueue([Part(1, failure.subsuite, failure.positions)])
        self._supervise(
            workers=1,
            queue=queue,
            pool=self._pool,
            report=report,
            start=StartOrder.TOGETHER,
        )
        return set(_spots(failure)) <= report.finished_tests

    def fails(self, failure: Failure, *, after: Sequence[Spot] = ()) -> bool:
        """Find out, telling nobody, whether something fails once more after some tests.

        All of them are run in a fresh process with a fresh schema.
        """
        spots = [*after, *_spots(failure)]
        probe = self._probe(failure, list(_parts(spots)), workers=1, start=StartOrder.TOGETHER)
        return probe.has_failed

    def passes_outside(self, failure: Failure) -> bool:
        """Find out, without a report, whether something passes in a process that is no worker.

        That one is forked, whatever others are, and has a fresh schema.
        """
        parts = list(_parts(_spots(failure)))
        pool = self._probing.as_main_process()
        probe = self._probe(failure, parts, pool=pool, workers=1, start=StartOrder.TOGETHER)
        return probe.has_ended and not probe.has_failed

    def fails_beside(
        self, failure: Failure, spots: Sequence[Spot], *, beginning: FirstToStart
    ) -> bool:
        """Find out, telling nobody, whether something fails once more beside some tests.

        Those are run in another worker than it; each is in a fresh process with a fresh schema.
        """
        (it,) = _parts(_spots(failure))
        others = list(_parts(spots, first_key=it.key + 1))
        # The first worker gets what comes first, and is the first to begin.
        place = 1 if beginning is FirstToStart.OTHERS else 0
        return self._probe(
            failure,
            [*others[:place], it, *others[place:]],
            workers=2,
            start=StartOrder.TOGETHER
            if beginning is FirstToStart.TOGETHER
            else StartOrder.IN_TURN,
        ).has_failed

    def _probe(
        self,
        failure: Failure,
        parts: Sequence[Part],
        *,
        workers: int,
        start: StartOrder,
        pool: WorkerPool | None = None,
    ) -> "_Probe":
        """Run parts in fresh processes, and see whether something fails then."""
        found: list[Failure] = []

        def keep(one: Failure) -> bool:
            found.append(one)
            return True

        audience = self._audience._replace(
            result=_Silent(lambda: self.is_stopped),
            observers=(),
            log=lambda _text: None,
        )
        report = Report(self.tests, audience, keep=keep)
        self._supervise(
            workers=workers,
            queue=PartQueue(parts, ahead=0),
            pool=pool or self._probing,
            report=report,
            start=start,
        )
        has_failed = any(failure.overlaps(one) for one in found)
        return _Probe(has_failed, set(_spots(failure)) <= report.finished_tests)

    def _supervise(self, **what: Any) -> None:
        Supervisor(**what).run(self._watch)
        if (why := self._watch.check()) and not self.is_stopped:
            stop_with_error(self._audience.result, why)


class _Probe(NamedTuple):
    """Whether something has failed in a probe, and whether all of its tests have ended."""

    has_failed: bool
    has_ended: bool


class _Silent(unittest.TestResult):
    """A result that is to say nothing, and that stops when another one does, too."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped, self._has_stopped = is_stopped, False
        super().__init__()

    @property
    def shouldStop(self) -> bool:  # noqa: N802
        return self._has_stopped or self._is_stopped()

    @shouldStop.setter
    def shouldStop(self, value: bool) -> None:  # noqa: N802
        # As where a process cannot be set up.
        self._has_stopped = value


def _spots(failure: Failure) -> list[Spot]:
    return [(failure.subsuite, position) for position in failure.positions]


def _parts(spots: Sequence[Spot], first_key: int = 1) -> Iterator[Part]:
    """Yield parts of the tests in their order: those of one class in a row are one."""
    rows = itertools.groupby(spots, key=itemgetter(0))
    for key, (subsuite, row) in enumerate(rows, first_key):
        yield Part(key, subsuite, tuple(position for _, position in row))
