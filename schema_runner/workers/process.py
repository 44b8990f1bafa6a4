"""A worker process: set up, run the assigned parts, clean up."""

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

from .. import forks
from ..connections import abandon_transactions, disconnect
from ..database.context import RunContext
from ..database.creation import WorkerCreation
from ..database.patching import patch_backends
from ..database.worker_database import WorkerDatabase, WorkerStart
from ..errors import SchemaRunnerError
from ..flush.hooks import import_management
from ..postgres import locks
from ..search_path import programs
from . import current
from .current import exit_with_parent, set_up_worker
from .debugger import WorkerDebugger
from .exceptions import exc_info
from .output import SqlLog
from .pipes import Receiver, Sender
from .protocol import (
    CreatingDatabase,
    Exiting,
    LogLine,
    Pipes,
    Ready,
    RunPart,
    Stop,
    WorkerConfig,
    WorkerFailed,
)
from .reporter import Reporter
from .results import prepare_class
from .sigterm import WorkerSignals


def run_worker(config: WorkerConfig, pipes: Pipes) -> None:
    """Run a worker; the target of its process."""
    for end in pipes:
        forks.close_in_child(end, Connection.close)
    # multiprocessing does not let daemonic processes have children, but tests may start some.
    multiprocessing.current_process().daemon = False
    if config.main is not None:
        # Without `exit_with_parent`, because a test could notice its thread.
        current.impersonate(config.main)
    else:
        exit_with_parent()
    if config.is_only_one or config.main is not None:
        # multiprocessing has replaced sys.stdin. No other process reads it, so debuggers can.
        with suppress(OSError):
            sys.stdin = os.fdopen(0, closefd=False)
    if config.is_silent:
        _redirect_to_devnull()
    # Keep what tests print if this process is killed, for example because of a leftover thread.
    stdout: Any = sys.stdout
    with suppress(AttributeError, ValueError):
        stdout.reconfigure(line_buffering=True)
    worker = _WorkerProcess(config, pipes)
    worker.install_interrupt_handler()
    worker.signals.handle()
    with worker.debugger.install():
        worker.run()


def _redirect_to_devnull() -> None:
    """Redirect stdin, stdout and stderr to /dev/null, also for programs that tests start."""
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(devnull, number)
    os.close(devnull)


class _WorkerProcess:
    def __init__(self, config: WorkerConfig, pipes: Pipes) -> None:
        self._config = config
        self._commands = Receiver(pipes.commands)
        self._is_ready = False
        self.signals = WorkerSignals(self._commands, self._is_stopped)
        self._reporter = Reporter(
            Sender(pipes.reports, blocking=True),
            pipes.wakeup,
            config,
            is_stopped=self._is_stopped,
        )
        self.debugger = WorkerDebugger(self._reporter, self._commands, config)

    def install_interrupt_handler(self) -> None:
        """Leave Ctrl-C, which reaches all processes, to the main process or a debugger."""
        if self._config.main is None:
            forks.handle_signal(signal.SIGINT, self.debugger.handle_interrupt)

    def run(self) -> None:
        try:
            self._set_up()
            while command := self._next_command():
                self._run_part(command)
        except BaseException as error:
            # For example a KeyboardInterrupt that a test raises: unittest does not catch it.
            is_expected = isinstance(error, SchemaRunnerError)
            self._send_if_possible(
                WorkerFailed(str(error) if is_expected else traceback.format_exc())
            )
        self._clean_up()
        self._send_if_possible(Exiting(_locations(), _own_databases()))

    def _send_if_possible(self, message: object) -> None:
        # A test may have closed all file descriptors.
        with suppress(OSError):
            self._send(message)

    def _send(self, message: object) -> None:
        self._reporter.send(message)
        self._reporter.wake_run()

    def _set_up(self) -> None:
        config = self._config
        for creation in _creations():
            # In a run inside a test, this process has inherited the state of the test's worker.
            creation.reset_after_fork()
        WorkerDatabase.start = WorkerStart(
            config.is_replacement,
            report_fallback=lambda alias, text: self._send(LogLine(text, alias)),
            report_creating=self._report_creating,
            log=self._log,
        )
        locks.set_lock_wait(locks.LockWait(config.settings.lock_timeout, self._log))
        with current.pretend_forked() if config.main is not None else nullcontext():
            config.init_worker(
                _Counter(config.number - 1),
                config.initial_settings,
                config.serialized_contents,
                _prepare_spawned,
                (config,),
                config.debug_mode,
                config.used_aliases,
            )
        if config.reports_sql:
            self._reporter.sql = SqlLog(shows_all=config.reports_all_sql)
            for connection in connections.all():
                connection.force_debug_cursor = True
        programs.export()
        if config.subsuites is None:
            # A forked worker has inherited the imports of the main process.
            import_management()
        set_up_worker(config.settings)
        self.debugger.close()
        self._send(Ready(_locations()))
        self._is_ready = True

    def _log(self, text: str) -> None:
        self._send(LogLine(text))

    def _report_creating(self, is_in_progress: bool) -> None:
        self.signals.is_deferred = is_in_progress
        self._send(CreatingDatabase(is_in_progress))
        # After Stop, the main process may kill this one before it has marked the database.
        if is_in_progress and not self._is_ready and self._is_stopped():
            raise SchemaRunnerError("The run has ended.")

    def _clean_up(self) -> None:
        for child in multiprocessing.active_children():
            # Left running by a test; multiprocessing would wait for it at exit.
            child.terminate()
        disconnect()
        for creation in _creations():
            # The main process drops what remains.
            with suppress(Exception):
                creation.tear_down(keep=self._config.keepdb)

    def _next_command(self) -> RunPart | None:
        """Wait for the next command; return None at the end of the run."""
        return None if self._is_stopped() else self._commands.next()

    def _is_stopped(self) -> bool:
        return any(isinstance(message, Stop) for message in self._commands.peek())

    def _run_part(self, command: RunPart) -> None:
        # A test that runs a suite may have replaced the handler.
        self.install_interrupt_handler()
        abandon_transactions()
        self._reporter.start_part(command.part)
        try:
            tests = self._load_tests(command)
        except Exception as error:
            self._report_error(f"part {command.part.subsuite}", error)
        else:
            test_class = type(tests[0])
            problem = prepare_class(test_class, self._config.settings.own_database)
            if problem is None:
                self._reporter.run_tests(tests)
            else:
                self._report_error(f"setUpClass ({strclass(test_class)})", problem)
        self._reporter.finish_part(is_last=len(self._commands.peek()) <= 1)

    def _report_error(self, name: str, error: Exception) -> None:
        self._reporter.report_fixture("addError", name, exc_info(error))

    def _load_tests(self, command: RunPart) -> list[Any]:
        if command.tests is not None:
            tests: list[Any] = pickle.loads(command.tests)  # noqa: S301
            return tests
        assert self._config.subsuites is not None
        subsuite = self._config.subsuites[command.part.subsuite]
        tests = [subsuite[position] for position in command.part.positions]
        for position in command.part.positions:
            # Release the test cases when the part has run, as unittest does with those that ran.
            subsuite[position] = None
        return tests


class _Counter:
    """The counter from which Django's `init_worker` takes the worker's number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def get_lock(self) -> AbstractContextManager[None]:
        return nullcontext()


def _prepare_spawned(config: WorkerConfig) -> None:
    """Patch a process that was not forked.

    Django calls this only in spawned processes, before it points connections at the worker's
    databases.
    """
    config.process_setup(*config.process_setup_args)
    # The process has no log of its own: `WorkerStart` has one.
    patch_backends(RunContext(config.settings, print), {})
    for alias, initial in (config.initial_settings or {}).items():
        # All aliases first: building one database may use another.
        connections[alias].settings_dict.update(initial)


def _creations() -> list[WorkerCreation]:
    creations = [connection.creation for connection in connections.all(initialized_only=True)]
    return [creation for creation in creations if isinstance(creation, WorkerCreation)]


def _locations() -> dict[str, tuple[str, str]]:
    """Return the database and schema that this process has created, by alias."""
    return {
        creation.connection.alias: (location.database, location.schema)
        for creation in _creations()
        if (location := creation.worker_database.created) is not None
    }


def _own_databases() -> dict[str, str]:
    """Return the databases that this process has created for `own_database` classes, by alias."""
    return {
        creation.connection.alias: name
        for creation in _creations()
        if (name := creation.own_database.created_name) is not None
    }
