"""The messages between the main process and its workers, and a worker's configuration."""

import unittest
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..events import ClassFinished
from ..scheduling.queue import Part
from ..settings import Settings
from .current import Process


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


class CreatingDatabase(NamedTuple):
    """The worker is about to create a database (`is_in_progress`), or has marked it."""

    is_in_progress: bool


class LogLine(NamedTuple):
    """A line to log; once for all workers, if it is about databases instead of schemas.

    `fallback`: the alias of these databases.
    """

    text: str
    fallback: str = ""


class TerminalRequest(NamedTuple):
    """A debugger needs the terminal, or with None no longer needs it.

    `test_id`: the running test, or "" outside of tests.
    """

    test_id: str | None


class WorkerFailed(NamedTuple):
    """The worker is about to exit: its set-up failed, or a test raised a BaseException."""

    text: str


class PartStarted(NamedTuple):
    """The worker starts the first of its parts, with the set-up of its class."""


class TestStarted(NamedTuple):
    """A test of the current part has started.

    `time`: seconds since the Unix epoch.
    """

    position: int
    time: float


class TimeoutSet(NamedTuple):
    """The timeout of what the worker does next, in seconds; None for no timeout."""

    seconds: float | None


class TestFinished(NamedTuple):
    """A test has ended, including its fixtures and flush.

    `events`: the calls of the result's methods, for `exceptions.decode`.
    `duration`: seconds.
    """

    position: int
    events: list[tuple[Any, ...]]
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

    `event`: without the name of the class and the attempt, which the main process knows.
    """

    event: ClassFinished


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
