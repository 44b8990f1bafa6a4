"""What the decorators of this package say of a test, and what the settings do."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

_SERIAL = "_schema_runner_serial"
_TIMEOUT = "_schema_runner_timeout"
_RETRIES = "_schema_runner_retries"

T = TypeVar("T", bound=Callable[..., Any])


def serial(test: T) -> T:
    """Run a test, or all tests of a class, alone: once everything else has been run."""
    if not callable(test):
        raise TypeError("Put @schema_runner.serial, without arguments, on a test or a class.")
    setattr(test, _SERIAL, True)
    return test


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
    if not serial_names:
        return False
    tags = {*getattr(test, "tags", ()), *getattr(method, "tags", ())}
    label = f"{test.id()}."
    return any(name in tags or label.startswith(f"{name}.") for name in serial_names)


def limit(test: Any, default: float | None) -> float | None:
    """Return how many seconds a test may take; None for no limit."""
    found: float | None = getattr(_method(test), _TIMEOUT, limit_of_class(test, default))
    return found


def limit_of_class(test: Any, default: float | None) -> float | None:
    """Return how many seconds what a test's class does around its tests may take at a time."""
    found: float | None = getattr(test, _TIMEOUT, default)
    return found


def limit_of_retries(test: Any, default: int) -> int:
    """Return how many times a test that fails is run again."""
    of_class: int = getattr(test, _RETRIES, default)
    of_test: int = getattr(_method(test), _RETRIES, of_class)
    return of_test


def _method(test: Any) -> Any:
    name = getattr(test, "_testMethodName", "")
    # Of the class: Django puts another one, without marks, in the place of an async test.
    return getattr(type(test), name, None) or getattr(test, name, None)
