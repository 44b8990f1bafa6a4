"""Reference data for runs without SEEDERS and FIXTURES."""

from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS

from currencies import reference
from currencies.models import Currency
from transactions.models import Limit


def ensure_reference_data() -> None:
    """Load missing rows, which only Django's own test runner leaves missing."""
    if not Currency.objects.exists():
        reference.seed(using=DEFAULT_DB_ALIAS)
    if not Limit.objects.exists():
        call_command("loaddata", "limits", verbosity=0)
