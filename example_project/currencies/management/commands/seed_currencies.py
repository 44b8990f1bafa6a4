from django.core.management.base import BaseCommand
from django.db import DEFAULT_DB_ALIAS

from currencies import reference


class Command(BaseCommand):
    """Seed the reference data; in tests, the setting SEEDERS does it."""

    help = "Bring the currencies up to date."

    def handle(self, *args: object, **options: object) -> None:
        reference.seed(using=DEFAULT_DB_ALIAS)
        self.stdout.write(f"{len(reference.ROWS)} currencies are up to date.")
