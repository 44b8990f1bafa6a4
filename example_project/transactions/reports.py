"""Reports on the ledger."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from django.db.models import Count, F, QuerySet, Sum, Window
from django.db.models.functions import Coalesce, TruncDate

from accounts.models import Account
from currencies.models import Currency
from transactions.models import LedgerEntry, State, Transaction


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a statement, in minor units."""

    at: datetime
    kind: str
    reason: str
    amount: int
    balance: int


@dataclass(frozen=True, slots=True)
class Statement:
    """The entries of one account, oldest first."""

    account: Account
    lines: list[Line]

    @property
    def closing(self) -> int:
        return self.lines[-1].balance if self.lines else 0

    @property
    def totals(self) -> dict[str, int]:
        """The sum of each kind of transaction."""
        totals: Counter[str] = Counter()
        for line in self.lines:
            totals[line.kind] += line.amount
        return dict(totals)


@dataclass(frozen=True, slots=True)
class DayVolume:
    """The sum that completed transactions of one day and kind moved."""

    day: date
    kind: str
    count: int
    amount: int


def statement_rows(account: Account) -> QuerySet[LedgerEntry, tuple]:
    """Return the rows of a statement, with balances summed up by the database."""
    running = Window(Sum("amount"), order_by=F("id").asc())
    return (
        account.entries.annotate(kind=F("transaction__kind"), running=running)
        .order_by("id")
        .values_list("created_at", "kind", "reason", "amount", "running", named=True)
    )


def statement(account: Account) -> Statement:
    """Return the statement of an account."""
    return Statement(account, [_line(row) for row in statement_rows(account).iterator()])


async def astatement(account: Account) -> Statement:
    """Return the statement of an account from async code."""
    return Statement(account, [_line(row) async for row in statement_rows(account)])


def daily_volumes(currency: Currency) -> list[DayVolume]:
    """Return the sum that each kind of transaction moved in a currency, by day."""
    rows = (
        Transaction.objects.filter(currency=currency, state=State.COMPLETED)
        .annotate(day=TruncDate("created_at"))
        .values("day", "kind")
        .annotate(count=Count("pk"), total=Sum("amount"))
        .order_by("day", "kind")
    )
    return [DayVolume(row["day"], row["kind"], row["count"], row["total"]) for row in rows]


def discrepancies(accounts: Iterable[Account] | None = None) -> list[Account]:
    """Return the accounts whose balance is not the sum of their entries."""
    queryset = Account.objects.all()
    if accounts is not None:
        queryset = queryset.filter(pk__in=[account.pk for account in accounts])
    total = Coalesce(Sum("entries__amount"), 0)
    return list(queryset.annotate(total=total).exclude(balance=F("total")))


def _line(row: tuple) -> Line:
    at, kind, reason, amount, balance = row
    return Line(at, kind, reason, amount, int(balance))
