"""The worker that this process is, as tests see it."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from django.db import DEFAULT_DB_ALIAS, connections

from ..settings import Settings, call

# The thread that every worker has besides those of its tests.
WATCHER = "schema_runner, waiting for the run to end"


class Worker(NamedTuple):
    """The worker that runs the tests of this process.

    `number` counts from 1. `database` and `schema` are where the tables of the default alias
    are, or of the first alias if the tests do not use the default one: the two together are
    nobody else's. `schemas` maps each PostgreSQL alias to its schema, which is `public` where
    the worker has a clone database.
    """

    number: int
    database: str
    schema: str
    schemas: Mapping[str, str]


def current_worker() -> Worker | None:
    """Return the worker that this process is; None where no run of ours has begun.

    Without --parallel the one process that runs the tests is worker 1.
    """
    from ..search_path import Locations

    number, found = None, {}
    for alias in connections:
        locations = Locations.of(connections[alias].settings_dict)
        if locations is not None and locations.location is not None:
            number, found[alias] = locations.worker, locations.location
    if number is None:
        return None
    first = found[DEFAULT_DB_ALIAS if DEFAULT_DB_ALIAS in found else next(iter(found))]
    schemas = {alias: location.schema for alias, location in found.items()}
    return Worker(number, first.database, first.schema, schemas)


def set_up_worker(settings: Settings) -> None:
    """Call what WORKER_SETUP names, each with this process's Worker."""
    if settings.worker_setup and (worker := current_worker()) is not None:
        for path in settings.worker_setup:
            call("WORKER_SETUP", path, worker)


def end_with_parent() -> None:
    """End this process when the one that started it dies, however that dies."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_exit, args=[parent], name=WATCHER, daemon=True).start()


def _wait_and_exit(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    # Not sys.exit: nothing in this process is worth waiting for, and nobody listens.
    os._exit(1)


Process: TypeAlias = multiprocessing.process.BaseProcess


def look_like(main: Process) -> None:
    """Be that process, as far as Python tells."""
    module: Any = multiprocessing.process
    module._current_process, module._parent_process = main, None


@contextmanager
def seeming_forked() -> Iterator[None]:
    """Let Django's set-up of a worker see that this one was forked, where others are not."""
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)
