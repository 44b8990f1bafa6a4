"""What tests of workers that die have in common."""

import pytest

from ..observed import observe
from ..project import Project


@pytest.fixture
def observed(project: Project) -> Project:
    """A project whose runs write down all that they report."""
    observe(project)
    return project
