"""Where a build begins in the project's own code."""

import weakref
from collections.abc import Iterator, Set
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.models import signals

from ..settings import Settings
from .forms import path_of
from .imports import Imports
from .migrations import Package, packages
from .modules import Modules
from .project import Project

_SIGNALS = (
    signals.pre_migrate,
    signals.post_migrate,
    signals.pre_init,
    signals.post_init,
    signals.pre_save,
    signals.post_save,
    signals.pre_delete,
    signals.post_delete,
    signals.m2m_changed,
    connection_created,
)


def follow(project: Project, settings: Settings, opened: Set[str]) -> Imports:
    """Follow the imports of all that a build calls, and of the files it has opened."""
    found = list(packages(Modules()))
    migrations = {
        path: module
        for package in found
        for path, module in _modules(package)
        if project.owns(path)
    }
    imports = Imports(project, migrations.keys())
    for path, module in migrations.items():
        imports.add_file(path, module)
    for path in sorted(opened):
        imports.add_file(path)
    for path in dict.fromkeys([*_named(settings), *_receivers(), *_fields()]):
        imports.add(path)
    needs_all = bool(settings.fixtures) or imports.asks_for_models or not _all_migrate()
    unmigrated = {package.label for package in found if not (package.folders and package.file)}
    for model in apps.get_models(include_auto_created=True):
        # Without migrations it is the models themselves that become tables.
        if needs_all or model._meta.app_label in unmigrated:
            imports.add(model.__module__)
    return imports


def _modules(package: Package) -> Iterator[tuple[str, str]]:
    for name, path in package.files():
        if name.endswith(".py"):
            inner = f"/{name}".removesuffix(".py").removesuffix("/__init__")
            yield path, f"{package.module}{inner.replace('/', '.')}"


def _named(settings: Settings) -> Iterator[str]:
    yield from settings.seeders
    yield from getattr(settings, "fingerprint", ())
    for router in django_settings.DATABASE_ROUTERS:
        yield router if isinstance(router, str) else path_of(type(router))
    for entry in connections.settings.values():
        yield f"{entry['ENGINE']}.base"


def _all_migrate() -> bool:
    return all(entry["TEST"]["MIGRATE"] for entry in connections.settings.values())


def _receivers() -> Iterator[str]:
    for signal in _SIGNALS:
        for entry in signal.receivers or ():
            receiver: Any = entry[1]
            if isinstance(receiver, weakref.ReferenceType):
                receiver = receiver()
            module = getattr(receiver, "__module__", None) or type(receiver).__module__
            yield str(module)


def _fields() -> Iterator[str]:
    """Yield the modules whose code says which columns fields become."""
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.get_fields():
            yield type(field).__module__
