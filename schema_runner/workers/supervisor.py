"""The supervisor: starts, replaces and stops workers, assigns parts, and handles messages."""

import time
from collections.abc import Collection
from enum import Enum, auto
from itertools import takewhile
from multiprocessing.connection import wait

from ..scheduling.queue import PartQueue
from .deaths import TimeoutEnforcer, WorkerDeaths
from .handle import WorkerHandle, WorkerPool
from .lease_check import LeaseCheck
from .protocol import (
    CreatingDatabase,
    Exiting,
    FixtureResult,
    LogLine,
    PartFinished,
    PartStarted,
    Ready,
    Stop,
    TerminalRequest,
    TestFinished,
    TestStarted,
    TimeoutSet,
    WorkerFailed,
)
from .report import Report
from .terminal import Terminal

# All in seconds. Between two reads of the reports, if no worker wakes up the main process.
_POLL_INTERVAL = 0.05
# For a finished worker to exit: tests may have left threads.
_EXIT_TIMEOUT = 1.0
# For running tests to end after a failure under --failfast.
_FAILFAST_TIMEOUT = 1.0
# For a worker to finish CREATE DATABASE when the run has ended: if killed, it could leave a
# database without a marker. The run does not wait until the database is filled.
_CREATE_DATABASE_TIMEOUT = 30.0


class StartOrder(Enum):
    """When workers start and get their first parts.

    `INITIAL`: the first processes of a run; each starts as soon as it is ready.
    `TOGETHER`: replacements with fresh schemas, which start when all of them are ready.
    `IN_TURN`: the same, but each waits until the previous one has started a test.
    """

    INITIAL = auto()
    TOGETHER = auto()
    IN_TURN = auto()


class Supervisor:
    """Runs the parts of a queue in `workers` processes, without losing a test if they die."""

    def __init__(
        self,
        *,
        workers: int,
        queue: PartQueue,
        pool: WorkerPool,
        report: Report,
        start: StartOrder,
    ) -> None:
        self._numbers = range(1, workers + 1)
        self._start = start
        self._queue = queue
        self._pool = pool
        self._report = report
        self._workers: list[WorkerHandle] = []
        self._deaths = WorkerDeaths(queue, report)
        self._timeout_enforcer = TimeoutEnforcer()
        self._terminal = Terminal(report.log)

    def run(self, lease_check: LeaseCheck) -> None:
        """Run all parts, or stop when `lease_check` fails; then kill the remaining workers."""
        try:
            for number in self._numbers:
                if self._start is StartOrder.INITIAL:
                    self._start_worker(number, is_replacement=False)
                else:
                    self._replace(number)
            while self._workers and not lease_check.check():
                self._wait(lease_check.fds())
                is_stopped = self._report.should_stop
                self._receive()
                if is_stopped:
                    # The messages just handled include all tests that had started.
                    self._report.announce()
                if self._terminal.holder is None:
                    self._terminal.lend()
                    self._timeout_enforcer.kill_overdue(self._workers)
                self._send_commands()
        except KeyboardInterrupt:
            # Include the latest failures.
            self._receive()
            raise
        finally:
            for worker in self._workers:
                worker.close()
                self._terminal.take_back(worker, is_dead=True)

    def _start_worker(self, number: int, *, is_replacement: bool) -> None:
        worker = self._pool.start(number, is_replacement=is_replacement)
        self._workers.append(worker)

    def _wait(self, fds: Collection[int]) -> None:
        is_urgent = any(worker.is_past_deadline for worker in self._workers)
        readable = [w for w in self._workers if not self._terminal.is_lent_to_other(w)]
        waitables = [waitable for worker in readable for waitable in worker.waitables]
        wait([*waitables, *fds], 0 if is_urgent else _POLL_INTERVAL)

    @property
    def _has_finished(self) -> bool:
        is_busy = any(worker.parts for worker in self._workers)
        return self._report.should_stop or (self._queue.is_empty and not is_busy)

    # Commands to workers.

    def _send_commands(self) -> None:
        has_finished = self._has_finished
        for worker in self._workers:
            # Check first: a worker that gets its deadline below is killed the next time, when its
            # messages have been handled.
            is_past_deadline = worker.is_past_deadline
            if not has_finished:
                if self._can_start(worker):
                    self._assign_parts(worker)
            elif not worker.is_stopping:
                worker.is_stopping = True
                worker.exit_deadline = worker.exit_deadline or self._compute_exit_deadline(worker)
                worker.send(Stop())
            worker.flush()
            if is_past_deadline:
                worker.kill()
                if worker.is_disconnected and not worker.is_exiting:
                    worker.error = worker.error or "Its pipes to the main process were closed."

    def _can_start(self, worker: WorkerHandle) -> bool:
        if self._start is StartOrder.INITIAL:
            return True
        if not all(other.is_ready for other in self._workers):
            return False
        before = takewhile(lambda other: other is not worker, self._workers)
        return self._start is StartOrder.TOGETHER or not any(
            other.is_before_first_test for other in before
        )

    def _assign_parts(self, worker: WorkerHandle) -> None:
        """Send a worker as many parts as it should hold."""
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
                command = self._pool.command_for(part)
            except Exception as error:
                self._report.part_not_sent(worker.number, part, error)
            else:
                worker.parts.append(part)
                worker.stage = max(worker.stage, part.stage)
                worker.send(command)

    def _compute_exit_deadline(self, worker: WorkerHandle) -> float | None:
        """Return the monotonic time at which a stopping worker is killed; None for never."""
        now = time.monotonic()
        creation_timeout = _CREATE_DATABASE_TIMEOUT if worker.creates_database else 0
        keeps_schema = self._pool.keeps_schemas and not self._report.should_stop
        if not worker.is_ready and not keeps_schema:
            return now + creation_timeout
        if not self._report.stopped_by_failfast or worker is self._terminal.holder:
            return None
        return now + max(_FAILFAST_TIMEOUT, creation_timeout)

    # Messages from workers.

    def _receive(self) -> None:
        for worker in list(self._workers):
            if self._terminal.is_lent_to_other(worker):
                # Read, so that the worker does not block; handle the messages later.
                worker.reports.peek()
                continue
            # Check first: all messages of a dead process have arrived.
            is_alive = worker.process.is_alive()
            for message in worker.receive():
                self._handle(worker, message)
            if not is_alive:
                self._handle_exit(worker)
            elif worker.is_disconnected and worker.exit_deadline is None:
                # The process is about to exit, or a test has closed all files.
                worker.exit_deadline = time.monotonic() + _EXIT_TIMEOUT

    def _handle(self, worker: WorkerHandle, message: object) -> None:
        """Handle a message about tests; a worker runs the first of its parts."""
        match message:
            case TestStarted():
                worker.running = message.position
                self._report.test_started(worker.number, worker.parts[0], message)
            case TimeoutSet():
                worker.set_timeout(message.seconds)
            case TestFinished():
                worker.running = None
                worker.finished.add(message.position)
                self._report.test_finished(worker.number, worker.parts[0], message)
            case FixtureResult():
                is_first = worker.running is None and not worker.finished
                self._report.fixture_reported(
                    worker.number, worker.parts[0], message, is_first=is_first
                )
            case PartStarted():
                worker.reset_part(has_started=True)
                self._deaths.reset(worker.number)
            case PartFinished():
                self._report.part_finished(worker.parts.popleft(), message.event)
                worker.reset_part(has_started=False)
            case _:
                self._handle_process(worker, message)

    def _handle_process(self, worker: WorkerHandle, message: object) -> None:
        """Handle a message about the process."""
        match message:
            case Ready():
                worker.is_ready = True
                self._pool.record_locations(worker.number, message.locations)
                duration = time.monotonic() - worker.started
                self._report.worker_ready(
                    worker.number, duration, is_replacement=worker.is_replacement
                )
            case CreatingDatabase():
                worker.creates_database = message.is_in_progress
                if worker.is_stopping and not worker.is_exiting:
                    worker.exit_deadline = self._compute_exit_deadline(worker)
            case TerminalRequest():
                self._terminal.handle(worker, message)
            case LogLine():
                self._pool.log(message, self._report.log)
            case WorkerFailed():
                worker.error = message.text
            case Exiting():
                worker.is_exiting = True
                self._pool.record_locations(worker.number, message.locations)
                self._pool.record_own_databases(message.own_databases)
                worker.exit_deadline = time.monotonic() + _EXIT_TIMEOUT

    # Exits of workers.

    def _handle_exit(self, worker: WorkerHandle) -> None:
        """Handle the exit of a process, and replace it unless the run has finished."""
        self._workers.remove(worker)
        worker.process.join()
        self._terminal.take_back(worker, is_dead=True)
        if worker.is_overdue or not (worker.is_stopping and worker.is_killed):
            self._deaths.handle(worker)
        worker.close()
        if not self._has_finished:
            self._replace(worker.number)

    def _replace(self, number: int) -> None:
        try:
            self._pool.prepare_replacement(number)
        except Exception as error:
            self._report.worker_failed(number, str(error))
        else:
            self._start_worker(number, is_replacement=True)
