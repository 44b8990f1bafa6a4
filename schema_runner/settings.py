"""The `SCHEMA_RUNNER` setting, read once into a `Settings` value."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
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
    def read(cls, **options: object) -> Self:
        """Read the setting. Options that are not None override it.

        Raises SettingsError for an unknown key, an invalid value, and a dotted path that cannot be
        imported or called.
        """
        settings, problems = cls.parse(options)
        if problems:
            raise SettingsError(*problems)
        return settings

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> tuple[Self, list[Problem]]:
        """Read the valid values, and return them with the problems of all others."""
        given = getattr(django_settings, "SCHEMA_RUNNER", {})
        if not isinstance(given, dict):
            return cls(), [Problem("E001", "SCHEMA_RUNNER must be a dict.")]
        keys = sorted(name.upper() for name in cls._fields)
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, value in given.items():
            if key not in keys:
                problems.append(_unknown_key(key, keys))
            elif problem := _problem_of(key, value, f'SCHEMA_RUNNER["{key}"]'):
                problems.append(problem)
            else:
                values[key.lower()] = _in_project(value) if key == "SNAPSHOT_DIR" else value
        for name, value in options.items():
            if value is None:
                continue
            if problem := _problem_of(name.upper(), value, name):
                problems.append(problem)
            else:
                values[name] = value
        settings = cls(**{name: _plain(value) for name, value in values.items()})
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


def _problem_of(key: str, value: object, subject: str) -> Problem | None:
    """Return the problem of a value, which the message calls `subject`; None if it is valid."""
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    if key not in CHOICES:
        expected, is_valid = EXPECTED.get(key, _STRINGS)
        wrong = f"{subject} must be {expected}, not {shown}."
        return None if is_valid(value) else Problem("E001", wrong)
    if value in CHOICES[key]:
        return None
    choices = ", ".join(map(repr, CHOICES[key]))
    message = f"{subject} is {shown}. Valid values: {choices}."
    return Problem("E003", message, did_you_mean(str(value), CHOICES[key]))


def _plain(value: Any) -> Any:
    """Return a valid value in the form that `Settings` has."""
    if isinstance(value, list):
        return tuple(value)
    return os.path.expanduser(str(value)) if isinstance(value, str | Path) else value


def _in_project(folder: Any) -> Any:
    """Return a path that is relative to the project as one to the working directory."""
    path = _plain(folder)
    if path is None or os.path.isabs(path):
        return path
    return os.path.relpath(os.path.join(project_root(), path))


def is_positive(value: object) -> bool:
    """Whether a value is a finite number greater than 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < float(str(value)) < float("inf")


def is_natural(value: object) -> bool:
    """Whether a value is an integer, 0 or greater."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_path(value: object) -> bool:
    return isinstance(value, str | Path) and str(value) != "" and "\0" not in str(value)


def _are_strings(value: object) -> bool:
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(item, str) and item for item in value)


_SWITCH = ("True or False", lambda value: isinstance(value, bool))
_PATH = ("a path or None", lambda value: value is None or _is_path(value))
_STRINGS = ("a list of strings", _are_strings)
# For each key without choices: its valid values, as messages describe them, and the test.
EXPECTED: dict[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("ISOLATE_ADVISORY_LOCKS", "KEEP"), _SWITCH),
    **dict.fromkeys(("PG_DUMP", "SNAPSHOT_DIR", "HISTORY_DIR"), _PATH),
    **dict.fromkeys(CALLS, ("a list of dotted paths", _are_strings)),
    "TEST_TIMEOUT": (
        "a positive number of seconds or None",
        lambda value: value is None or is_positive(value),
    ),
    "LOCK_TIMEOUT": ("a positive number of seconds", is_positive),
    "KEEP_DAYS": ("a positive number of days", is_positive),
    "KEEP_POOLS": ("an integer, 1 or greater", lambda value: is_natural(value) and value != 0),
    "RETRIES": ("an integer, 0 or greater", is_natural),
}
