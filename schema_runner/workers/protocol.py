"""The messages between the run and its worker processes, and what a worker is started with."""

import time
import unittest
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..connections import reset_totals
from ..scheduling.queue import Part
from ..settings import Settings
from .current import Process


class Cost(NamedTuple):
    """Times in seconds, of a clock and of the process, and how many resets there were."""

    time: float
    processor_time: float
    resets: int
    reset_time: float

    def since(self, before: "Cost") -> "Cost":
        return Cost(
            self.time - before.time,
            self.processor_time - before.processor_time,
            self.resets - before.resets,
            self.reset_time - before.reset_time,
        )


def cost_so_far() -> Cost:
    """Return what this process has spent since some moment, which is always the same one."""
    return Cost(time.perf_counter(), time.process_time(), *reset_totals())


class RunPart(NamedTuple):
    """Run a part. `tests` is its pickled test cases; None for a worker that has them already."""

    part: Part
    tests: bytes | None


class Stop(NamedTuple):
    """Finish the test under way, if any, then clean up and end."""


class TerminalLent(NamedTuple):
    """The terminal is this worker's until it says that the debugger is over."""


class Ready(NamedTuple):
    """A worker is set up. `places` maps aliases to the database and the schema it has made."""

    places: dict[str, tuple[str, str]]


class UsesDatabases(NamedTuple):
    """Workers have databases of their own for an alias; `text` is for the log, once a run."""

    alias: str
    text: str


class Creates(NamedTuple):
    """A worker is about to create a database, or has marked it."""

    is_under_way: bool


class Said(NamedTuple):
    """A line for the log."""

    text: str


class Debugs(NamedTuple):
    """A debugger wants the terminal, in the test of that name if in any; None: it is over."""

    name: str | None


class Failed(NamedTuple):
    """Why a worker is about to end: it could not be set up, or a test has broken out."""

    text: str


class Entered(NamedTuple):
    """A worker sets up the class of a part."""

    key: int


class Begun(NamedTuple):
    """A test has begun, with what its class does before it; `time` is since the Unix epoch."""

    key: int
    position: int
    time: float


class Limited(NamedTuple):
    """What follows may take so many seconds; None for no limit."""

    seconds: float | None


class PartFinished(NamedTuple):
    """Everything about a test is over. `events` are for a result, maybe encoded by `raised`."""

    key: int
    position: int
    events: list[tuple[Any, ...]]
    is_encoded: bool
    outcome: str
    duration: float


class ProjectChanged(NamedTuple):
    """What became of the fixtures of a class or a module: a method, their name, arguments, SQL."""

    method: str
    name: str
    arguments: tuple[Any, ...]
    sql: str = ""


class Left(NamedTuple):
    """A part is over, which began at `time` and has taken so much; see `ClassFinished`."""

    key: int
    time: float
    cost: Cost
    keeps_state: bool | None
    changed_outside: tuple[str, ...]


class Gone(NamedTuple):
    """A worker has cleaned up and is about to end. `places` are as in Ready, if they are kept.

    `own_databases` maps aliases to what it has made for classes that share no database.
    """

    places: dict[str, tuple[str, str]]
    own_databases: dict[str, str]


class WorkerConfig(NamedTuple):
    """What a process is told as it starts; all of it can be pickled but `subsuites`.

    `subsuites` lists the test cases of each for a process that is forked, and is None for one
    that gets them with its orders. Of one that `is_silent` nothing is seen that its tests print,
    and they read nothing. One that has a `main` process, and is forked, looks to them like that.
    In one that `may_prompt` a debugger can have the terminal; `command` runs TEST without workers.
    Attributes that Django's suite has too mean what they mean there.
    """

    number: int
    is_replacement: bool
    is_only_one: bool
    is_silent: bool
    main: Process | None
    may_prompt: bool
    # Whether the SQL of tests is told, and whether that of all of them.
    tells_sql: bool
    tells_all_sql: bool
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
    # That of the subsuites, which a runner may have chosen.
    suite_class: type[unittest.TestSuite]
    failfast: bool
    buffer: bool
    tb_locals: bool
    tells_subtests: bool
    subsuites: list[list[Any]] | None


class Pipes(NamedTuple):
    """A worker's ends: what it is told, what it tells, and the bell that has this looked at."""

    orders: Connection
    reports: Connection
    bell: Connection
