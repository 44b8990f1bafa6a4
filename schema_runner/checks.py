"""The system checks, which docs/settings.md lists."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks.registry import registry
from django.db import connections

from .errors import did_you_mean
from .folders import find_write_obstacle
from .settings import Problem, Settings, project_root

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from .scheduling.history import HistoryFolder

LABEL = "schema_runner"
_HISTORY = 'SCHEMA_RUNNER["HISTORY_DIR"]'
# The keys of TEST for PostgreSQL.
_TEST_KEYS = {
    *("CHARSET", "COLLATION", "DEPENDENCIES", "MIGRATE", "MIRROR", "NAME", "SERIALIZE"),
    "TEMPLATE",
}
# For each key: the check id, the problem, and the form of an entry.
_TRUSTED = {
    "TRUSTED_MIGRATIONS": ("W002", "not a migration", "app_label.0001_name"),
    "TRUSTED_MODELS": ("W003", "not a model", "app_label.Model"),
}
_DRIVERS = "https://www.psycopg.org/psycopg3/docs/basic/from_pg2.html"


def project_messages() -> Iterator[checks.CheckMessage]:
    """Yield the messages of `manage.py check`."""
    from .scheduling.labels import label_problems

    settings, problems = Settings.parse({})
    yield from map(_message, problems)
    yield from map(_message, _runner_problems())
    yield from map(_message, _fixture_problems(settings))
    yield from map(_message, label_problems(settings))
    yield from map(_message, settings_problems(settings))
    if settings.history_dir and settings.history_dir != Settings().history_dir:
        folder = os.path.join(project_root(), settings.history_dir)
        yield from map(_message, _folder_problems(_HISTORY, folder))


@contextmanager
def replace_checks(find_problems: Callable[[], Iterable[Problem]]) -> Iterator[None]:
    """Replace the checks of `manage.py check` with the problems that a run finds."""

    def check(**_: Any) -> list[checks.CheckMessage]:
        return [*map(_message, find_problems())]

    before = registry.registered_checks
    registry.registered_checks = {item for item in before if LABEL not in item.tags}
    registry.register(check, LABEL)
    try:
        yield
    finally:
        registry.registered_checks = before


def settings_problems(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of valid settings, which do not stop a run."""
    yield from _migration_problems(settings.trusted_migrations)
    yield from _model_problems(settings.trusted_models)
    yield from _pattern_problems(settings.expected_changes)
    if settings.pg_dump and shutil.which(settings.pg_dump) is None:
        yield Problem(
            "W005",
            f'SCHEMA_RUNNER["PG_DUMP"] names {settings.pg_dump!r}, which is not a program.',
            "Set it to the path of pg_dump, or remove it.",
        )
    yield from _folder_problems(
        'SCHEMA_RUNNER["SNAPSHOT_DIR"] (--snapshot-dir)', settings.snapshot_dir
    )
    yield from _driver_problems()
    yield from _test_key_problems()


def history_problems(
    settings: Settings, history_folder: "HistoryFolder | None", option: str | None
) -> Iterator[Problem]:
    """Yield why a run has no history, or cannot write it, if `option` or HISTORY_DIR needs one."""
    if option and history_folder is None:
        yield Problem(
            "W006",
            f"{_HISTORY} is None, so there is no history.",
            f"{option} needs a history.",
        )
    # The default folder need not be writable.
    is_required = option or settings.history_dir != Settings().history_dir
    if history_folder and is_required and (why := history_folder.why_not_writable()):
        hint = f"{option} needs the history, which is stored there." if option else ""
        yield Problem("W006", f"Cannot write to {_HISTORY}: {why}.", hint)


def _message(problem: Problem) -> checks.CheckMessage:
    kind = checks.Error if problem.id.startswith("E") else checks.Warning
    return kind(problem.message, hint=problem.hint or None, id=f"{LABEL}.{problem.id}")


def _runner_problems() -> Iterator[Problem]:
    """Yield the error of importing TEST_RUNNER, or of its `add_arguments`."""
    from django.core.management import CommandError, CommandParser
    from django.test.utils import get_runner

    try:
        runner: Any = get_runner(django_settings)
        if hasattr(runner, "add_arguments"):
            runner.add_arguments(CommandParser(called_from_command_line=False))
    except CommandError as error:
        why = str(error).removeprefix("Error: ")
        yield Problem("E008", f"TEST_RUNNER is {django_settings.TEST_RUNNER!r}: {why}")
    except Exception as error:
        what = f"TEST_RUNNER names {django_settings.TEST_RUNNER!r}, which cannot be imported"
        yield Problem("E008", f"{what}: {type(error).__name__}: {error}")


def _fixture_problems(settings: Settings) -> Iterator[Problem]:
    if settings.fixtures:
        from .fixtures import fixture_problems

        problems = [
            {*fixture_problems(settings, alias=connection.alias)}
            for connection in _postgresql_connections()
        ]
        # A fixture may exist for one alias only.
        yield from sorted(set.intersection(*problems)) if problems else ()


def _migration_problems(entries: Collection[str]) -> Iterator[Problem]:
    if entries:
        from .fingerprint.modules import Modules, migrations_packages

        all_packages = [*migrations_packages(Modules())]
        known = {
            f"{package.label}.{os.path.splitext(name)[0]}"
            for package in all_packages
            for name, _ in package.files()
        }
        # MIGRATION_MODULES may disable migrations, to make tests faster.
        disabled = {package.label for package in all_packages if package.module is None}
        checked = [entry for entry in entries if entry.partition(".")[0] not in disabled]
        yield from _unknown("TRUSTED_MIGRATIONS", checked, known)


def _model_problems(entries: Collection[str]) -> Iterator[Problem]:
    models = apps.get_models(include_auto_created=True) if entries else ()
    yield from _unknown("TRUSTED_MODELS", entries, {model._meta.label for model in models})


def _unknown(key: str, entries: Collection[str], known: Collection[str]) -> Iterator[Problem]:
    check_id, problem, form = _TRUSTED[key]
    for entry in entries:
        if entry not in known:
            message = f'SCHEMA_RUNNER["{key}"] names {entry!r}, which is {problem}.'
            yield Problem(
                check_id, message, did_you_mean(entry, known) or f"Write it as {form!r}."
            )


def _pattern_problems(patterns: Collection[str]) -> Iterator[Problem]:
    """Yield the patterns that would match a table only with a schema, or in shell syntax."""
    models = apps.get_models(include_auto_created=True) if patterns else ()
    tables = [f"public.{model._meta.db_table}" for model in models]
    for pattern in patterns:
        shell = pattern.replace("\\", "").replace(".*", "*")
        for candidate in (pattern, f"public.{pattern}", shell, f"public.{shell}"):
            if any(fnmatchcase(table, candidate) for table in tables):
                break
        else:
            continue
        if candidate != pattern:
            message = f'SCHEMA_RUNNER["EXPECTED_CHANGES"] has {pattern!r}, which matches no table.'
            yield Problem("W004", message, f"Did you mean {candidate!r}?")


def _test_key_problems() -> Iterator[Problem]:
    """Yield the keys of TEST that are similar to one of Django's. Backends may add other keys."""
    for connection in _postgresql_connections():
        for key in connection.settings_dict["TEST"].keys() - _TEST_KEYS:
            if hint := did_you_mean(str(key), _TEST_KEYS):
                entry = f"DATABASES[{connection.alias!r}]['TEST']"
                message = f"{entry} has {key!r}, which Django does not read."
                yield Problem("W008", message, hint)


def _folder_problems(what: str, folder: str | None) -> Iterator[Problem]:
    if folder and (why := find_write_obstacle(Path(folder))):
        yield Problem("W006", f"Cannot write to {what}: {why}.")


def _driver_problems() -> Iterator[Problem]:
    if _postgresql_connections() and importlib.util.find_spec("psycopg2"):
        yield Problem(
            "W007",
            "psycopg2 is installed, but Django uses psycopg 3, which django-schema-runner needs.",
            f"Use psycopg 3 in production as well and uninstall psycopg2. Differences: {_DRIVERS}",
        )


def _postgresql_connections() -> "list[BaseDatabaseWrapper]":
    return [connection for connection in connections.all() if connection.vendor == "postgresql"]
