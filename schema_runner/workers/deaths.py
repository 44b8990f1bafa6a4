"""Workers that die or exceed a timeout: report their tests and reschedule the rest."""

import time
from collections import Counter
from collections.abc import Iterable

from ..scheduling.queue import PartQueue
from .handle import WorkerHandle
from .report import Report

# The run ends if this many processes in a row die as the same worker without starting a part.
_MAX_IDLE_DEATHS = 3


class WorkerDeaths:
    """Reports the tests and fixtures during which workers died, and reschedules the rest."""

    def __init__(self, queue: PartQueue, report: Report) -> None:
        self._queue = queue
        self._report = report
        # By worker number: deaths in a row without a part.
        self._idle_deaths: Counter[int] = Counter()

    def reset(self, number: int) -> None:
        """Reset the count of a worker that has started a part."""
        self._idle_deaths[number] = 0

    def handle(self, worker: WorkerHandle) -> None:
        """Report what a dead worker was running, and reschedule the tests it had not started."""
        if worker.parts:
            self._handle_parts(worker)
        if not worker.has_started_part and not worker.is_stopping:
            self._handle_idle_death(worker)

    def _handle_idle_death(self, worker: WorkerHandle) -> None:
        """Report a process that died during its set-up or while idle."""
        self._idle_deaths[worker.number] += 1
        if worker.error and not worker.is_ready:
            self._report.worker_failed(worker.number, worker.error)
        elif self._idle_deaths[worker.number] >= _MAX_IDLE_DEATHS:
            self._report.worker_failed(worker.number, f"it {worker.cause}")
        else:
            self._report.log(f"Worker {worker.number} {worker.cause} Starting another.")

    def _handle_parts(self, worker: WorkerHandle) -> None:
        """Report the test or fixture during which the process died; reschedule the rest."""
        part, *others = worker.parts
        for other in reversed(others):
            self._queue.put_back(other, other.positions, deaths=other.deaths)
        rest, number, cause = worker.not_started, worker.number, worker.cause
        timed_out, deaths = worker.has_timed_out, part.deaths
        if worker.running is not None:
            self._report.test_died(number, part, worker.running, cause, timed_out=timed_out)
        elif worker.has_started_part and not worker.finished:
            if deaths or timed_out:
                self._report.fixture_died(number, part, "setUpClass", cause, is_first=True)
                return
            # The class may not be the cause: something else may have killed the process.
            self._report.log(f"Worker {number} {cause} Setting up its class again.")
            deaths += 1
        elif worker.has_started_part and not rest:
            self._report.fixture_died(number, part, "tearDownClass", cause, is_first=False)
        if rest:
            self._queue.put_back(part, rest, deaths=deaths)


# Seconds. After a longer gap between two checks, the main process itself was stopped, the machine
# was suspended, or writing output blocked.
_MAX_CHECK_GAP = 1.0


class TimeoutEnforcer:
    """Kills workers that have not enforced a timeout themselves."""

    def __init__(self) -> None:
        self._last_check = time.monotonic()

    def kill_overdue(self, workers: Iterable[WorkerHandle]) -> None:
        """Kill overdue workers; call this after all their messages have been read."""
        now = time.monotonic()
        gap, self._last_check = now - self._last_check, now
        for worker in workers:
            if worker.timeout_deadline is None:
                continue
            if gap > _MAX_CHECK_GAP:
                # The worker may have been stopped too.
                worker.timeout_deadline += gap
            elif now > worker.timeout_deadline and not worker.is_overdue:
                worker.is_overdue = True
                worker.kill()
