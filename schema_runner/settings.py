"""The `SCHEMA_RUNNER` setting, read once into one value."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from .errors import SchemaRunnerError

# What the keys that name one of several ways may name.
CHOICES = {
    "STRATEGY": ("template", "migrate"),
    "ISOLATION": ("schema", "database"),
    "HOST_DATABASE": ("test", "current"),
    "RESET": ("selective", "reference", "django"),
}


class Settings(NamedTuple):
    """What `SCHEMA_RUNNER` says, checked; every default is here."""

    strategy: str = "template"
    isolation: str = "schema"
    host_database: str = "test"
    reset: str = "selective"
    isolate_advisory_locks: bool = True
    fixtures: tuple[str, ...] = ()
    seeders: tuple[str, ...] = ()
    worker_setup: tuple[str, ...] = ()
    trusted_migrations: tuple[str, ...] = ()
    trusted_models: tuple[str, ...] = ()
    expected_changes: tuple[str, ...] = ()
    pg_dump: str | None = None
    snapshot_dir: str | None = None
    fingerprint: tuple[str, ...] = ()
    keep: bool = False
    keep_days: float = 7.0
    keep_pools: int = 4
    serial: tuple[str, ...] = ()
    own_database: tuple[str, ...] = ()
    test_timeout: float | None = None
    retries: int = 0
    history_dir: str | None = ".schema_runner"
    lock_timeout: float = 60.0

    @classmethod
    def read(cls, **options: str | float | None) -> Self:
        """Read Django's settings; an option of the command line that is given wins over them.

        Raises SchemaRunnerError for an unknown key, a value of the wrong type, an unknown
        choice and a dotted path that leads to nothing callable.
        """
        given = getattr(django_settings, "SCHEMA_RUNNER", {})
        if not isinstance(given, dict):
            raise SchemaRunnerError("SCHEMA_RUNNER must be a dict.")
        keys = {name.upper(): name for name in cls._fields}
        if unknown := sorted(str(key) for key in given if key not in keys):
            raise SchemaRunnerError(
                f"Unknown key in SCHEMA_RUNNER: {', '.join(unknown)}. "
                f"The keys are {', '.join(sorted(keys))}."
            )
        values = {keys[key]: _checked(key, value) for key, value in given.items()}
        given = {name: value for name, value in options.items() if value is not None}
        settings = cls(**{**values, **given})
        settings._check()
        return settings

    def _check(self) -> None:
        for path in self.seeders:
            load_callable("SEEDERS", path)
        for path in self.worker_setup:
            load_callable("WORKER_SETUP", path)
        for path in self.fingerprint:
            load_callable("FINGERPRINT", path)
        if self.isolation == "database" and self.host_database == "current":
            raise SchemaRunnerError(
                "Isolation by databases makes new databases, and host database "
                "'current' allows none: give --isolation schema or --host-database test."
            )


def project_root() -> str:
    """Return the folder of the settings module's top package; else the working directory."""
    module: str | None = getattr(django_settings, "SETTINGS_MODULE", None)
    top: Any = sys.modules.get(module.split(".")[0]) if module else None
    if folders := [str(folder) for folder in getattr(top, "__path__", ())]:
        return os.path.dirname(os.path.abspath(folders[0]))
    file: str | None = getattr(top, "__file__", None)
    return os.path.dirname(os.path.abspath(file)) if file else os.path.abspath(os.getcwd())


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


def _checked(key: str, value: object) -> Any:
    if check := _CHECKS.get(key):
        return check(key, value)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] must be a list of strings.')
    return tuple(value)


def _checked_choice(key: str, value: object) -> object:
    if value not in CHOICES[key]:
        raise SchemaRunnerError(
            f'Unknown SCHEMA_RUNNER["{key}"] {value!r}; '
            f"use one of {', '.join(map(repr, CHOICES[key]))}."
        )
    return value


def _checked_switch(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] must be True or False.')
    return value


def _checked_path(key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value):
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] must be a path, or None.')
    return str(value)


def _checked_number(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] must be a whole number, 0 or more.')
    return value


def _checked_seconds(key: str, value: object) -> float | None:
    if value is None:
        return None
    if _is_positive(value):
        return float(str(value))
    raise SchemaRunnerError(
        f'SCHEMA_RUNNER["{key}"] must be a number of seconds, more than 0, or None.'
    )


def _checked_number_of(what: str, key: str, value: object) -> float:
    if not _is_positive(value):
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] must be a number of {what}, more than 0.')
    return float(str(value))


def _checked_count(key: str, value: object) -> int:
    if not _is_positive(value) or not isinstance(value, int):
        raise SchemaRunnerError(f'SCHEMA_RUNNER["{key}"] must be a whole number, 1 or more.')
    return value


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < float(str(value)) < float("inf")


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    **dict.fromkeys(CHOICES, _checked_choice),
    **dict.fromkeys(("ISOLATE_ADVISORY_LOCKS", "KEEP"), _checked_switch),
    "TEST_TIMEOUT": _checked_seconds,
    "PG_DUMP": _checked_path,
    "SNAPSHOT_DIR": _checked_path,
    "HISTORY_DIR": _checked_path,
    "RETRIES": _checked_number,
    "KEEP_DAYS": partial(_checked_number_of, "days"),
    "LOCK_TIMEOUT": partial(_checked_number_of, "seconds"),
    "KEEP_POOLS": _checked_count,
}
