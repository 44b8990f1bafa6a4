"""Checks of the run's leases between tests."""

from collections.abc import Collection
from typing import Any, Protocol
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]

from ..errors import WorkerError
from .exceptions import exc_info


def stop_with_error(result: Any, message: str, *, name: str = "the run") -> None:
    """Add an error to the result, and start no more tests."""
    result.addError(_ErrorHolder(name), exc_info(WorkerError(message)))
    result.stop()


class LeaseCheck(Protocol):
    """Watches the leases of the run's databases."""

    def fds(self) -> Collection[int]:
        """Return file descriptors that become readable when a check is due."""

    def check(self) -> str | None:
        """Recover lost leases; return an error message if the run cannot continue."""


class NoLeases:
    """A check without leases, which always succeeds."""

    def fds(self) -> Collection[int]:
        return ()

    def check(self) -> None:
        return None
