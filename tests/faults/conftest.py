"""What tests of workers that die have in common."""

from collections import Counter

import pytest

from ..observed import observe
from ..project import Project


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what soak tests have done, as they have noted with `record_property`."""
    reports = [one for key in ("passed", "failed") for one in terminalreporter.stats.get(key, [])]
    done = Counter(
        what
        for report in reports
        if report.when == "call"
        for name, noted in report.user_properties
        for what in [" ".join(map(str, noted))]
        if name == "soak"
    )
    for what, times in sorted(done.items()):
        terminalreporter.write_line(f"soak: {what}: {times}")


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
