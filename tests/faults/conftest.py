"""Fixtures of the tests in which workers or runs die."""

from collections import Counter

import pytest

from ..observed import observe
from ..project import Project


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how often each soak test did what, from the `soak` properties of the reports."""
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
    """A project whose runs record every result and event."""
    observe(project)
    return project


@pytest.fixture(scope="module")
def shared(shared_project: Project) -> Project:
    """An observed project, shared by the tests of a module."""
    observe(shared_project)
    return shared_project
