"""The outcomes of each test in a run, and the differences of two runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# By test id; several if a test was reported several times.
Outcomes = Mapping[str, Sequence[str]]

_FINE = {"passed", "skipped", "expected failure"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that is fine with the stock runner and worse with ours."""

    test_id: str
    stock: str
    ours: str

    def __str__(self) -> str:
        return f"{self.test_id}: {self.stock} under stock, {self.ours} under ours"


def differences(stock: Outcomes, ours: Outcomes) -> list[Difference]:
    """List the tests that are worse with ours: not fine, lost, skipped, or reported more often."""
    return [
        Difference(test_id, _listed(stock.get(test_id)), _listed(ours.get(test_id)))
        for test_id in sorted({*stock, *ours})
        if _is_worse(stock.get(test_id, []), ours.get(test_id, []))
    ]


def _is_worse(stock: Sequence[str], ours: Sequence[str]) -> bool:
    if not _FINE.issuperset(stock):
        return False
    # Stock may report all skips of a class for one test; ours must report each for its own test.
    is_skipped = set(ours) == {"skipped"} and "passed" not in stock
    return sorted(ours) != sorted(stock) and not (is_skipped and len(ours) == 1)


def _listed(outcomes: Sequence[str] | None) -> str:
    return ", ".join(outcomes) if outcomes else "absent"
