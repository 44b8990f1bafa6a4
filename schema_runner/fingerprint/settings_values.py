"""The values of settings that affect schemas and their rows."""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings as django_settings
from django.db import connections
from django.utils.module_loading import import_string

from ..project import Project
from ..settings import Settings, call
from .canonical import dotted_path

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
# Keys of OPTIONS for secrets, addresses and timeouts, which do not affect schemas.
_IGNORED_OPTIONS = re.compile(
    r"pass|secret|token|ssl|gss|krb|host|port|service|pool|keepalive|timeout|application_name",
    re.IGNORECASE,
)

# Returns the hash of the module on a dotted path.
SourceHash = Callable[[str], str]


def django_values(hash_source: SourceHash) -> dict[str, Any]:
    """Return the relevant Django settings."""
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
            (router, hash_source(router if isinstance(router, str) else dotted_path(type(router))))
            for router in routers
        ],
    }


def database_values(alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the relevant values of an entry of DATABASES, with the project's OPTIONS."""
    entry = connections.settings[alias]
    return {
        **{key: entry.get(key) for key in ("ENGINE", "USER", "TIME_ZONE")},
        "OPTIONS": {
            key: options[key] for key in sorted(options) if not _IGNORED_OPTIONS.search(str(key))
        },
        "TEST": {key: value for key, value in sorted(entry["TEST"].items()) if key != "MIGRATE"},
    }


def runner_values(
    settings: Settings, alias: str, project: Project, hash_source: SourceHash
) -> dict[str, Any]:
    """Return the relevant values of SCHEMA_RUNNER, and of what they name."""
    callables = getattr(settings, "fingerprint", ())
    return {
        "STRATEGY": settings.strategy,
        "ISOLATION": settings.isolation,
        "HOST_DATABASE": settings.host_database,
        "FIXTURES": [(name, _fixture(name, alias, project)) for name in settings.fixtures],
        "SEEDERS": [(path, hash_source(path)) for path in settings.seeders],
        "FINGERPRINT": [(path, str(call("FINGERPRINT", path))) for path in callables],
    }


def _is_in_database(entry: dict[str, Any]) -> bool:
    try:
        backend = import_string(entry["BACKEND"])
        # If the backend is a database cache, it has imported this module.
        module = sys.modules.get("django.core.cache.backends.db")
        return module is not None and issubclass(backend, module.BaseDatabaseCache)
    except (ImportError, KeyError, TypeError):
        return False


def _fixture(label: str, alias: str, project: Project) -> list[tuple[str, bytes]]:
    from ..fixtures import find_fixtures

    return [
        (project.portable_name(path), _read_bytes(path))
        for path in find_fixtures(label, alias=alias)
    ]


def _read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
