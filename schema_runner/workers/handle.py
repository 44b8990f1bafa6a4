"""The main process's side of the worker processes: their start and their state."""

import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from django.db import connections

from .. import forks
from ..database.creation import WorkerCreation
from ..scheduling.queue import Part
from .pipes import Receiver, Sender
from .process import run_worker
from .protocol import LogLine, Pipes, RunPart, WorkerConfig
from .sigterm import block_signals
from .timeouts import GRACE

# Seconds that the main process waits beyond `GRACE`, so that the worker acts on its timeout first,
# even on a busy machine.
_TIMEOUT_MARGIN = 2.0


@dataclass(slots=True)
class WorkerHandle:
    """The main process's side of a worker process.

    `started`: monotonic time.
    `parts`: the parts assigned to the worker; it is running the first.
    `stage`: the highest stage among the parts assigned so far.
    """

    number: int
    process: Any
    commands: Sender
    reports: Receiver
    wakeup: Receiver
    is_replacement: bool
    started: float
    parts: deque[Part] = field(default_factory=deque)
    # The current part: whether its set-up has started, and the positions of the running test and
    # of the finished ones.
    has_started_part: bool = False
    running: int | None = None
    finished: set[int] = field(default_factory=set)
    stage: int = 0
    is_ready: bool = False
    creates_database: bool = False
    is_stopping: bool = False
    is_exiting: bool = False
    exit_deadline: float | None = None
    # Monotonic time at which the worker is killed for exceeding a timeout.
    timeout_deadline: float | None = None
    is_overdue: bool = False
    is_killed: bool = False
    # What the worker reported before it exited: its error, or the stacks of its threads.
    error: str = ""
    thread_dump: str = ""

    def reset_part(self, *, has_started: bool) -> None:
        """Record that the worker has started its first part, or not yet."""
        self.has_started_part = has_started
        self.running, self.finished = None, set()

    @property
    def is_past_deadline(self) -> bool:
        """Whether the process should have exited by now."""
        return self.exit_deadline is not None and time.monotonic() > self.exit_deadline

    def set_timeout(self, seconds: float | None) -> None:
        """Record the timeout of what the worker does next, in seconds; None for no timeout."""
        self.timeout_deadline = None
        if seconds is not None:
            self.timeout_deadline = time.monotonic() + seconds + GRACE + _TIMEOUT_MARGIN

    @property
    def has_timed_out(self) -> bool:
        """Whether the process ended because of a timeout."""
        return bool(self.thread_dump) or self.is_overdue

    @property
    def is_before_first_test(self) -> bool:
        """Whether no test of the current part has started."""
        return bool(self.parts) and self.running is None and not self.finished

    @property
    def waitables(self) -> list[Any]:
        """The objects for `multiprocessing.connection.wait`."""
        waitables = [] if self.wakeup.is_at_eof else [self.wakeup.connection]
        return [*waitables, self.process.sentinel]

    @property
    def is_disconnected(self) -> bool:
        """Whether the worker has closed a pipe, so that no more messages can arrive."""
        return self.wakeup.is_at_eof or self.reports.is_at_eof

    def receive(self) -> list[Any]:
        """Return the messages that have arrived."""
        text = self.wakeup.read_bytes().decode(errors="replace")
        # Wake-ups, single dots, come before the stacks.
        self.thread_dump += text if self.thread_dump else text.lstrip(".")
        return [message for messages in self.reports.receive() for message in messages]

    @property
    def not_started(self) -> list[int]:
        """The positions of the tests in the current part that have not started."""
        part = self.parts[0]
        return [p for p in part.positions if p != self.running and p not in self.finished]

    @property
    def cause(self) -> str:
        """Why the process ended, as a predicate: "ended with exit code 3."."""
        if self.thread_dump:
            return f"ignored its timeout and was terminated. Its threads:\n\n{self.thread_dump}"
        if self.is_overdue:
            return (
                "ignored its timeout and was killed. It did not report its threads; it may have "
                "been stopped (SIGSTOP)."
            )
        if self.error:
            return f"failed.\n\n{self.error}"
        code: int = self.process.exitcode
        if code >= 0:
            return f"ended with exit code {code}."
        names = {int(number): number.name for number in signal.Signals}
        return f"was killed by signal {-code} ({names.get(-code, 'unknown')})."

    def send(self, message: object) -> None:
        with suppress(OSError):
            # If the process has died, the sentinel will report it.
            self.commands.send(message)

    def flush(self) -> None:
        """Send what did not fit into the pipe before."""
        with suppress(OSError):
            self.commands.flush()

    def kill(self) -> None:
        self.is_killed = True
        self.process.kill()

    def close(self) -> None:
        """Release the process and its pipes; kill the process first if it is alive."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        for pipe in (self.commands, self.reports, self.wakeup):
            pipe.connection.close()
        self.process.close()


class WorkerPool:
    """Starts worker processes, and does for them what only the main process can.

    `config`: the configuration of worker 1; other workers differ only in their number.
    `tests`: the test cases of each subsuite.
    """

    def __init__(self, config: WorkerConfig, tests: Sequence[Sequence[Any]]) -> None:
        self._config = config
        self._tests = tests
        # The aliases whose fallback to databases has been logged.
        self._fallbacks: set[str] = set()
        self._is_forked = config.main is not None or multiprocessing.get_start_method() == "fork"
        if not self._is_forked:
            from multiprocessing import resource_tracker

            # If the tracker started later, it would unblock what `block_signals` blocks.
            resource_tracker.ensure_running()

    def as_main_process(self) -> "WorkerPool":
        """Return a pool whose processes look like the main process to their tests."""
        config = self._config._replace(main=multiprocessing.current_process())
        return WorkerPool(config, self._tests)

    @property
    def keeps_schemas(self) -> bool:
        """Whether schemas are kept for later runs."""
        return self._config.keepdb

    def log(self, line: LogLine, log: Callable[[str], None]) -> None:
        """Log a line; all workers fall back for the same reason, and replacements do too."""
        if line.fallback not in self._fallbacks:
            log(line.text)
        if line.fallback:
            self._fallbacks.add(line.fallback)

    def start(self, number: int, *, is_replacement: bool) -> WorkerHandle:
        """Start a worker process."""
        config = self._config._replace(number=number, is_replacement=is_replacement)
        if self._is_forked:
            config = config._replace(subsuites=[list(tests) for tests in self._tests])
        commands, command_end = multiprocessing.Pipe(duplex=False)
        report_end, reports = multiprocessing.Pipe(duplex=False)
        wakeup_end, wakeup = multiprocessing.Pipe(duplex=False)
        # A pipe reaches EOF only when no other worker has inherited it.
        for end in (command_end, report_end, wakeup_end):
            forks.close_in_child(end, Connection.close)
        context: Any = multiprocessing.get_context("fork" if self._is_forked else None)
        process = context.Process(
            target=run_worker,
            args=(config, Pipes(commands, reports, wakeup)),
            name=f"worker {number}",
            # multiprocessing terminates it when the main process exits.
            daemon=True,
        )
        started = time.monotonic()
        with block_signals():
            process.start()
        for end in (commands, reports, wakeup):
            end.close()
        return WorkerHandle(
            number,
            process,
            Sender(command_end, blocking=False),
            Receiver(report_end),
            Receiver(wakeup_end),
            is_replacement,
            started,
        )

    def command_for(self, part: Part) -> RunPart:
        """Return the command that runs a part; raise if its tests cannot be pickled."""
        if self._is_forked:
            return RunPart(part, None)
        tests = self._tests[part.subsuite]
        return RunPart(part, pickle.dumps([tests[position] for position in part.positions]))

    def prepare_replacement(self, number: int) -> None:
        """Clone databases again for a dead worker's replacement, which cannot do so itself."""
        used = self._config.used_aliases
        for alias in connections if used is None else used:
            connection = connections[alias]
            creation = connection.creation
            if isinstance(creation, WorkerCreation):
                creation.replace_clone(number)
            elif not connection.settings_dict["TEST"]["MIRROR"]:
                creation._clone_test_db(str(number), verbosity=0, keepdb=False)  # type: ignore[attr-defined]

    def record_own_databases(self, own_databases: dict[str, str]) -> None:
        """Count the databases that a worker created for `own_database` classes, by alias."""
        for alias, name in own_databases.items():
            creation: Any = connections[alias].creation
            creation.context.usage.add(name, "public")

    def record_locations(self, number: int, locations: dict[str, tuple[str, str]]) -> None:
        """Record the database and schema that a worker has created, by alias."""
        for alias, (database, schema) in locations.items():
            creation: Any = connections[alias].creation
            creation.test_database.record_location(number, database=database, schema=schema)
