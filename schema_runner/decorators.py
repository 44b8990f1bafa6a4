"""Decorators for tests, and functions that combine them with the settings."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar
from unittest.util import strclass

from .settings import Settings, is_natural, is_positive

_SERIAL = "_schema_runner_serial"
_OWN_DATABASE = "_schema_runner_own_database"
_TIMEOUT = "_schema_runner_timeout"
_RETRIES = "_schema_runner_retries"

T = TypeVar("T", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type[Any])


def serial(test: T) -> T:
    """Run a test, or each test of a class, alone and after all other tests."""
    if not callable(test):
        raise TypeError(
            "@schema_runner.serial decorates a test or a class, and takes no arguments."
        )
    return _set(_SERIAL, True, test)


def own_database(test_class: Class) -> Class:
    """Run a class in its own database, which no other worker uses, instead of a schema."""
    if not isinstance(test_class, type):
        raise TypeError("@schema_runner.own_database decorates a class, and takes no arguments.")
    return _set(_OWN_DATABASE, True, test_class)


def timeout(seconds: float | None) -> Callable[[T], T]:
    """Set the timeout of a test, or of each test of a class, in seconds; None for no timeout.

    Takes precedence over --test-timeout and SCHEMA_RUNNER["TEST_TIMEOUT"]; the timeout of a test
    takes precedence over that of its class. Raises ValueError unless `seconds` is None or a finite
    number greater than 0.
    """
    if seconds is not None and not is_positive(seconds):
        raise ValueError(
            f"@schema_runner.timeout takes a number greater than 0 or None, not {seconds!r}."
        )

    return partial(_set, _TIMEOUT, seconds)


def retries(number: int) -> Callable[[T], T]:
    """Retry a test, or each test of a class, up to `number` times while it fails.

    Takes precedence over --retries and SCHEMA_RUNNER["RETRIES"]; the number of a test takes
    precedence over that of its class. Raises ValueError unless `number` is an integer, 0 or
    greater.
    """
    if not is_natural(number):
        raise ValueError(f"@schema_runner.retries takes an integer, 0 or greater, not {number!r}.")

    return partial(_set, _RETRIES, number)


def _set(attribute: str, value: object, test: T) -> T:
    setattr(test, attribute, value)
    return test


def must_run_alone(test: Any, settings: Settings, quarantined: Collection[str] = ()) -> bool:
    """Whether a test is serial, by its decorator, label or tags, or because it is quarantined.

    So are `own_database` classes if the run creates no databases.
    """
    method = _test_method(test)
    if (
        test.id() in quarantined
        or getattr(method, _SERIAL, False)
        or getattr(test, _SERIAL, False)
    ):
        return True
    tags = {*getattr(test, "tags", ()), *getattr(method, "tags", ())}
    if _matches(test.id(), tags, settings.serial):
        return True
    has_databases = settings.host_database == "test"
    return not has_databases and needs_own_database(type(test), settings.own_database)


def needs_own_database(test_class: type, names: Collection[str]) -> bool:
    """Whether a class gets its own database, by its decorator or by `names` (labels and tags).

    The label or tag of one test applies to its whole class.
    """
    if getattr(test_class, _OWN_DATABASE, False):
        return True
    if not names:
        return False
    tests = {
        name: getattr(test_class, name) for name in dir(test_class) if name.startswith("test")
    }
    tags = {tag for item in (test_class, *tests.values()) for tag in getattr(item, "tags", ())}
    label = strclass(test_class)
    return _matches(label, tags, names) or any(f"{label}.{name}" in names for name in tests)


def _matches(test_id: str, tags: Collection[str], names: Collection[str]) -> bool:
    return any(name in tags or f"{test_id}.".startswith(f"{name}.") for name in names)


def timeout_of(test: Any, default: float | None) -> float | None:
    """Return the timeout of a test in seconds; None for no timeout."""
    seconds: float | None = getattr(_test_method(test), _TIMEOUT, timeout_of_class(test, default))
    return seconds


def timeout_of_class(test: Any, default: float | None) -> float | None:
    """Return the timeout of each step of a test's class outside its tests, in seconds."""
    seconds: float | None = getattr(test, _TIMEOUT, default)
    return seconds


def retries_of(test: Any, default: int) -> int:
    """Return how many times a failing test is retried."""
    number: int = getattr(_test_method(test), _RETRIES, getattr(test, _RETRIES, default))
    return number


def _test_method(test: Any) -> Any:
    name = getattr(test, "_testMethodName", "")
    # From the class: Django wraps async tests on the instance, without our attributes.
    return getattr(type(test), name, None) or getattr(test, name, None)
