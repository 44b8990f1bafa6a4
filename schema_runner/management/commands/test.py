"""`manage.py test` for projects that list "schema_runner" in INSTALLED_APPS.

It is for IDEs, which pass their own runner in --testrunner.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.commands import test as stock
from django.test.runner import DiscoverRunner
from django.test.utils import get_runner


class Command(stock.Command):
    """Django's command, except that it combines the class of --testrunner with TEST_RUNNER."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        with _combining_runners():
            super().add_arguments(parser)

    def handle(self, *test_labels: str, **options: Any) -> None:
        with _combining_runners():
            super().handle(*test_labels, **options)


@contextmanager
def _combining_runners() -> Iterator[None]:
    module: Any = stock
    module.get_runner = _combined_runner
    try:
        yield
    finally:
        module.get_runner = get_runner


def _combined_runner(settings: Any, test_runner_class: str | None = None) -> Any:
    """Return the named runner class, combined with TEST_RUNNER if it lacks the mixin."""
    from ...runner import SchemaRunnerMixin

    runner = get_runner(settings, test_runner_class)
    project_runner: Any = get_runner(settings)
    if not all(isinstance(one, type) for one in (runner, project_runner)):
        return runner
    # A base class of TEST_RUNNER, such as Django's own runner, is used unchanged.
    is_complete = issubclass(runner, SchemaRunnerMixin) or issubclass(project_runner, runner)
    has_schemas = issubclass(project_runner, SchemaRunnerMixin)
    if is_complete or not has_schemas or not issubclass(runner, DiscoverRunner):
        return runner
    attributes = {"__module__": runner.__module__, "__doc__": runner.__doc__}
    return type(runner.__name__, (project_runner, runner), attributes)
