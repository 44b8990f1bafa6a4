"""The supervisor: has workers started, given parts, listened to, replaced and ended."""

import time
from collections.abc import Callable, Collection
from enum import Enum, auto
from itertools import takewhile
from multiprocessing.connection import wait
from typing import Any

from ..scheduling.queue import PartQueue
from .deaths import Deaths, TimeoutEnforcer
from .handle import WorkerHandle, WorkerPool
from .lease_check import LeaseCheck
from .protocol import (
    Begun,
    Creates,
    Debugs,
    Entered,
    Failed,
    Gone,
    Left,
    Limited,
    PartFinished,
    ProjectChanged,
    Ready,
    Said,
    Stop,
    UsesDatabases,
)
from .report import Report
from .terminal import Terminal

# Times in seconds. How long to wait for a bell until the reports are looked at anyhow: so long
# what has happened may stay unseen.
_TICK = 0.05
# How long a process that has nothing more to do may take to end: tests may have left threads.
_END = 1.0
# How long tests may go on when another has failed under --failfast.
_FAILFAST = 1.0
# Seconds that a worker may still take to create a database once all tests are done: killed
# meanwhile, it could leave one without a marker. Filling a database is not waited for.
_DATABASE = 30.0


class StartOrder(Enum):
    """How workers start: as the first, or with fresh schemas where others have been the same.

    The latter begin once all of them are ready; in turn, each waits for a test of the one before.
    """

    FIRST = auto()
    TOGETHER = auto()
    IN_TURN = auto()


class Supervisor:
    """Runs a schedule in so many workers, and loses no test of it, whatever they do."""

    def __init__(
        self,
        *,
        workers: int,
        queue: PartQueue,
        pool: WorkerPool,
        report: Report,
        start: StartOrder = StartOrder.FIRST,
    ) -> None:
        self._numbers = range(1, workers + 1)
        self._start = start
        self._queue = queue
        self._pool = pool
        self._report = report
        self._workers: list[WorkerHandle] = []
        self._deaths = Deaths(queue, report)
        self._limits = TimeoutEnforcer()
        self._terminal = Terminal(report.log)
        self._heeds: dict[type, Callable[[WorkerHandle, Any], None]] = {
            Begun: self._heed_begun,
            Limited: self._heed_limit,
            PartFinished: self._heed_done,
            ProjectChanged: self._heed_outside,
            Entered: self._heed_entered,
            Left: self._heed_left,
            Ready: self._heed_ready,
            UsesDatabases: self._heed_databases,
            Creates: self._heed_creation,
            Debugs: self._terminal.heed,
            Said: self._heed_said,
            Failed: self._heed_failed,
            Gone: self._heed_gone,
        }

    def run(self, watch: LeaseCheck) -> None:
        """Run everything; kill what is left where this is broken off, as by KeyboardInterrupt.

        So it is where what is watched is lost.
        """
        try:
            for number in self._numbers:
                if self._start is StartOrder.FIRST:
                    self._start_worker(number, is_replacement=False)
                else:
                    self._replace(number)
            while self._workers and not watch.heed():
                self._wait(watch.files())
                is_stopped = self._report.is_stopped
                self._listen()
                if is_stopped:
                    # What had begun by then is known now.
                    self._report.announce()
                if self._terminal.holder is None:
                    self._terminal.lend()
                    self._limits.keep(self._workers)
                self._tell()
        except KeyboardInterrupt:
            # What failed a moment ago is shown as well.
            self._listen()
            raise
        finally:
            for worker in self._workers:
                worker.close()
                self._terminal.take_back(worker, is_dead=True)

    def _start_worker(self, number: int, *, is_replacement: bool) -> None:
        worker = self._pool.start(number, is_replacement=is_replacement)
        self._workers.append(worker)

    def _wait(self, files: Collection[int]) -> None:
        is_urgent = any(worker.is_late for worker in self._workers)
        heard = [one for one in self._workers if not self._terminal.leaves_out(one)]
        bells = [bell for worker in heard for bell in worker.bells]
        wait([*bells, *files], 0 if is_urgent else _TICK)

    @property
    def _is_over(self) -> bool:
        is_at_work = any(worker.parts for worker in self._workers)
        return self._report.is_stopped or (self._queue.is_empty and not is_at_work)

    # What workers are told.

    def _tell(self) -> None:
        is_over = self._is_over
        for worker in self._workers:
            # First, for what a worker has sent before it was told to stop has to be heard before.
            is_late = worker.is_late
            if not is_over:
                if self._may_begin(worker):
                    self._give(worker)
            elif not worker.is_told_to_stop:
                worker.is_told_to_stop = True
                worker.deadline = worker.deadline or self._deadline(worker)
                worker.tell(Stop())
            worker.flush()
            if is_late:
                worker.kill()
                if worker.is_cut_off and not worker.is_gone:
                    worker.why = worker.why or "Its pipes to the run were closed."

    def _may_begin(self, worker: WorkerHandle) -> bool:
        if self._start is StartOrder.FIRST:
            return True
        if not all(one.is_ready for one in self._workers):
            return False
        before = takewhile(lambda one: one is not worker, self._workers)
        return self._start is StartOrder.TOGETHER or not any(one.is_beginning for one in before)

    def _give(self, worker: WorkerHandle) -> None:
        """Give a worker as much to do as it should have."""
        others = [other for other in self._workers if other is not worker]
        while worker.is_ready and self._queue.has_more_for(worker.parts, len(self._numbers)):
            part = self._queue.take(
                stage=worker.stage,
                others=[other.stage for other in others],
                is_alone=not worker.parts and not any(other.parts for other in others),
            )
            if part is None:
                return
            try:
                order = self._pool.order(part)
            except Exception as error:
                self._report.unsent(worker.number, part, error)
            else:
                worker.parts.append(part)
                worker.stage = max(worker.stage, part.stage)
                worker.tell(order)

    def _deadline(self, worker: WorkerHandle) -> float | None:
        """Return when a worker that is told to stop is killed; None for never."""
        now = time.monotonic()
        creation = _DATABASE if worker.creates_database else 0
        is_kept = self._pool.keeps_places and not self._report.is_stopped
        if not worker.is_ready and not is_kept:
            return now + creation
        if not self._report.is_failfast or worker is self._terminal.holder:
            return None
        return now + max(_FAILFAST, creation)

    # What workers tell.

    def _listen(self) -> None:
        for worker in list(self._workers):
            if self._terminal.leaves_out(worker):
                # Read, so that it need not wait for room in its pipe, and heeded afterwards.
                worker.receiver.peek()
                continue
            # Asked first: what a process that is dead has sent is all there.
            is_alive = worker.process.is_alive()
            for message in worker.listen():
                self._heeds[type(message)](worker, message)
            if not is_alive:
                self._bury(worker)
            elif worker.is_cut_off and worker.deadline is None:
                # It is about to be dead, or a test has closed all files.
                worker.deadline = time.monotonic() + _END

    def _heed_begun(self, worker: WorkerHandle, message: Begun) -> None:
        worker.begun = message.position
        self._report.begun(worker.number, worker.part(message.key), message)

    def _heed_limit(self, worker: WorkerHandle, message: Limited) -> None:
        worker.limit(message.seconds)

    def _heed_done(self, worker: WorkerHandle, message: PartFinished) -> None:
        worker.begun = None
        worker.finished.add(message.position)
        worker.tested += message.duration
        self._report.done(worker.number, worker.part(message.key), message)

    def _heed_outside(self, worker: WorkerHandle, message: ProjectChanged) -> None:
        is_first = worker.begun is None and not worker.finished
        self._report.outside(worker.number, worker.parts[0], message, is_first=is_first)

    def _heed_entered(self, worker: WorkerHandle, message: Entered) -> None:
        worker.enter()
        self._deaths.forget(worker.number)

    def _heed_left(self, worker: WorkerHandle, message: Left) -> None:
        self._report.left(worker.number, worker.part(message.key), message, worker.tested)
        worker.leave()

    def _heed_ready(self, worker: WorkerHandle, message: Ready) -> None:
        worker.is_ready = True
        self._pool.settle(worker.number, message.places)
        taken = time.monotonic() - worker.started
        self._report.ready(worker.number, taken, is_replacement=worker.is_replacement)

    def _heed_databases(self, worker: WorkerHandle, message: UsesDatabases) -> None:
        # All workers find the same, and so do those that take their places.
        if message.alias not in self._pool.announced:
            self._pool.announced.add(message.alias)
            self._report.log(message.text)

    def _heed_creation(self, worker: WorkerHandle, message: Creates) -> None:
        worker.creates_database = message.is_under_way
        if worker.is_told_to_stop and not worker.is_gone:
            worker.deadline = self._deadline(worker)

    def _heed_said(self, worker: WorkerHandle, message: Said) -> None:
        self._report.log(message.text)

    def _heed_failed(self, worker: WorkerHandle, message: Failed) -> None:
        worker.why = message.text

    def _heed_gone(self, worker: WorkerHandle, message: Gone) -> None:
        worker.is_gone = True
        self._pool.settle(worker.number, message.places)
        self._pool.count(message.own_databases)
        worker.deadline = time.monotonic() + _END

    # Burying workers.

    def _bury(self, worker: WorkerHandle) -> None:
        """Account for a process that has ended, and have another take its place if need be."""
        self._workers.remove(worker)
        worker.process.join()
        self._terminal.take_back(worker, is_dead=True)
        if worker.is_overdue or not (worker.is_told_to_stop and worker.is_killed):
            self._deaths.account_for(worker)
        worker.close()
        if not self._is_over:
            self._replace(worker.number)

    def _replace(self, number: int) -> None:
        try:
            self._pool.renew(number)
        except Exception as error:
            self._report.worker_failed(number, str(error))
        else:
            self._start_worker(number, is_replacement=True)
