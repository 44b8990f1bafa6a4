"""The current process as a worker."""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import django
from django.db import DEFAULT_DB_ALIAS, connections

from ..settings import Settings, call

# The name of the thread that waits for the main process to exit.
PARENT_WATCHER = "schema_runner parent watcher"


class Worker(NamedTuple):
    """The worker that runs the tests of this process.

    `number`: the worker's number, from 1.
    `database`, `schema`: where the tables of the default alias are, or of the first alias if the
    tests do not use the default one. No other worker has the same pair.
    `schemas`: the schema of each PostgreSQL alias; `public` if the worker uses a clone database.
    """

    number: int
    database: str
    schema: str
    schemas: Mapping[str, str]


def current_worker() -> Worker | None:
    """Return the worker of this process, or None outside a run of this package.

    Without --parallel, the process that runs the tests is worker 1.
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
    """Call each callable of WORKER_SETUP with the Worker of this process."""
    if settings.worker_setup and (worker := current_worker()) is not None:
        for path in settings.worker_setup:
            call("WORKER_SETUP", path, worker)


def exit_with_parent() -> None:
    """Exit when the parent process exits, even if it is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=_exit_after, args=[parent], name=PARENT_WATCHER, daemon=True
        ).start()


def _exit_after(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    # Not sys.exit, which would only end this thread.
    os._exit(1)


Process: TypeAlias = multiprocessing.process.BaseProcess


def impersonate(main: Process) -> None:
    """Make multiprocessing report `main` as the current process, without a parent."""
    module: Any = multiprocessing.process
    module._current_process, module._parent_process = main, None


@contextmanager
def pretend_forked() -> Iterator[None]:
    """Set the start method to "fork", so that Django does not set up this process as spawned."""
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)


def avoid_forkserver() -> None:
    """Use fork instead of forkserver with Django 5.2, which hangs with the latter.

    forkserver is the default on Linux since Python 3.14.
    """
    if django.VERSION < (6, 0):
        # Without allow_none, the call would fix the start method, and tests could not set it.
        method = multiprocessing.get_start_method(allow_none=True)
        if (method or multiprocessing.get_all_start_methods()[0]) == "forkserver":
            multiprocessing.set_start_method("fork", force=True)
