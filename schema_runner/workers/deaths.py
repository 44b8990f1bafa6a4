"""Workers that die or outlast their timeout, and what becomes of their tests."""

import time
from collections import Counter
from collections.abc import Iterable

from ..scheduling.queue import PartQueue
from .handle import WorkerHandle
from .report import Report

# How many workers of one number may die in a row with nothing to do, until that is given up.
_DEATHS = 3


class Deaths:
    """Accounts for workers that have died: reports what they were at, and reschedules the rest."""

    def __init__(self, queue: PartQueue, report: Report) -> None:
        self._queue = queue
        self._report = report
        # How many workers of a number have died with nothing to do.
        self._in_a_row: Counter[int] = Counter()

    def forget(self, number: int) -> None:
        """Note that the worker of this number has come to its first part."""
        self._in_a_row[number] = 0

    def account_for(self, worker: WorkerHandle) -> None:
        """Tell of what it was at, and put back the tests that it has not begun."""
        if worker.parts:
            self._account_for_parts(worker)
        if not worker.has_entered and not worker.is_told_to_stop:
            self._account_for_idle(worker)

    def _account_for_idle(self, worker: WorkerHandle) -> None:
        """Tell of a process that died while it was set up, or while it had nothing to do."""
        self._in_a_row[worker.number] += 1
        if worker.why and not worker.is_ready:
            self._report.worker_failed(worker.number, worker.why)
        elif self._in_a_row[worker.number] >= _DEATHS:
            self._report.worker_failed(worker.number, f"it {worker.cause}")
        else:
            self._report.log(f"WorkerHandle {worker.number} {worker.cause} Another is started.")

    def _account_for_parts(self, worker: WorkerHandle) -> None:
        """Tell of the test, or of the fixture, that the process died at; put back the rest."""
        part, *others = worker.parts
        for other in reversed(others):
            self._queue.put_back(other, other.positions, deaths=other.deaths)
        rest, number, cause = worker.unfinished, worker.number, worker.cause
        is_slow, deaths = worker.is_late_for_limit, part.deaths
        if worker.begun is not None:
            self._report.died(number, part, worker.begun, cause, is_slow=is_slow)
        elif worker.has_entered and not worker.finished:
            if deaths or is_slow:
                self._report.fixture_died(number, part, "setUpClass", cause, is_first=True)
                return
            # It may have been killed from outside, for no fault of the class.
            self._report.log(f"WorkerHandle {number} {cause} Its class is set up once more.")
            deaths += 1
        elif worker.has_entered and not rest:
            self._report.fixture_died(number, part, "tearDownClass", cause, is_first=False)
        if rest:
            self._queue.put_back(part, rest, deaths=deaths)


# A supervisor that has not looked for so many seconds was stopped itself, or suspended with the
# whole machine, or had to wait for whoever reads its output.
_PAUSE = 1.0


class TimeoutEnforcer:
    """Kills workers that have not ended by themselves what has taken too long."""

    def __init__(self) -> None:
        self._looked = time.monotonic()

    def keep(self, workers: Iterable[WorkerHandle]) -> None:
        """Kill those that are overdue; whatever has come from them has been heard."""
        now = time.monotonic()
        pause, self._looked = now - self._looked, now
        for worker in workers:
            if worker.allowed_until is None:
                continue
            if pause > _PAUSE:
                # It may have been stopped as well.
                worker.allowed_until += pause
            elif now > worker.allowed_until and not worker.is_overdue:
                worker.is_overdue = True
                worker.kill()
