"""Emitting post_migrate, whose handlers make rows, and what makes another emission needless."""

from operator import itemgetter
from typing import Any

from django.apps import apps
from django.conf import UserSettingsHolder, settings
from django.core.management.sql import emit_post_migrate_signal
from django.db.models.signals import post_migrate

# What handlers of Django's own do beside the rows that they make.
_CACHES = (("sites", "Site"), ("contenttypes", "ContentType"))


def emit(alias: str) -> None:
    emit_post_migrate_signal(verbosity=0, interactive=False, db=alias)


def stand_in() -> None:
    """Do what an emission does besides, where the rows that it makes are there already."""
    for app, model in _CACHES:
        if apps.is_installed(f"django.contrib.{app}"):
            manager: Any = apps.get_model(app, model)._default_manager
            manager.clear_cache()


def circumstances() -> object:
    """Return what handlers can see, as far as tests change it in this process."""
    overridden: list[str] = []
    holder: Any = vars(settings)["_wrapped"]
    while isinstance(holder, UserSettingsHolder):
        overridden.append(repr(sorted(vars(holder).items(), key=itemgetter(0))))
        holder = holder.default_settings
    return (
        tuple(receiver[0] for receiver in post_migrate.receivers),
        tuple(config.label for config in apps.get_app_configs()),
        tuple(overridden),
    )
