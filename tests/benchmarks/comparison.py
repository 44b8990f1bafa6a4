"""Two ways to do the same, compared by the ratio of what they cost."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Comparison(NamedTuple):
    """One row of the table."""

    name: str
    # One for each round, in which both ways took turns.
    ratios: Sequence[float]
    # Without one, a row is there to be read.
    bound: float | None
    # What is no ratio, but milliseconds, says so.
    ratio_of: str = "ours / stock"
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
    """Return a ratio with two digits at least that tell something."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"
