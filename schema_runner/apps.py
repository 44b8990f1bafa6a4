"""The app to add to INSTALLED_APPS for `manage.py check` to know this package's settings."""

from typing import Any

from django.apps import AppConfig
from django.core import checks


class SchemaRunnerConfig(AppConfig):
    """An app without models and migrations: no schema differs by it."""

    name = "schema_runner"
    verbose_name = "Schema runner"

    def ready(self) -> None:
        checks.register(check_settings, self.label)


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Check settings where no run does."""
    from .checks import of_project

    return list(of_project())
