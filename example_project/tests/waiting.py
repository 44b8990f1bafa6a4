"""Wait for a condition instead of a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Only a failing test waits this long, so it can be more than a busy machine needs.
TIMEOUT = 60.0

_INTERVAL = 0.02


def wait_until(condition: Callable[[], T], what: str, *, timeout: float = TIMEOUT) -> T:
    """Call a condition until it returns a true value, and return that."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"After {timeout} seconds still not: {what}.")
        time.sleep(_INTERVAL)
    return result
