"""Reference data: rows that every database of this project has."""

from typing import NamedTuple

from currencies.models import Currency


class Row(NamedTuple):
    code: str
    name: str
    exponent: int = 2


ROWS = (
    Row("CHF", "Swiss franc"),
    Row("EUR", "Euro"),
    Row("GBP", "Pound sterling"),
    Row("JPY", "Yen", 0),
    Row("KWD", "Kuwaiti dinar", 3),
    Row("NOK", "Norwegian krone"),
    Row("USD", "US dollar"),
)


def seed(*, using: str) -> None:
    """Create or update the currencies of a database; repeated calls have no effect."""
    Currency.objects.using(using).bulk_create(
        [Currency(**row._asdict()) for row in ROWS],
        update_conflicts=True,
        unique_fields=["code"],
        update_fields=["name", "exponent"],
    )
