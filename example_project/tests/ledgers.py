"""Long ledgers, written without executing transactions."""

from datetime import timedelta
from uuid import uuid4

from django.utils import timezone

from accounts.models import Account
from transactions.models import Kind, LedgerEntry, State, Transaction


def fill_ledger(account: Account, rows: int) -> int:
    """Write this number of top-ups of 1, 2, 3 and so on, and return their sum."""
    now = timezone.now()
    transactions = [
        Transaction(
            idempotency_key=uuid4().hex,
            kind=Kind.TOP_UP,
            state=State.COMPLETED,
            amount=amount,
            currency_id=account.currency_id,
            target=account,
            requested_by=account.owner,
            finished_at=now + timedelta(seconds=amount),
        )
        for amount in range(1, rows + 1)
    ]
    Transaction.objects.bulk_create(transactions)
    balance = account.balance
    entries = []
    for transaction in transactions:
        balance += transaction.amount
        entries.append(
            LedgerEntry(
                transaction=transaction,
                account=account,
                reason=LedgerEntry.Reason.CREDIT,
                amount=transaction.amount,
                balance_after=balance,
            )
        )
    LedgerEntry.objects.bulk_create(entries)
    added, account.balance = balance - account.balance, balance
    account.version += rows
    account.save(update_fields=["balance", "version"])
    return added
