"""What passes with stock Django's flush passes with our resets."""

import pytest

from ..project import STOCK, Project
from .suites import Suite, write_project


@pytest.mark.parametrize("seed", range(4))
def test_a_suite_that_passes_under_stock_passes(project: Project, seed: int) -> None:
    """Tests that depend on each other, by rows of migrations, fixtures, sequences and so on."""
    write_project(project)
    suite = Suite.make(seed)
    passing = suite.run(project, "--testrunner", STOCK)
    assert len({name for name, _ in passing}) > 5
    assert passing <= suite.run(project)
