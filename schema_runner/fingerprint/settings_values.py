"""What the settings say that decides about schemas and their rows."""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings as django_settings
from django.db import connections
from django.utils.module_loading import import_string

from ..project import Project
from ..settings import Settings, call
from .canonical import path_of

_SETTINGS = (
    "DEFAULT_AUTO_FIELD",
    "MIGRATION_MODULES",
    "USE_TZ",
    "TIME_ZONE",
    "LANGUAGE_CODE",
    "LANGUAGES",
    "SITE_ID",
    "DEFAULT_TABLESPACE",
    "DEFAULT_INDEX_TABLESPACE",
)
# Secrets and addresses in OPTIONS: they do not decide what a schema contains.
_UNCOUNTED = re.compile(
    r"pass|secret|token|ssl|gss|krb|host|port|service|pool|keepalive|timeout|application_name",
    re.IGNORECASE,
)

Source = Callable[[str], str]


def django(source: Source) -> dict[str, Any]:
    """Return what counts of Django's settings; `source` gives the hash of a dotted path."""
    models = [name for name in dir(django_settings) if name.endswith("_MODEL")]
    routers = django_settings.DATABASE_ROUTERS
    return {
        **{name: getattr(django_settings, name, None) for name in (*_SETTINGS, *sorted(models))},
        "CACHES": {
            name: entry
            for name, entry in sorted(django_settings.CACHES.items())
            if _is_in_database(entry)
        },
        "DATABASE_ROUTERS": [
            (router, source(router if isinstance(router, str) else path_of(type(router))))
            for router in routers
        ],
    }


def database(alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what counts of an entry of DATABASES, with the OPTIONS that the project set."""
    entry = connections.settings[alias]
    return {
        **{key: entry.get(key) for key in ("ENGINE", "USER", "TIME_ZONE")},
        "OPTIONS": {
            key: options[key] for key in sorted(options) if not _UNCOUNTED.search(str(key))
        },
        "TEST": {key: value for key, value in sorted(entry["TEST"].items()) if key != "MIGRATE"},
    }


def runner(settings: Settings, alias: str, project: Project, source: Source) -> dict[str, Any]:
    """Return what counts of `SCHEMA_RUNNER`."""
    called = getattr(settings, "fingerprint", ())
    return {
        "STRATEGY": settings.strategy,
        "ISOLATION": settings.isolation,
        "HOST_DATABASE": settings.host_database,
        "FIXTURES": [(name, _fixture(name, alias, project)) for name in settings.fixtures],
        "SEEDERS": [(path, source(path)) for path in settings.seeders],
        "FINGERPRINT": [(path, str(call("FINGERPRINT", path))) for path in called],
    }


def _is_in_database(entry: dict[str, Any]) -> bool:
    try:
        backend = import_string(entry["BACKEND"])
        # Imported by now if it is one of these.
        bases = sys.modules.get("django.core.cache.backends.db")
        return bases is not None and issubclass(backend, bases.BaseDatabaseCache)
    except (ImportError, KeyError, TypeError):
        return False


def _fixture(label: str, alias: str, project: Project) -> list[tuple[str, bytes]]:
    from ..fixtures import find_fixtures

    return [
        (project.portable_name(path), _read(path)) for path in find_fixtures(label, alias=alias)
    ]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
