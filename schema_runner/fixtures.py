"""Reference data: the rows of FIXTURES and SEEDERS, present before any test."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.core.management import CommandError, call_command

from .postgres import sequences
from .postgres.reset import changes
from .settings import Problem, Settings, SettingsError, call

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def find_fixtures(label: str, *, alias: str) -> list[str]:
    """Return the files of a fixture; raise CommandError for one that `load` would not find."""
    # Where no fixture is named, neither is imported, and no serializer loaded.
    from django.core import serializers
    from django.core.management.commands import loaddata

    # What loaddata sets as it begins, in all versions from 5.2 to 6.1.
    search: Any = loaddata.Command()
    search.using, search.app_label, search.format, search.verbosity = alias, None, None, 0
    search.serialization_formats = serializers.get_public_serializer_formats()
    return sorted({path for path, *_ in search.find_fixtures(label)})


def refuse_missing_fixtures(settings: Settings, *, alias: str) -> None:
    """Raise SettingsError for fixtures that `load` would not find."""
    if missing := [*fixture_problems(settings, alias=alias)]:
        raise SettingsError(*missing)


def fixture_problems(settings: Settings, *, alias: str) -> Iterator[Problem]:
    """Yield each fixture that `load` would not find."""
    for label in settings.fixtures:
        try:
            find_fixtures(label, alias=alias)
        except CommandError as error:
            yield Problem(
                "E007",
                str(error),
                f'Correct SCHEMA_RUNNER["FIXTURES"], which names {label!r}; fixtures are sought '
                f"in the fixtures folders of apps and in FIXTURE_DIRS.",
            )


def load_reference_data(
    connection: "BaseDatabaseWrapper", settings: Settings, *, schema: str
) -> int | None:
    """Load the fixtures, call the seeders and move the sequences past what they inserted.

    Each seeder is called as `seeder(using=alias)`, as a `post_migrate` handler is told. Return
    the number of a transaction before those that have inserted rows, None if nothing does.
    """
    if not settings.fixtures and not settings.seeders:
        return None
    alias = connection.alias
    with connection.cursor() as cursor:
        before = changes.current_transaction(cursor)
    if settings.fixtures:
        call_command("loaddata", *settings.fixtures, verbosity=0, database=alias)
    for path in settings.seeders:
        call("SEEDERS", path, using=alias)
    with connection.cursor() as cursor:
        sequences.advance(cursor, schema)
    return before
