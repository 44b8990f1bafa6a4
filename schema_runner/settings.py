"""The `SCHEMA_RUNNER` setting, read once into one value."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from .errors import SchemaRunnerError

STRATEGIES = ("migrate",)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `SCHEMA_RUNNER` says, checked; every default is here."""

    strategy: str = "migrate"
    fixtures: tuple[str, ...] = ()
    seeders: tuple[str, ...] = ()
    worker_setup: tuple[str, ...] = ()

    @classmethod
    def read(cls) -> Self:
        """Read Django's settings.

        Raises SchemaRunnerError for an unknown key, a value of the wrong type, an unknown
        strategy and a dotted path that leads to nothing callable.
        """
        given = getattr(django_settings, "SCHEMA_RUNNER", {})
        if not isinstance(given, dict):
            raise SchemaRunnerError("SCHEMA_RUNNER must be a dict.")
        keys = {field.name.upper(): field.name for field in fields(cls)}
        if unknown := sorted(str(key) for key in given if key not in keys):
            raise SchemaRunnerError(
                f"Unknown key in SCHEMA_RUNNER: {', '.join(unknown)}. "
                f"The keys are {', '.join(sorted(keys))}."
            )
        values: dict[str, Any] = {
            keys[key]: value if key == "STRATEGY" else _paths(key, value)
            for key, value in given.items()
        }
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SchemaRunnerError(
                f'Unknown SCHEMA_RUNNER["STRATEGY"] {self.strategy!r}; '
                f"use one of {', '.join(map(repr, STRATEGIES))}."
            )
        for path in self.seeders:
            load_callable("SEEDERS", path)
        for path in self.worker_setup:
            load_callable("WORKER_SETUP", path)


def load_callable(key: str, path: str) -> Callable[..., object]:
    """Import what the dotted `path` in `SCHEMA_RUNNER[key]` names."""
    try:
        found: object = import_string(path)
    except ImportError as error:
        raise SchemaRunnerError(
            f'SCHEMA_RUNNER["{key}"] names {path!r}, which cannot be imported: {error}'
        ) from error
    if not callable(found):
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] names {path!r}, which is not callable.')
    return found


def _paths(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] must be a list of strings.')
    return tuple(value)
