"""A Django test runner that gives every parallel worker its own PostgreSQL schema."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import SchemaRunnerError
    from .execution.worker import Worker, current_worker
    from .runner import SchemaDiscoverRunner, SchemaRunnerMixin

__all__ = [
    "SchemaDiscoverRunner",
    "SchemaRunnerError",
    "SchemaRunnerMixin",
    "Worker",
    "current_worker",
]

_MODULES = {
    "SchemaDiscoverRunner": "runner",
    "SchemaRunnerError": "errors",
    "SchemaRunnerMixin": "runner",
    "Worker": "execution.worker",
    "current_worker": "execution.worker",
}


def __getattr__(name: str) -> Any:
    # Lazy: settings files import from this package, and a test runner cannot be imported
    # before there are settings.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
