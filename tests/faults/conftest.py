"""What tests of workers that die have in common."""

import pytest

from ..observed import observe
from ..project import Project


@pytest.fixture
def observed(project: Project) -> Project:
    """A project whose runs record all that they report."""
    observe(project)
    return project


@pytest.fixture(scope="module")
def shared(shared_project: Project) -> Project:
    """Such a project for all tests of a module."""
    observe(shared_project)
    return shared_project
