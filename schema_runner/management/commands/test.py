"""`manage.py test` of projects with "schema_runner" in INSTALLED_APPS: IDEs get schemas, too."""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.commands import test as stock
from django.test.runner import DiscoverRunner
from django.test.utils import get_runner


class Command(stock.Command):
    """Django's command, in which --testrunner names what TEST_RUNNER is combined with."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        with _combining_runners():
            super().add_arguments(parser)

    def handle(self, *test_labels: str, **options: Any) -> None:
        with _combining_runners():
            super().handle(*test_labels, **options)


@contextmanager
def _combining_runners() -> Iterator[None]:
    names: Any = stock
    names.get_runner = _combined_runner
    try:
        yield
    finally:
        names.get_runner = get_runner


def _combined_runner(settings: Any, named: str | None = None) -> Any:
    """Return the runner that is named; one that has no schemas is combined with TEST_RUNNER."""
    from ...runner import SchemaRunnerMixin

    runner = get_runner(settings, named)
    project_runner: Any = get_runner(settings)
    if not all(isinstance(one, type) for one in (runner, project_runner)):
        return runner
    # One that TEST_RUNNER is derived from, such as Django's own, is meant as it is.
    is_whole = issubclass(runner, SchemaRunnerMixin) or issubclass(project_runner, runner)
    has_schemas = issubclass(project_runner, SchemaRunnerMixin)
    if is_whole or not has_schemas or not issubclass(runner, DiscoverRunner):
        return runner
    about = {"__module__": runner.__module__, "__doc__": runner.__doc__}
    return type(runner.__name__, (project_runner, runner), about)
