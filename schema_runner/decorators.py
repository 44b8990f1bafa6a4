"""What the decorators of this package say of a test, and what the settings do."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.util import strclass

if TYPE_CHECKING:
    from .settings import Settings

_SERIAL = "_schema_runner_serial"
_OWN_DATABASE = "_schema_runner_own_database"
_TIMEOUT = "_schema_runner_timeout"
_RETRIES = "_schema_runner_retries"

T = TypeVar("T", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)


def serial(test: T) -> T:
    """Run a test, or all tests of a class, alone: once everything else has been run."""
    if not callable(test):
        raise TypeError("Put @schema_runner.serial, without arguments, on a test or a class.")
    setattr(test, _SERIAL, True)
    return test


def own_database(test_class: Class) -> Class:
    """Run a class in a database that it shares with no other worker: for what a schema lacks."""
    if not isinstance(test_class, type):
        raise TypeError("Put @schema_runner.own_database, without arguments, on a class.")
    setattr(test_class, _OWN_DATABASE, True)
    return test_class


def timeout(seconds: float | None) -> Callable[[T], T]:
    """Let a test, or each test of a class, take so many seconds; None for as long as it takes.

    It wins over --test-timeout and SCHEMA_RUNNER["TEST_TIMEOUT"], and that of a test over that
    of its class. Raises ValueError for anything but a positive number or None.
    """
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 < seconds < float("inf")):
        raise ValueError(f"@schema_runner.timeout takes seconds, more than 0, not {seconds!r}.")

    def mark(test: T) -> T:
        setattr(test, _TIMEOUT, seconds)
        return test

    return mark


def retries(number: int) -> Callable[[T], T]:
    """Run a test, or each test of a class, so many times again where it fails, until it passes.

    It wins over --retries and SCHEMA_RUNNER["RETRIES"], and that of a test over that of its
    class. Raises ValueError for anything but a whole number, 0 or more.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"@schema_runner.retries takes a number, 0 or more, not {number!r}.")

    def mark(test: T) -> T:
        setattr(test, _RETRIES, number)
        return test

    return mark


def is_serial(test: Any, serial_names: Collection[str], quarantined: Collection[str] = ()) -> bool:
    """Whether a test is to run alone: by labels and tags, or as one of those quarantined."""
    if quarantined and test.id() in quarantined:
        return True
    method = _method(test)
    if getattr(method, _SERIAL, False) or getattr(test, _SERIAL, False):
        return True
    tags = {*getattr(test, "tags", ()), *getattr(method, "tags", ())}
    return _is_named(test.id(), tags, serial_names)


def is_alone(test: Any, settings: "Settings", quarantined: Collection[str] = ()) -> bool:
    """Whether a test is to run alone: also one that would need a database, where none is made."""
    if is_serial(test, settings.serial, quarantined):
        return True
    has_databases = settings.host_database == "test"
    return not has_databases and needs_own_database(type(test), settings.own_database)


def needs_own_database(test_class: type, names: Collection[str]) -> bool:
    """Whether a class is to run in a database of its own: by its mark, or by labels and tags.

    A label or a tag of one of its tests decides for the class.
    """
    if getattr(test_class, _OWN_DATABASE, False):
        return True
    if not names:
        return False
    tests = {
        name: getattr(test_class, name) for name in dir(test_class) if name.startswith("test")
    }
    tags = {tag for one in (test_class, *tests.values()) for tag in getattr(one, "tags", ())}
    label = strclass(test_class)
    return _is_named(label, tags, names) or any(f"{label}.{name}" in names for name in tests)


def _is_named(test_id: str, tags: Collection[str], names: Collection[str]) -> bool:
    return any(name in tags or f"{test_id}.".startswith(f"{name}.") for name in names)


def timeout_of(test: Any, default: float | None) -> float | None:
    """Return how many seconds a test may take; None for no limit."""
    found: float | None = getattr(_method(test), _TIMEOUT, timeout_of_class(test, default))
    return found


def timeout_of_class(test: Any, default: float | None) -> float | None:
    """Return how many seconds what a test's class does around its tests may take at a time."""
    found: float | None = getattr(test, _TIMEOUT, default)
    return found


def retries_of(test: Any, default: int) -> int:
    """Return how many times a test that fails is run again."""
    of_class: int = getattr(test, _RETRIES, default)
    of_test: int = getattr(_method(test), _RETRIES, of_class)
    return of_test


def _method(test: Any) -> Any:
    name = getattr(test, "_testMethodName", "")
    # Of the class: Django puts another one, without marks, in the place of an async test.
    return getattr(type(test), name, None) or getattr(test, name, None)
