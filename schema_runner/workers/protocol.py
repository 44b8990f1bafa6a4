"""The messages between the main process and its workers, and a worker's configuration."""

import time
import unittest
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..connections import reset_totals
from ..scheduling.queue import Part
from ..settings import Settings
from .current import Process


class ResourceUsage(NamedTuple):
    """Wall-clock and processor time in seconds, and the number and time of resets."""

    time: float
    processor_time: float
    resets: int
    reset_time: float

    def since(self, before: "ResourceUsage") -> "ResourceUsage":
        return ResourceUsage(
            self.time - before.time,
            self.processor_time - before.processor_time,
            self.resets - before.resets,
            self.reset_time - before.reset_time,
        )


def resource_usage() -> ResourceUsage:
    """Return the usage of this process since a fixed point in time."""
    return ResourceUsage(time.perf_counter(), time.process_time(), *reset_totals())


class RunPart(NamedTuple):
    """Run a part.

    `tests`: its pickled test cases; None for a forked worker, which has inherited them.
    """

    part: Part
    tests: bytes | None


class Stop(NamedTuple):
    """Finish the running test, if any, then clean up and exit."""


class TerminalLent(NamedTuple):
    """The worker has the terminal until it sends `TerminalRequest(None)`."""


class Ready(NamedTuple):
    """The worker is set up.

    `locations`: the database and schema that it has created, by alias.
    """

    locations: dict[str, tuple[str, str]]


class DatabaseFallback(NamedTuple):
    """The worker uses a database instead of a schema for an alias.

    `text`: a line that the run logs once.
    """

    alias: str
    text: str


class CreatingDatabase(NamedTuple):
    """The worker is about to create a database (`is_in_progress`), or has marked it."""

    is_in_progress: bool


class LogLine(NamedTuple):
    """A line to log."""

    text: str


class TerminalRequest(NamedTuple):
    """A debugger needs the terminal, or with None no longer needs it.

    `test_id`: the running test, or "" outside of tests.
    """

    test_id: str | None


class WorkerFailed(NamedTuple):
    """The worker is about to exit: its set-up failed, or a test raised a BaseException."""

    text: str


class PartStarted(NamedTuple):
    """The worker starts a part, with the set-up of its class."""

    key: int


class TestStarted(NamedTuple):
    """A test has started.

    `time`: seconds since the Unix epoch.
    """

    key: int
    position: int
    time: float


class TimeoutSet(NamedTuple):
    """The timeout of what the worker does next, in seconds; None for no timeout."""

    seconds: float | None


class TestFinished(NamedTuple):
    """A test has ended, including its fixtures and flush.

    `events`: the calls of the result's methods; `is_encoded` if `exceptions.decode` must decode
    them.
    `duration`: seconds.
    """

    key: int
    position: int
    events: list[tuple[Any, ...]]
    is_encoded: bool
    outcome: str
    duration: float


class FixtureResult(NamedTuple):
    """A result for the fixtures of a class or module.

    `method`, `arguments`: the method of the result to call.
    `name`: such as `setUpClass (library.test_books.BookTests)`.
    `sql`: the SQL of the fixtures, with --debug-sql.
    """

    method: str
    name: str
    arguments: tuple[Any, ...]
    sql: str = ""


class PartFinished(NamedTuple):
    """A part has ended.

    `time`: start time in seconds since the Unix epoch. For the other fields see
    `events.ClassFinished`.
    """

    key: int
    time: float
    usage: ResourceUsage
    keeps_state: bool | None
    changed_outside: tuple[str, ...]


class Exiting(NamedTuple):
    """The worker has cleaned up and is about to exit.

    `locations`: as in `Ready`, of what is kept.
    `own_databases`: the databases created for `own_database` classes, by alias.
    """

    locations: dict[str, tuple[str, str]]
    own_databases: dict[str, str]


class WorkerConfig(NamedTuple):
    """The configuration of a worker process. All of it can be pickled except `subsuites`.

    `is_only_one`: whether the run has no other worker.
    `is_silent`: redirect stdin, stdout and stderr to /dev/null.
    `main`: the main process, if this forked process must look like it to its tests; else None.
    `may_prompt`: whether a debugger can get the terminal.
    `command`: the shell command that runs the test TEST_PLACEHOLDER without workers.
    `reports_sql`, `reports_all_sql`: report the SQL of failing tests, or of all tests.
    `reports_subtests`: report passing subtests too.
    `suite_class`: the class of the subsuites.
    `subsuites`: the test cases of each subsuite for a forked process; None for others, which get
    test cases with each RunPart.

    The other fields are those of Django's ParallelTestSuite and test runners.
    """

    number: int
    is_replacement: bool
    is_only_one: bool
    is_silent: bool
    main: Process | None
    may_prompt: bool
    reports_sql: bool
    reports_all_sql: bool
    command: str
    settings: Settings
    keepdb: bool
    init_worker: Callable[..., None]
    initial_settings: Mapping[str, Any] | None
    serialized_contents: Mapping[str, str] | None
    process_setup: Callable[..., None]
    process_setup_args: tuple[Any, ...]
    debug_mode: bool
    used_aliases: Any
    runner_class: Any
    suite_class: type[unittest.TestSuite]
    failfast: bool
    buffer: bool
    tb_locals: bool
    reports_subtests: bool
    subsuites: list[list[Any]] | None


class Pipes(NamedTuple):
    """The worker's ends of its pipes.

    `commands`: messages to the worker.
    `reports`: messages from the worker.
    `wakeup`: bytes that wake up the main process to read `reports`, or the stacks of a worker that
    ignores its timeout.
    """

    commands: Connection
    reports: Connection
    wakeup: Connection
