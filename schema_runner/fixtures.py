"""Load the reference data: the rows of FIXTURES and SEEDERS."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections
from psycopg.errors import ReadOnlySqlTransaction

from .errors import SchemaRunnerError
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
    with _project_databases_read_only(alias):
        if settings.fixtures:
            call_command("loaddata", *settings.fixtures, verbosity=0, database=alias)
        for path in settings.seeders:
            call("SEEDERS", path, using=alias)
    with connection.cursor() as cursor:
        sequences.advance(cursor, schema)
    return before


@contextmanager
def _project_databases_read_only(seeded: str) -> Iterator[None]:
    """Refuse what changes aliases other than `seeded` that have no test database.

    The run creates the test databases one after the other, and only those that tests use.
    """
    with ExitStack() as stack:
        for other in connections.all():
            if other.vendor == "postgresql" and other.alias != seeded:
                stack.enter_context(other.execute_wrapper(_execute_read_only))
                for name in ("make_cursor", "make_debug_cursor"):
                    setattr(other, name, partial(_make_read_only, getattr(other, name)))
                    stack.callback(delattr, other, name)
        yield


def _execute_read_only(
    execute: Any, statement: Any, params: Any, many: bool, context: Any
) -> object:
    used = context["connection"]
    if Locations.of(used.settings_dict) is not None:
        return execute(statement, params, many, context)
    # In an atomic block, the statement may be a savepoint, which would end with a transaction.
    with nullcontext() if used.in_atomic_block else used.connection.transaction():
        used.connection.execute("SET TRANSACTION READ ONLY")
        try:
            return execute(statement, params, many, context)
        except DatabaseError as error:
            if isinstance(error.__cause__, ReadOnlySqlTransaction):
                _refuse_change(used.alias, statement)
            raise


def _make_read_only(make: Any, cursor: Any) -> Any:
    wrapper = make(cursor)
    if Locations.of(wrapper.db.settings_dict) is None:
        # Execute wrappers do not see the calls of these.
        for name in ("callproc", "copy", "stream"):
            setattr(wrapper, name, partial(_refuse_change, wrapper.db.alias))
    return wrapper


def _refuse_change(alias: str, statement: object, *_: object, **__: object) -> NoReturn:
    raise SchemaRunnerError(
        f"FIXTURES or SEEDERS would change the project's own database, because alias {alias!r} "
        f"has no test database yet: {' '.join(str(statement).split())}\nIn seeders and signal "
        f"handlers, write to the alias that they get as `using`. The runner loads fixtures, and "
        f"calls seeders, for each PostgreSQL alias."
    )
