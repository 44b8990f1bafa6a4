"""Load the reference data: the rows of FIXTURES and SEEDERS."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections
from django.db.backends.signals import connection_created
from psycopg.errors import ReadOnlySqlTransaction

from .errors import SchemaRunnerError, listing
from .postgres import sequences
from .postgres.reset import changes
from .search_path import Locations
from .settings import Problem, Settings, SettingsError, call

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def find_fixtures(label: str, *, alias: str) -> list[str]:
    """Return the paths of a fixture's files. Raises CommandError if `loaddata` finds none."""
    # Import these only if there are fixtures.
    from django.core import serializers
    from django.core.management.commands import loaddata

    # Set the attributes that loaddata.Command.handle sets in Django 5.2 to 6.1.
    command: Any = loaddata.Command()
    command.using, command.app_label, command.format, command.verbosity = alias, None, None, 0
    command.serialization_formats = serializers.get_public_serializer_formats()
    return sorted({path for path, *_ in command.find_fixtures(label)})


def refuse_missing_fixtures(settings: Settings, *, alias: str) -> None:
    """Raise SettingsError if `loaddata` would not find a fixture."""
    if problems := [*fixture_problems(settings, alias=alias)]:
        raise SettingsError(*problems)


def fixture_problems(settings: Settings, *, alias: str) -> Iterator[Problem]:
    """Yield a problem for each fixture that `loaddata` would not find."""
    for label in settings.fixtures:
        try:
            find_fixtures(label, alias=alias)
        except CommandError as error:
            yield Problem(
                "E007",
                str(error),
                f'Correct SCHEMA_RUNNER["FIXTURES"], which names {label!r}. Django looks for '
                f"fixtures in the `fixtures` folder of each app and in FIXTURE_DIRS.",
            )


def load_reference_data(
    connection: "BaseDatabaseWrapper", settings: Settings, *, schema: str
) -> int | None:
    """Load the fixtures, call each seeder with `using=alias`, and advance sequences.

    Return the id of a transaction that precedes those that wrote the rows, by which resets find
    them; None if there are neither fixtures nor seeders.
    """
    if not settings.fixtures and not settings.seeders:
        return None
    alias = connection.alias
    with connection.cursor() as cursor:
        before = changes.current_transaction(cursor)
    with _project_databases_read_only():
        if settings.fixtures:
            call_command("loaddata", *settings.fixtures, verbosity=0, database=alias)
        for path in settings.seeders:
            call("SEEDERS", path, using=alias)
    with connection.cursor() as cursor:
        sequences.advance(cursor, schema)
    return before


@contextmanager
def _project_databases_read_only() -> Iterator[None]:
    """Let no session change a database of an alias without a test database: the project's own.

    The run creates the test databases one after the other, and only those that tests use.
    """
    changed: dict[str, None] = {}

    def limit(connection: Any, **_: object) -> None:
        if connection.vendor == "postgresql" and Locations.of(connection.settings_dict) is None:
            changed[connection.alias] = None
            with connection.cursor() as cursor:
                cursor.execute("SET default_transaction_read_only = on")

    def close() -> None:
        for connection in connections.all(initialized_only=True):
            if (
                connection.vendor == "postgresql"
                and Locations.of(connection.settings_dict) is None
            ):
                connection.close()
                connection.close_pool()  # type: ignore[attr-defined]

    close()
    connection_created.connect(limit)
    try:
        yield
    except (DatabaseError, ReadOnlySqlTransaction) as error:
        # Django leaves the errors of COPY as they are.
        if not isinstance(error.__cause__ or error, ReadOnlySqlTransaction):
            raise
        aliases = listing([f"alias {alias!r}" for alias in changed])
        raise SchemaRunnerError(
            f"FIXTURES or SEEDERS would change the project's own database, because {aliases} has "
            f"no test database yet: {error}\nIn seeders and signal handlers, write to the alias "
            f"that they get as `using`. The runner loads fixtures, and calls seeders, for each "
            f"PostgreSQL alias."
        ) from error
    finally:
        connection_created.disconnect(limit)
        close()
