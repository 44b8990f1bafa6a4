"""Importing each app's `management` package, which registers handlers of signals."""

from contextlib import suppress
from importlib import import_module

from django.apps import apps
from django.utils.module_loading import module_has_submodule

# The apps that have been looked at in this process, or before it was forked.
_seen: set[str] = set()


def import_management(*ignored: type[Exception]) -> None:
    """Import what `migrate` and `flush` import first; do it where neither of them runs.

    `migrate` lets errors through, and `flush` ignores an ImportError.
    """
    for config in apps.get_app_configs():
        if config.name not in _seen:
            _seen.add(config.name)
            if module_has_submodule(config.module, "management"):
                with suppress(*ignored):
                    import_module(".management", config.name)
