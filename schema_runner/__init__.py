"""A Django test runner that gives each parallel worker its own PostgreSQL schema."""

import sys
from typing import TYPE_CHECKING, Any

from .errors import WINDOWS, SchemaRunnerError

if TYPE_CHECKING:
    from .decorators import own_database, retries, serial, timeout
    from .errors import TestTimeoutError, WorkerError
    from .events import (
        ClassFinished,
        Finished,
        FixtureFailed,
        Outcome,
        Started,
        WorkerReady,
    )
    from .runner import SchemaDiscoverRunner, SchemaRunnerMixin
    from .suite import SchemaParallelTestSuite
    from .workers.current import Worker, current_worker

__all__ = [
    "ClassFinished",
    "Finished",
    "FixtureFailed",
    "Outcome",
    "SchemaDiscoverRunner",
    "SchemaParallelTestSuite",
    "SchemaRunnerError",
    "SchemaRunnerMixin",
    "Started",
    "TestTimeoutError",
    "Worker",
    "WorkerError",
    "WorkerReady",
    "current_worker",
    "own_database",
    "retries",
    "serial",
    "timeout",
]

_MODULES = {
    "ClassFinished": "events",
    "Finished": "events",
    "FixtureFailed": "events",
    "Outcome": "events",
    "SchemaDiscoverRunner": "runner",
    "SchemaParallelTestSuite": "suite",
    "SchemaRunnerMixin": "runner",
    "Started": "events",
    "TestTimeoutError": "errors",
    "Worker": "workers.current",
    "WorkerError": "errors",
    "WorkerReady": "events",
    "current_worker": "workers.current",
    "own_database": "decorators",
    "retries": "decorators",
    "serial": "decorators",
    "timeout": "decorators",
}
# These cannot be imported on Windows. The others can, so that test modules load there too.
_RUN_MODULES = {"suite", "runner"}


def __getattr__(name: str) -> Any:
    # Lazy, because settings files import from this package, and Django's test runner cannot be
    # imported before the settings are configured.
    if name not in _MODULES:
        raise AttributeError(_missing_attribute(name))
    from importlib import import_module

    if sys.platform == "win32" and _MODULES[name] in _RUN_MODULES:
        raise SchemaRunnerError(WINDOWS)
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def _missing_attribute(name: str) -> str:
    message = f"module {__name__!r} has no attribute {name!r}"
    if not name[:1].isupper():
        # `from schema_runner import runner` comes here too, before Python imports the submodule.
        return message
    from .errors import did_you_mean

    return f"{message}. {did_you_mean(name, __all__)}".rstrip(". ")
