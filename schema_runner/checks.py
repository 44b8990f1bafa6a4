"""System checks of the settings; docs/settings.md lists them."""

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
from .folders import why_not_writable
from .settings import Problem, Settings, project_root

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from .scheduling.history import HistoryFolder

LABEL = "schema_runner"
_HISTORY = 'SCHEMA_RUNNER["HISTORY_DIR"]'
# Of PostgreSQL's.
_TEST_KEYS = {
    *("CHARSET", "COLLATION", "DEPENDENCIES", "MIGRATE", "MIRROR", "NAME", "SERIALIZE"),
    "TEMPLATE",
}
# What entries name that is trusted, and how.
_TRUSTED = {
    "TRUSTED_MIGRATIONS": ("W002", "not a migration", "app_label.0001_name"),
    "TRUSTED_MODELS": ("W003", "not a model", "app_label.Model"),
}
_DRIVERS = "https://www.psycopg.org/psycopg3/docs/basic/from_pg2.html"


def of_project() -> Iterator[checks.CheckMessage]:
    """Check all that shows without a run."""
    from .scheduling.labels import label_problems

    settings, problems = Settings.parse({})
    yield from map(_message, problems)
    yield from map(_message, _of_runner())
    yield from map(_message, _of_fixtures(settings))
    yield from map(_message, label_problems(settings))
    yield from map(_message, of_settings(settings))
    if settings.history_dir and settings.history_dir != Settings().history_dir:
        folder = os.path.join(project_root(), settings.history_dir)
        yield from map(_message, _of_folder(_HISTORY, folder))


@contextmanager
def of_run(find: Callable[[], Iterable[Problem]]) -> Iterator[None]:
    """Check what a run finds, in place of what is checked without one."""

    def check(**_: Any) -> list[checks.CheckMessage]:
        return [*map(_message, find())]

    before = registry.registered_checks
    registry.registered_checks = {one for one in before if LABEL not in one.tags}
    registry.register(check, LABEL)
    try:
        yield
    finally:
        registry.registered_checks = before


def of_settings(settings: Settings) -> Iterator[Problem]:
    """Yield what has no effect."""
    yield from _of_trusted_migrations(settings.trusted_migrations)
    yield from _of_trusted_models(settings.trusted_models)
    yield from _of_expected_changes(settings.expected_changes)
    if settings.pg_dump and shutil.which(settings.pg_dump) is None:
        yield Problem(
            "W005",
            f'SCHEMA_RUNNER["PG_DUMP"] names {settings.pg_dump!r}, which is not a program.',
            "Set it to the path of pg_dump, or remove it.",
        )
    yield from _of_folder('SCHEMA_RUNNER["SNAPSHOT_DIR"] (--snapshot-dir)', settings.snapshot_dir)
    yield from _of_drivers()
    yield from _of_test_databases()


def of_history(
    settings: Settings, history_folder: "HistoryFolder | None", option: str | None
) -> Iterator[Problem]:
    """Yield why a run keeps no history, if its `option` or the settings ask for one."""
    if option and history_folder is None:
        yield Problem(
            "W006",
            f"{_HISTORY} is None, so no history is kept.",
            f"{option} needs a history.",
        )
    # By default a run does without, and says nothing.
    is_asked_for = option or settings.history_dir != Settings().history_dir
    if history_folder and is_asked_for and (why := history_folder.why_not_writable()):
        hint = (
            f"{option} needs the history of earlier runs, which is kept there." if option else ""
        )
        yield _unwritable(_HISTORY, why, hint)


def _message(problem: Problem) -> checks.CheckMessage:
    kind = checks.Error if problem.id.startswith("E") else checks.Warning
    return kind(problem.message, hint=problem.hint or None, id=f"{LABEL}.{problem.id}")


def _of_runner() -> Iterator[Problem]:
    """Yield why TEST_RUNNER is no runner, as the class itself says."""
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
        named = f"TEST_RUNNER names {django_settings.TEST_RUNNER!r}, which cannot be imported"
        yield Problem("E008", f"{named}: {type(error).__name__}: {error}")


def _of_fixtures(settings: Settings) -> Iterator[Problem]:
    if settings.fixtures:
        from .fixtures import fixture_problems

        found = [{*fixture_problems(settings, alias=one.alias)} for one in _on_postgresql()]
        # One may be for a single alias.
        yield from sorted(set.intersection(*found)) if found else ()


def _of_trusted_migrations(entries: Collection[str]) -> Iterator[Problem]:
    if entries:
        from .fingerprint.modules import Modules, packages

        found = [*packages(Modules())]
        known = {
            f"{package.label}.{os.path.splitext(name)[0]}"
            for package in found
            for name, _ in package.files()
        }
        # Settings for quick runs switch them off by MIGRATION_MODULES.
        switched_off = {package.label for package in found if package.module is None}
        left = [one for one in entries if one.partition(".")[0] not in switched_off]
        yield from _unknown("TRUSTED_MIGRATIONS", left, known)


def _of_trusted_models(entries: Collection[str]) -> Iterator[Problem]:
    models = apps.get_models(include_auto_created=True) if entries else ()
    yield from _unknown("TRUSTED_MODELS", entries, {model._meta.label for model in models})


def _unknown(key: str, entries: Collection[str], known: Collection[str]) -> Iterator[Problem]:
    check, what, form = _TRUSTED[key]
    for entry in entries:
        if entry not in known:
            message = f'SCHEMA_RUNNER["{key}"] names {entry!r}, which is {what}.'
            yield Problem(check, message, did_you_mean(entry, known) or f"Write it as {form!r}.")


def _of_expected_changes(patterns: Collection[str]) -> Iterator[Problem]:
    """Yield the patterns that would match a table with a schema, or if they were the shell's."""
    models = apps.get_models(include_auto_created=True) if patterns else ()
    tables = [f"public.{model._meta.db_table}" for model in models]
    for pattern in patterns:
        shell = pattern.replace("\\", "").replace(".*", "*")
        for meant in (pattern, f"public.{pattern}", shell, f"public.{shell}"):
            if any(fnmatchcase(table, meant) for table in tables):
                break
        else:
            continue
        if meant != pattern:
            message = f'SCHEMA_RUNNER["EXPECTED_CHANGES"] has {pattern!r}, which matches no table.'
            yield Problem("W004", message, f"Did you mean {meant!r}?")


def _of_test_databases() -> Iterator[Problem]:
    """Yield keys of TEST that look like one that Django knows; a backend may have others."""
    for connection in _on_postgresql():
        for key in connection.settings_dict["TEST"].keys() - _TEST_KEYS:
            if hint := did_you_mean(str(key), _TEST_KEYS):
                entry = f"DATABASES[{connection.alias!r}]['TEST']"
                message = f"{entry} has {key!r}, which Django does not read."
                yield Problem("W008", message, hint)


def _of_folder(what: str, folder: str | None) -> Iterator[Problem]:
    if folder and (why := why_not_writable(Path(folder))):
        yield _unwritable(what, why)


def _unwritable(what: str, why: str, hint: str = "") -> Problem:
    return Problem("W006", f"Cannot write to {what}: {why}.", hint)


def _of_drivers() -> Iterator[Problem]:
    if _on_postgresql() and importlib.util.find_spec("psycopg2"):
        yield Problem(
            "W007",
            "psycopg2 is installed, but Django uses psycopg 3, which django-schema-runner needs.",
            f"Use psycopg 3 in production as well and uninstall psycopg2. Differences: {_DRIVERS}",
        )


def _on_postgresql() -> "list[BaseDatabaseWrapper]":
    return [one for one in connections.all() if one.vendor == "postgresql"]
