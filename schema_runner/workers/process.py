"""A worker process: it is set up, runs the parts that it is given, and cleans up."""

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing.connection import Connection
from typing import Any
from unittest.util import strclass

from django.db import connections

from .. import decorators, forks
from ..connections import abandon_transactions, disconnect, prepare_for
from ..database.own_database import OwnDatabaseCreation
from ..database.patching import patch_backends
from ..database.worker_database import WorkerCreation, WorkerStart
from ..errors import SchemaRunnerError
from ..flush.hooks import import_management
from ..postgres import locks
from ..search_path import programs
from . import current
from .current import end_with_parent, set_up_worker
from .debugger import WorkerDebugger
from .exceptions import exc_info
from .output import SqlLog
from .pipes import Receiver, Sender
from .protocol import (
    Creates,
    Failed,
    Gone,
    Pipes,
    Ready,
    RunPart,
    Said,
    Stop,
    UsesDatabases,
    WorkerConfig,
)
from .reporter import Reporter
from .results import part_suite, result_class
from .sigterm import WorkerSignals


def work(assigned: WorkerConfig, pipes: Pipes) -> None:
    """Be a worker."""
    for end in pipes:
        forks.let_go(end, Connection.close)
    # Stock Django's workers are daemons, whose tests may start no processes.
    multiprocessing.current_process().daemon = False
    if assigned.main is not None:
        # Without the thread that waits for the run's end, which a test could find.
        current.look_like(assigned.main)
    else:
        end_with_parent()
    if assigned.is_only_one or assigned.main is not None:
        # For debuggers: nobody else reads what is typed in.
        with suppress(OSError):
            sys.stdin = os.fdopen(0, closefd=False)
    if assigned.is_silent:
        _silence()
    worker = _Process(assigned, pipes)
    worker.take_interrupts()
    worker.signals.handle()
    with worker.debugger.follow():
        worker.run()


def _silence() -> None:
    """Let nothing be seen of what tests print, or programs that they start; they read nothing."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.close(nowhere)


class _Process:
    def __init__(self, assigned: WorkerConfig, pipes: Pipes) -> None:
        self._assigned = assigned
        self._part_suite = part_suite(assigned.suite_class)
        self._orders = Receiver(pipes.orders)
        self._is_ready = False
        self.signals = WorkerSignals(self._orders, self._is_stopped)
        self._reporter = Reporter(
            Sender(pipes.reports, waits=True),
            pipes.bell,
            time_limit=assigned.settings.test_timeout,
            is_stopped=self._is_stopped,
        )
        self.debugger = WorkerDebugger(self._reporter, self._orders, assigned)

    def take_interrupts(self) -> None:
        """Leave Ctrl-C, which reaches all processes of a terminal, to the run or a debugger."""
        if self._assigned.main is None:
            forks.handle(signal.SIGINT, self.debugger.heed_interrupt)

    def run(self) -> None:
        try:
            self._set_up()
            while order := self._next_order():
                self._execute(order)
        except BaseException as error:
            # A test may raise what unittest lets through: KeyboardInterrupt.
            is_told = isinstance(error, SchemaRunnerError)
            self._tell_at_the_end(Failed(str(error) if is_told else traceback.format_exc()))
        self._leave()
        self._tell_at_the_end(Gone(_places(), _own_databases()))

    def _tell_at_the_end(self, message: object) -> None:
        # Where a test has closed all files, nobody can be told.
        with suppress(OSError):
            self._tell(message)

    def _tell(self, message: object) -> None:
        self._reporter.send(message)
        self._reporter.ring()

    def _set_up(self) -> None:
        assigned = self._assigned
        for creation in _creations():
            # In a worker of a run within a test, which may be a worker's.
            creation.reset_after_fork()
        WorkerCreation.start = WorkerStart(
            assigned.is_replacement,
            report_fallback=lambda alias, text: self._tell(UsesDatabases(alias, text)),
            report_creating=self._tell_creating,
            log=self._say,
        )
        locks.set_lock_wait(locks.LockWait(assigned.settings.lock_timeout, self._say))
        with current.seeming_forked() if assigned.main is not None else nullcontext():
            assigned.init_worker(
                _Counter(assigned.number - 1),
                assigned.initial_settings,
                assigned.serialized_contents,
                _prepare_spawned,
                (assigned,),
                assigned.debug_mode,
                assigned.used_aliases,
            )
        if assigned.tells_sql:
            self._reporter.sql = SqlLog(shows_all=assigned.tells_all_sql)
            for connection in connections.all():
                connection.force_debug_cursor = True
        programs.export()
        if assigned.subsuites is None:
            # A forked one has what the run has imported.
            import_management()
        set_up_worker(assigned.settings)
        self.debugger.close()
        self._tell(Ready(_places()))
        self._is_ready = True

    def _say(self, text: str) -> None:
        self._tell(Said(text))

    def _tell_creating(self, is_under_way: bool) -> None:
        self.signals.is_held = is_under_way
        self._tell(Creates(is_under_way))
        # From here on the run either waits, or has told this worker to stop.
        if is_under_way and not self._is_ready and self._is_stopped():
            raise SchemaRunnerError("The run is over.")

    def _leave(self) -> None:
        for child in multiprocessing.active_children():
            # Left by a test; multiprocessing would wait for it as this process ends.
            child.terminate()
        disconnect()
        for creation in _creations():
            # What cannot be dropped now the run drops.
            with suppress(Exception):
                creation.tear_down(keep=self._assigned.keepdb)

    def _next_order(self) -> RunPart | None:
        """Wait for what to do next; None when there is nothing more."""
        return None if self._is_stopped() else self._orders.next()

    def _is_stopped(self) -> bool:
        return any(isinstance(message, Stop) for message in self._orders.peek())

    def _execute(self, order: RunPart) -> None:
        # A run within a test takes the handler away, as stock Django's does.
        self.take_interrupts()
        abandon_transactions()
        self._reporter.enter(order.part)
        try:
            tests = self._tests(order)
        except Exception as error:
            self._reporter.tell("addError", f"part {order.part.subsuite}", exc_info(error))
        else:
            if not tests or self._is_prepared(type(tests[0][1])):
                self._run(tests)
        self._reporter.leave(is_last=len(self._orders.peek()) <= 1)

    def _is_prepared(self, test_class: type) -> bool:
        """Prepare for a class; where that fails, its set-up has failed."""
        names = self._assigned.settings.own_database
        try:
            prepare_for(test_class, own_database=decorators.needs_own_database(test_class, names))
        except Exception as error:
            fixture = f"setUpClass ({strclass(test_class)})"
            self._reporter.tell("addError", fixture, exc_info(error))
            return False
        return True

    def _tests(self, order: RunPart) -> list[tuple[int, Any]]:
        part = order.part
        if order.tests is not None:
            return list(zip(part.positions, pickle.loads(order.tests), strict=True))  # noqa: S301
        assert self._assigned.subsuites is not None
        subsuite = self._assigned.subsuites[part.subsuite]
        tests = [(position, subsuite[position]) for position in part.positions]
        for position in part.positions:
            # What a test keeps goes when it is over, as under unittest.
            subsuite[position] = None
        return tests

    def _run(self, tests: list[tuple[int, Any]]) -> None:
        assigned = self._assigned
        wanted = getattr(assigned.runner_class, "resultclass", None)
        runner = assigned.runner_class(
            failfast=assigned.failfast,
            buffer=assigned.buffer,
            resultclass=result_class(
                wanted,
                self._reporter,
                with_locals=assigned.tb_locals,
                tells_subtests=assigned.tells_subtests,
            ),
        )
        runner.run(self._part_suite(tests, self._reporter))


class _Counter:
    """What Django's init_worker counts workers with: it is about to count this one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def get_lock(self) -> AbstractContextManager[None]:
        return nullcontext()


def _prepare_spawned(assigned: WorkerConfig) -> None:
    """Prepare a process that was not forked: it has none of what the run has patched.

    Django calls this there alone, once the project's settings can be read and before the
    connections are pointed at what the worker uses.
    """
    assigned.process_setup(*assigned.process_setup_args)
    patch_backends(runner_settings=assigned.settings)
    for alias, initial in (assigned.initial_settings or {}).items():
        # All of them at once: what is built in one may need another.
        connections[alias].settings_dict.update(initial)


def _creations() -> list[OwnDatabaseCreation]:
    creations = [connection.creation for connection in connections.all(initialized_only=True)]
    return [creation for creation in creations if isinstance(creation, OwnDatabaseCreation)]


def _places() -> dict[str, tuple[str, str]]:
    """Map the aliases for which this process has made something to its database and schema."""
    return {
        creation.connection.alias: (location.database, location.schema)
        for creation in _creations()
        if (location := creation.created_location) is not None
    }


def _own_databases() -> dict[str, str]:
    """Map aliases to the databases that this process has made for classes that share none."""
    return {
        creation.connection.alias: creation.own_database
        for creation in _creations()
        if creation.own_database is not None
    }
