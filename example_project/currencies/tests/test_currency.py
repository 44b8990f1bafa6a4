"""Currencies and their amounts."""

from decimal import Decimal

from django.db import IntegrityError
from django.test import SimpleTestCase

from currencies.models import Currency
from tests.cases import InlineCase


class AmountTests(SimpleTestCase):
    """Minor units and major ones."""

    def test_exponent_places_the_point(self) -> None:
        for exponent, major in ((0, "1234"), (2, "12.34"), (3, "1.234")):
            with self.subTest(exponent=exponent):
                currency = Currency(code="XXX", exponent=exponent)
                self.assertEqual(currency.major(1234), Decimal(major))

    def test_text_groups_thousands(self) -> None:
        self.assertEqual(Currency(code="EUR").format(123456789), "1,234,567.89 EUR")
        self.assertEqual(Currency(code="JPY", exponent=0).format(-5000), "-5,000 JPY")


class CurrencyConstraintTests(InlineCase):
    """Rows that the database rejects."""

    def test_code_is_three_capitals(self) -> None:
        with self.assertRaisesMessage(IntegrityError, "currency_code_is_iso"):
            Currency.objects.create(code="eu", name="Lower")

    def test_exponent_is_small(self) -> None:
        with self.assertRaisesMessage(IntegrityError, "currency_exponent_is_small"):
            Currency.objects.create(code="XXX", name="Fine", exponent=5)
