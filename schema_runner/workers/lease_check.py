"""What a run must not lose while its tests are run, looked at between them."""

from collections.abc import Collection
from typing import Any, Protocol
from unittest.suite import _ErrorHolder  # type: ignore[attr-defined]

from ..errors import WorkerError
from .exceptions import exc_info


def end_for(result: Any, why: str, *, where: str = "the run") -> None:
    """Tell of what keeps the run from going on, as an error, and have no more tests begin."""
    result.addError(_ErrorHolder(where), exc_info(WorkerError(why)))
    result.stop()


class LeaseCheck(Protocol):
    """What the process of the run looks after, such as the leases of its databases."""

    def files(self) -> Collection[int]:
        """Return the descriptors that can be read once there is something to see to."""

    def heed(self) -> str | None:
        """See to it; return why the run cannot go on, once it cannot."""


class NoLeases:
    """Nothing that can be lost."""

    def files(self) -> Collection[int]:
        return ()

    def heed(self) -> None:
        return None
