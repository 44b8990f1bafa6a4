"""The ledger: the only place where a balance changes."""

from dataclasses import dataclass

from accounts.models import Account
from transactions.errors import AccountFrozenError, InsufficientFundsError
from transactions.models import LedgerEntry, Transaction

Reason = LedgerEntry.Reason


@dataclass(frozen=True, slots=True)
class Posting:
    """A change to make to one side of a transaction."""

    account: Account
    amount: int
    reason: LedgerEntry.Reason


def sides(transaction: Transaction) -> dict[str, Account]:
    """Lock the accounts of a transaction, and return them as ``source`` and ``target``."""
    pks = {"source": transaction.source_id, "target": transaction.target_id}
    accounts = Account.objects.locked(*(pk for pk in pks.values() if pk is not None))
    return {side: accounts[pk] for side, pk in pks.items() if pk is not None}


def refuse_frozen(accounts: dict[str, Account]) -> None:
    """Raise AccountFrozenError if one of the accounts is frozen."""
    for side, account in sorted(accounts.items()):
        if not account.is_active:
            raise AccountFrozenError(f"The {side} account is frozen.")


def post(transaction: Transaction, posting: Posting) -> LedgerEntry:
    """Change the balance of an account that the caller has locked, and record the entry."""
    account = posting.account
    if account.balance + posting.amount < 0:
        raise InsufficientFundsError("The account does not hold enough.")
    account.balance += posting.amount
    account.version += 1
    account.save(update_fields=["balance", "version"])
    return LedgerEntry.objects.create(
        transaction=transaction,
        account=account,
        reason=posting.reason,
        amount=posting.amount,
        balance_after=account.balance,
    )
