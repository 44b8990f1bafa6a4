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

    One without a target is there to be read, and reaches nothing.
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
        return f"{min(self.ratios):.2f}-{max(self.ratios):.2f}"

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "-"
        return "yes" if self.target.is_reached(self.median) else "no"
