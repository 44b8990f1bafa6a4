"""The ratio of the costs of two ways to do the same thing."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Comparison(NamedTuple):
    """A row of the table."""

    name: str
    # One for each round, in which both sides run once.
    ratios: Sequence[float]
    # None if the row has no target.
    bound: float | None
    # The column "ratio", which differs for rows in milliseconds.
    ratio_of: str = "this runner / stock"
    is_maximum: bool = True

    @property
    def median(self) -> str:
        return _figure(median(self.ratios))

    @property
    def spread(self) -> str:
        return f"{_figure(min(self.ratios))}-{_figure(max(self.ratios))}"

    @property
    def target(self) -> str:
        return "-" if self.bound is None else f"{'≤' if self.is_maximum else '≥'} {self.bound:g}"

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return "-"
        found = median(self.ratios)
        is_reached = found <= self.bound if self.is_maximum else found >= self.bound
        return "yes" if is_reached else "no"


def _figure(ratio: float) -> str:
    """Return a ratio with at least two significant digits."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"
