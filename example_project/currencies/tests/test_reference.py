"""Reference data."""

from io import StringIO

from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connection
from django.test import TestCase

from currencies import reference
from currencies.models import Currency
from tests.cases import BackgroundCase, InlineCase
from transactions.models import Limit


class SeedTests(InlineCase):
    """The seeder can be called at any time."""

    def test_adds_no_row_twice(self) -> None:
        for _ in range(3):
            reference.seed(using=DEFAULT_DB_ALIAS)
        self.assertEqual(Currency.objects.count(), len(reference.ROWS))

    def test_mends_what_was_changed(self) -> None:
        Currency.objects.filter(code="JPY").update(exponent=2, name="?")
        reference.seed(using=DEFAULT_DB_ALIAS)
        yen = Currency.objects.get(code="JPY")
        self.assertEqual((yen.name, yen.exponent), ("Yen", 0))

    def test_command_seeds(self) -> None:
        Currency.objects.all().delete()
        call_command("seed_currencies", stdout=StringIO())
        self.assertEqual(Currency.objects.count(), len(reference.ROWS))


class SurvivalTests(BackgroundCase):
    """Reference data that a committed test deletes is there for the next test."""

    def spoil(self) -> None:
        self.assertEqual(Currency.objects.count(), len(reference.ROWS))
        self.assertEqual(Limit.objects.count(), 3)
        Limit.objects.all().delete()
        Currency.objects.filter(code="EUR").update(name="Spoilt")
        Currency.objects.exclude(code="EUR").delete()

    def test_first(self) -> None:
        self.spoil()
        self.assertEqual(Currency.objects.count(), 1)

    def test_second(self) -> None:
        self.assertEqual(Currency.objects.get(code="EUR").name, "Euro")
        self.spoil()


class SeededByTheRunnerTests(TestCase):
    """The rows of SEEDERS and FIXTURES exist without any code in the test."""

    def setUp(self) -> None:
        super().setUp()
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            (schema,) = cursor.fetchone()
        if not schema.startswith("test_w"):
            self.skipTest("Django's own test runner seeds nothing.")

    def test_currencies(self) -> None:
        codes = Currency.objects.values_list("code", flat=True)
        self.assertEqual(list(codes), [row.code for row in reference.ROWS])

    def test_limits(self) -> None:
        self.assertEqual(Limit.objects.get(pk="top_up").maximum, 10_000)
