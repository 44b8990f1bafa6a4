"""Reference data: the rows of FIXTURES and SEEDERS, present before any test."""

from typing import TYPE_CHECKING

from django.core.management import call_command

from .postgres import sequences
from .settings import Settings, load_callable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def load(connection: "BaseDatabaseWrapper", settings: Settings, *, schema: str) -> None:
    """Load the fixtures, call the seeders and move the sequences past what they inserted.

    Each seeder is called as `seeder(using=alias)`, as a `post_migrate` handler is told.
    """
    alias = connection.alias
    if settings.fixtures:
        call_command("loaddata", *settings.fixtures, verbosity=0, database=alias)
    for path in settings.seeders:
        load_callable("SEEDERS", path)(using=alias)
    if settings.fixtures or settings.seeders:
        with connection.cursor() as cursor:
            sequences.advance(cursor, schema)
