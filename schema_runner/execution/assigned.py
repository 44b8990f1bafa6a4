"""What a worker process is given as it starts."""

import unittest
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..settings import Settings
from .main_process import Process


class Assigned(NamedTuple):
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
