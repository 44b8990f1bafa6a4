"""Two ways to do the same, compared by the ratio of what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio should be: at most, or at least, so much."""

    is_maximum: bool
    bound: float

    def is_reached(self, ratio: float) -> bool:
        return ratio <= self.bound if self.is_maximum else ratio >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.is_maximum else '≥'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of the table; `ratios` has one for each round, in which both ways took turns.

    What is no ratio, but milliseconds, says so in `ratio_of`. One without a target is there to be
    read, and reaches nothing.
    """

    name: str
    ratio_of: str
    ratios: Sequence[float]
    target: Target | None

    @property
    def median(self) -> float:
        return median(self.ratios)

    @property
    def spread(self) -> str:
        return f"{figure(min(self.ratios))}-{figure(max(self.ratios))}"

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "-"
        return "yes" if self.target.is_reached(self.median) else "no"


def figure(ratio: float) -> str:
    """Return a ratio with two digits at least that tell something."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"
