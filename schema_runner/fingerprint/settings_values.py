"""The values of settings, and the signal handlers, that affect schemas and their rows."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import ReferenceType

from django.conf import settings as django_settings
from django.db.models import signals
from django.dispatch import Signal
from django.utils.module_loading import import_string

from ..settings import Settings, call
from .hashing import dotted_path, hash_file
from .modules import Modules

_SETTINGS = (
    "DEFAULT_AUTO_FIELD",
    "MIGRATION_MODULES",
    "USE_TZ",
    "TIME_ZONE",
    "USE_I18N",
    "LANGUAGE_CODE",
    "LANGUAGES",
    "PASSWORD_HASHERS",
    "FIXTURE_DIRS",
    "SITE_ID",
    "DEFAULT_TABLESPACE",
    "DEFAULT_INDEX_TABLESPACE",
)
# Keys of OPTIONS for secrets, addresses and timeouts, which do not affect schemas.
_IGNORED_OPTIONS = re.compile(
    r"pass|secret|token|ssl|gss|krb|host|port|service|pool|keepalive|timeout|application_name",
    re.IGNORECASE,
)


def django_values(modules: Modules) -> dict[str, Any]:
    """Return the relevant Django settings, and the handlers that may create rows."""
    models = [name for name in dir(django_settings) if name.endswith("_MODEL")]
    sources = [hash_file(modules.file_of(path)) for path in router_paths()]
    return {
        **{name: getattr(django_settings, name, None) for name in (*_SETTINGS, *sorted(models))},
        "CACHES": {
            name: entry
            for name, entry in sorted(django_settings.CACHES.items())
            if _is_in_database(entry)
        },
        "DATABASE_ROUTERS": (django_settings.DATABASE_ROUTERS, sources),
        "handlers of pre_migrate and post_migrate": sorted(
            set(receivers(signals.pre_migrate, signals.post_migrate))
        ),
    }


def router_paths() -> Iterator[str]:
    """Yield the dotted paths of the classes in DATABASE_ROUTERS."""
    for router in django_settings.DATABASE_ROUTERS:
        yield router if isinstance(router, str) else dotted_path(type(router))


def receivers(*chosen: Signal) -> Iterator[str]:
    """Yield the dotted paths of functions that receive signals, and of the types of objects."""
    for signal in chosen:
        for _, entry, *_ in signal.receivers or ():
            receiver = entry() if isinstance(entry, ReferenceType) else entry
            if receiver is not None:
                is_named = hasattr(receiver, "__qualname__")
                yield dotted_path(receiver if is_named else type(receiver))


def database_values(entry: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the relevant values of an entry of DATABASES, with the project's OPTIONS."""
    return {
        **{key: entry.get(key) for key in ("ENGINE", "USER", "TIME_ZONE")},
        "OPTIONS": {
            key: options[key] for key in sorted(options) if not _IGNORED_OPTIONS.search(str(key))
        },
        "TEST": {key: value for key, value in sorted(entry["TEST"].items()) if key != "MIGRATE"},
    }


def runner_values(settings: Settings, alias: str, modules: Modules) -> dict[str, Any]:
    """Return the relevant values of SCHEMA_RUNNER, and of what they name."""
    return {
        "STRATEGY": settings.strategy,
        "ISOLATION": settings.isolation,
        "HOST_DATABASE": settings.host_database,
        "FIXTURES": [(name, _hash_fixture(name, alias)) for name in settings.fixtures],
        "SEEDERS": [(path, hash_file(modules.file_of(path))) for path in settings.seeders],
        "FINGERPRINT": [(path, str(call("FINGERPRINT", path))) for path in settings.fingerprint],
    }


def _is_in_database(entry: dict[str, Any]) -> bool:
    try:
        backend = import_string(entry["BACKEND"])
        # If the backend is a database cache, it has imported this module.
        module = sys.modules.get("django.core.cache.backends.db")
        return module is not None and issubclass(backend, module.BaseDatabaseCache)
    except (ImportError, KeyError, TypeError):
        return False


def _hash_fixture(label: str, alias: str) -> list[tuple[str, str]]:
    from ..fixtures import find_fixtures

    paths = find_fixtures(label, alias=alias)
    return [(os.path.basename(path), hash_file(path)) for path in paths]
