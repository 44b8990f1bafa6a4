"""The app configuration, for projects that list "schema_runner" in INSTALLED_APPS."""

from typing import Any

from django.apps import AppConfig
from django.core import checks


class SchemaRunnerConfig(AppConfig):
    """Registers the system checks. The app has no models, so it does not affect any schema."""

    name = "schema_runner"
    verbose_name = "Schema runner"

    def ready(self) -> None:
        checks.register(check_settings, self.label)


def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Return the messages of `manage.py check`."""
    from .checks import project_messages

    return list(project_messages())
