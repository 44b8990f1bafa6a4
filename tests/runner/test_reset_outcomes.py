"""What passes with stock Django's flush passes with our resets."""

import pytest

from ..project import STOCK, Project
from .suites import Suite, write_project


@pytest.mark.parametrize("seed", range(4))
def test_a_suite_that_passes_under_stock_passes(project: Project, seed: int) -> None:
    """Tests that depend on each other, by rows of migrations, fixtures, sequences and so on."""
    write_project(project)
    suite = Suite.make(seed)
    while failing := suite.failing(project, "--testrunner", STOCK):
        suite.remove(failing)
    assert len(suite.classes) > 5
    assert suite.failing(project) == []
