"""What passes with stock Django's flush passes with our resets."""

import pytest

from ..project import STOCK, Project
from .suites import outcomes, write_suite


@pytest.mark.parametrize("seed", range(6))
def test_what_passes_under_stock_passes(project: Project, seed: int) -> None:
    """Tests that depend on each other, by rows of migrations, fixtures, sequences and so on."""
    write_suite(project, seed)
    stock = outcomes(project, "--testrunner", STOCK)
    assert True in stock.values()
    ours = outcomes(project)
    worse = [test for test, has_passed in stock.items() if has_passed and not ours.get(test)]
    assert worse == []
