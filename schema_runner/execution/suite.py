"""The parallel part of a suite."""

import traceback
import unittest
from collections.abc import Callable
from typing import Any, ClassVar

from django.test.runner import ParallelTestSuite

from ..backend.creation import disconnect
from ..backend.installation import install
from ..errors import SchemaRunnerError
from ..settings import Settings
from .worker import end_with_parent, set_up_worker


def _start_worker(  # noqa: PLR0913, PLR0917
    counter: Any,
    initial_settings: Any = None,
    serialized_contents: Any = None,
    process_setup: Callable[..., None] | None = None,
    process_setup_args: Any = None,
    debug_mode: Any = None,
    used_aliases: Any = None,
) -> None:
    """Do what stock Django does as a worker starts, in the worker's own schema."""
    end_with_parent()
    try:
        ParallelTestSuite.init_worker(
            counter,
            initial_settings,
            serialized_contents,
            _process_setup,
            (process_setup, process_setup_args or ()),
            debug_mode,
            used_aliases,
        )
        # The run has settled how to isolate, with options that are not known here.
        set_up_worker(Settings.read(isolation="schema"))
    except Exception:
        # multiprocessing.Pool would start a worker that fails here over and over, and waits for
        # ever for an exception that cannot be unpickled: keep the text.
        SchemaParallelTestSuite.set_up_error = traceback.format_exc()


def _process_setup(process_setup: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    """Prepare a process that was not forked: it has none of what the parent has patched.

    Django calls this there alone, once the project's settings can be read and before the
    connections are pointed at what the worker uses.
    """
    if process_setup:
        process_setup(*args)
    install()


def _run_or_raise(args: Any) -> Any:
    if SchemaParallelTestSuite.set_up_error is not None:
        raise SchemaRunnerError(
            f"A worker could not be set up.\n{SchemaParallelTestSuite.set_up_error}"
        )
    return ParallelTestSuite.run_subsuite(args)


class SchemaParallelTestSuite(ParallelTestSuite):
    """Stock Django's suite, whose workers use worker schemas and end with the run."""

    init_worker = _start_worker
    run_subsuite = _run_or_raise

    # In a worker whose set-up failed: why. The first tests it is given report it.
    set_up_error: ClassVar[str | None] = None

    def run(self, result: unittest.TestResult, debug: bool = False) -> Any:
        # Workers buffer. Where the main process does so too, an error in setUpClass breaks
        # off the run: https://code.djangoproject.com/ticket/36491 (until Django 6.0).
        result.buffer = False
        # A forked worker must not find a connection, or a pool of them, that its parent uses.
        disconnect()
        return super().run(result)
