"""Orders of customers, which are checked and turned into transactions."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction as database

from accounts.access import is_operator, may_use
from accounts.models import Account
from transactions.apps import TransactionsConfig
from transactions.errors import OrderConflictError, OrderError, OrderForbiddenError
from transactions.models import Kind, Limit, State, Transaction

# The sides that an order of each kind names.
SIDES = {
    Kind.TOP_UP: (False, True),
    Kind.WITHDRAWAL: (True, False),
    Kind.TRANSFER: (True, True),
    Kind.REFUND: (False, False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request to move money; a refund only names the transaction to reverse."""

    key: str
    kind: Kind
    customer: User
    amount: int = 0
    source: UUID | None = None
    target: UUID | None = None
    refunds: UUID | None = None

    def matches(self, transaction: Transaction) -> bool:
        """Return whether a transaction was created by an order like this one."""
        asked = (self.kind, self.customer.pk, self.refunds)
        had = (transaction.kind, transaction.requested_by_id, transaction.refunds_id)
        if self.kind != Kind.REFUND:
            asked += (self.amount, self.source, self.target)
            had += (transaction.amount, transaction.source_id, transaction.target_id)
        return asked == had


class Acceptance(NamedTuple):
    """The transaction of an order, and whether this order is the one that created it."""

    transaction: Transaction
    is_new: bool


def accept(order: Order) -> Acceptance:
    """Accept an order; its transaction is executed once the caller's own has committed.

    An order with the key of an earlier one returns that one's transaction, even if both are posted
    concurrently.
    """
    if not 0 < len(order.key) <= 64:
        raise OrderError("An idempotency key has 1 to 64 characters.")
    earlier = Transaction.objects.filter(idempotency_key=order.key).first()
    acceptance = Acceptance(earlier, False) if earlier else _create(order)
    if not order.matches(acceptance.transaction):
        raise OrderConflictError("The idempotency key belongs to another order.")
    return acceptance


@database.atomic
def _create(order: Order) -> Acceptance:
    details = _refund(order) if order.kind == Kind.REFUND else _movement(order)
    transaction, is_new = Transaction.objects.get_or_create(
        idempotency_key=order.key,
        defaults={"kind": order.kind, "requested_by": order.customer, **details},
    )
    if is_new:
        start = TransactionsConfig.current().start_saga
        database.on_commit(partial(start, transaction.pk))
    return Acceptance(transaction, is_new)


def _movement(order: Order) -> dict[str, Any]:
    if SIDES[order.kind] != (order.source is not None, order.target is not None):
        raise OrderError(f"A {order.kind.label.lower()} does not have these sides.")
    if order.source == order.target:
        raise OrderError("Source and target are the same account.")
    source, target = _account(order.source), _account(order.target)
    used = source or target
    if not may_use(order.customer, used):
        raise OrderForbiddenError("The account belongs to another user.")
    if source and target and source.currency_id != target.currency_id:
        raise OrderError("The accounts have different currencies.")
    _check_amount(order, used)
    return {
        "amount": order.amount,
        "currency": used.currency,
        "source": source,
        "target": target,
    }


def _refund(order: Order) -> dict[str, Any]:
    # The lock serialises refunds of one transaction.
    originals = Transaction.objects.select_for_update(no_key=True)
    original = originals.filter(pk=order.refunds).first()
    if original is None:
        raise OrderError("There is no such transaction to refund.")
    if not (original.requested_by_id == order.customer.pk or is_operator(order.customer)):
        raise OrderForbiddenError("The transaction belongs to another user.")
    if original.kind == Kind.REFUND or original.state != State.COMPLETED:
        raise OrderConflictError("Only a completed transaction, no refund, can be refunded.")
    others = original.refunded_by.exclude(idempotency_key=order.key)
    if others.exclude(state=State.FAILED).exists():
        raise OrderConflictError("The transaction is refunded already.")
    return {
        "amount": original.amount,
        "currency_id": original.currency_id,
        "source_id": original.target_id,
        "target_id": original.source_id,
        "refunds": original,
    }


def _account(pk: UUID | None) -> Account | None:
    if pk is None:
        return None
    account = Account.objects.select_related("currency").filter(pk=pk).first()
    if account is None:
        raise OrderError("There is no such account.")
    return account


def _check_amount(order: Order, account: Account) -> None:
    if order.amount <= 0:
        raise OrderError("The amount is not positive.")
    limit = Limit.objects.filter(kind=order.kind).first()
    if limit is not None and account.currency.major(order.amount) > limit.maximum:
        raise OrderError(f"The amount is over the limit of {limit.maximum}.")
