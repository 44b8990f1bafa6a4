"""The `SCHEMA_RUNNER` setting, read once into a `Settings` value."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from pathlib import Path
from typing import Any, NamedTuple, Self

from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from .errors import SchemaRunnerError, did_you_mean

# The valid values of keys that name a choice.
CHOICES = {
    "STRATEGY": ("template", "migrate"),
    "ISOLATION": ("schema", "database"),
    "HOST_DATABASE": ("test", "current"),
    "RESET": ("selective", "reference", "django"),
}

# For each key that names callables: the arguments of the call, and their form in messages.
CALLS: dict[str, tuple[list[str], dict[str, str], str]] = {
    "SEEDERS": ([], {"using": "alias"}, "using=alias"),
    "WORKER_SETUP": (["worker"], {}, "worker"),
    "FINGERPRINT": ([], {}, ""),
}


class Problem(NamedTuple):
    """A problem with a setting; `id` is that of its system check, without the app label."""

    id: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class SettingsError(SchemaRunnerError):
    """Invalid settings, with which no run can start."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Settings(NamedTuple):
    """The checked values of `SCHEMA_RUNNER`, and all defaults."""

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

    @property
    def is_current(self) -> bool:
        """Whether the schemas are created in the project's own database."""
        return self.host_database == "current"

    @property
    def is_stock(self) -> bool:
        """Whether workers get stock Django's databases instead of schemas."""
        return self.isolation == "database"

    @classmethod
    def read(cls, **options: str | float | None) -> Self:
        """Read the setting. Command-line options that are not None override it.

        Raises SettingsError for an unknown key, an invalid value, and a dotted path that cannot be
        imported or called.
        """
        settings, problems = cls.parse(options)
        if problems:
            raise SettingsError(*problems)
        return settings

    @classmethod
    def parse(cls, options: Mapping[str, str | float | None]) -> tuple[Self, list[Problem]]:
        """Read the valid values, and return them with the problems of all others."""
        given, keys = given_settings(), {name.upper(): name for name in cls._fields}
        if not isinstance(given, dict):
            return cls(), [Problem("E001", "SCHEMA_RUNNER must be a dict.")]
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, value in given.items():
            try:
                if key not in keys:
                    raise SettingsError(_unknown_key(key, sorted(keys)))
                values[keys[key]] = _checked(key, value)
            except SettingsError as error:
                problems += error.problems
        wins = {name: value for name, value in options.items() if value is not None}
        settings = cls(**{**values, **wins})
        return settings, [*problems, *settings._problems()]

    def _problems(self) -> Iterator[Problem]:
        for key in CALLS:
            for path in getattr(self, key.lower()):
                try:
                    load_callable(key, path)
                except SettingsError as error:
                    yield from error.problems
        if self.isolation == "database" and self.host_database == "current":
            yield Problem(
                "E006",
                "ISOLATION 'database' creates databases, which HOST_DATABASE 'current' does not "
                "allow.",
                "Use --isolation schema or --host-database test, or change the settings.",
            )


def given_settings() -> Any:
    """Return `SCHEMA_RUNNER` as the project sets it, unchecked."""
    return getattr(django_settings, "SCHEMA_RUNNER", {})


def project_root() -> str:
    """Return the folder that contains the top-level package, or module, of the settings.

    Without a settings module, return the working directory.
    """
    module: str | None = getattr(django_settings, "SETTINGS_MODULE", None)
    top: Any = sys.modules.get(module.split(".")[0]) if module else None
    if folders := [str(folder) for folder in getattr(top, "__path__", ())]:
        return os.path.dirname(os.path.abspath(folders[0]))
    file: str | None = getattr(top, "__file__", None)
    return os.path.dirname(os.path.abspath(file)) if file else os.path.abspath(os.getcwd())


def call(key: str, path: str, *args: object, **kwargs: object) -> object:
    """Call the callable that the dotted `path` in `SCHEMA_RUNNER[key]` names."""
    function = load_callable(key, path)
    try:
        return function(*args, **kwargs)
    except Exception as error:
        error.add_note(f'Raised by {path!r} from SCHEMA_RUNNER["{key}"].')
        raise


def load_callable(key: str, path: str) -> Callable[..., object]:
    """Import the callable that the dotted `path` in `SCHEMA_RUNNER[key]` names.

    Raises SettingsError if it cannot be imported, or called as the key requires.
    """
    subject = f'SCHEMA_RUNNER["{key}"] names {path!r}, which'
    try:
        function: object = import_string(path)
    except Exception as error:
        why = error if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise SettingsError(Problem("E004", f"{subject} cannot be imported: {why}")) from error
    if not callable(function):
        raise SettingsError(Problem("E004", f"{subject} is not callable."))
    if problem := _call_problem(key, function, path.rpartition(".")[2]):
        raise SettingsError(problem._replace(message=f"{subject} {problem.message}"))
    return function


def _call_problem(key: str, function: Callable[..., object], name: str) -> Problem | None:
    args, kwargs, shown = CALLS[key]
    is_generator = isgeneratorfunction(function) or isasyncgenfunction(function)
    if is_generator or iscoroutinefunction(function):
        message = "is a coroutine or generator function: calling it does nothing."
        return Problem("E005", message, "Define it without async and yield.")
    try:
        # A wrapper's own signature, because it may pass arguments itself.
        signature(function, follow_wrapped=False).bind(*args, **kwargs)
    except TypeError as error:
        message = f"cannot be called as {name}({shown}): {error}."
        return Problem("E005", message, f"Define it as {name}({shown.partition('=')[0]}).")
    except ValueError:
        pass  # Some builtins have no signature.
    return None


def _unknown_key(key: object, keys: list[str]) -> Problem:
    hint = did_you_mean(str(key), keys) or f"Valid keys: {', '.join(keys)}."
    return Problem("E002", f"Unknown key in SCHEMA_RUNNER: {key!r}.", hint)


def _checked(key: str, value: object) -> Any:
    if check := _CHECKS.get(key):
        return check(key, value)
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) and item for item in value
    ):
        raise _wrong(key, f"a list of {'dotted paths' if key in CALLS else 'strings'}", value)
    return tuple(value)


def _wrong(key: str, expected: str, value: object) -> SettingsError:
    return SettingsError(
        Problem("E001", f'SCHEMA_RUNNER["{key}"] must be {expected}, not {_shown(value)}.')
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked_choice(key: str, value: object) -> object:
    if value not in CHOICES[key]:
        hint = did_you_mean(str(value), CHOICES[key])
        choices = ", ".join(map(repr, CHOICES[key]))
        message = f'SCHEMA_RUNNER["{key}"] is {_shown(value)}. Valid values: {choices}.'
        raise SettingsError(Problem("E003", message, hint))
    return value


def _checked_switch(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, "True or False", value)
    return value


def _checked_path(key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise _wrong(key, "a path or None", value)
    return os.path.expanduser(str(value))


def _checked_folder(key: str, value: object) -> str | None:
    """Return the path relative to the working directory; a setting is relative to the project."""
    path = _checked_path(key, value)
    if path is None or os.path.isabs(path):
        return path
    return os.path.relpath(os.path.join(project_root(), path))


def _checked_number(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(key, "an integer, 0 or greater", value)
    return value


def _checked_seconds(key: str, value: object) -> float | None:
    if value is None:
        return None
    if _is_positive(value):
        return float(str(value))
    raise _wrong(key, "a positive number of seconds or None", value)


def _checked_number_of(what: str, key: str, value: object) -> float:
    if not _is_positive(value):
        raise _wrong(key, f"a positive number of {what}", value)
    return float(str(value))


def _checked_count(key: str, value: object) -> int:
    if not _is_positive(value) or not isinstance(value, int):
        raise _wrong(key, "an integer, 1 or greater", value)
    return value


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < float(str(value)) < float("inf")


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    **dict.fromkeys(CHOICES, _checked_choice),
    **dict.fromkeys(("ISOLATE_ADVISORY_LOCKS", "KEEP"), _checked_switch),
    "TEST_TIMEOUT": _checked_seconds,
    "PG_DUMP": _checked_path,
    "SNAPSHOT_DIR": _checked_folder,
    "HISTORY_DIR": _checked_path,
    "RETRIES": _checked_number,
    "KEEP_DAYS": partial(_checked_number_of, "days"),
    "LOCK_TIMEOUT": partial(_checked_number_of, "seconds"),
    "KEEP_POOLS": _checked_count,
}
