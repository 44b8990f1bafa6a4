"""The currencies that accounts are held in."""

from decimal import Decimal

from django.db import models
from django.db.models import Q


class Currency(models.Model):
    """A currency, by its ISO 4217 code."""

    code = models.CharField(max_length=3, primary_key=True)
    name = models.CharField(max_length=60, unique=True)
    exponent = models.PositiveSmallIntegerField(
        default=2, help_text="Digits after the decimal point: how minor units make a major one."
    )

    class Meta:
        ordering = ["code"]
        verbose_name_plural = "currencies"
        constraints = [
            models.CheckConstraint(
                condition=Q(code__regex=r"^[A-Z]{3}$"), name="currency_code_is_iso"
            ),
            models.CheckConstraint(
                condition=Q(exponent__lte=4), name="currency_exponent_is_small"
            ),
        ]

    def __str__(self) -> str:
        return self.code

    def major(self, minor: int) -> Decimal:
        """Return an amount of minor units in major ones."""
        return Decimal(minor).scaleb(-self.exponent)

    def format(self, minor: int) -> str:
        """Return a readable amount of minor units, such as ``1,234.50 EUR``."""
        return f"{self.major(minor):,.{self.exponent}f} {self.code}"
