"""What a parallel run has found out besides its results."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .diagnosis import Verdict


class Findings(NamedTuple):
    """How a suite went in so many `workers`, which took so many seconds the first time.

    The names of what was `retried`, and of what of that has passed and so is `flaky`; and verdicts
    on failures. A run without workers has found nothing.
    """

    workers: int = 0
    seconds: float = 0.0
    retried: Sequence[str] = ()
    flaky: Sequence[str] = ()
    verdicts: "Sequence[Verdict]" = ()
