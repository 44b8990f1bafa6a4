"""The steps of a transaction."""

from abc import ABC, abstractmethod
from typing import ClassVar

from transactions import ledger
from transactions.gateway import Operation, PaymentGateway, Request
from transactions.ledger import Posting, Reason
from transactions.models import Transaction


class Step(ABC):
    """A step that can be done and undone.

    A local step runs within the database transaction that records it, with the transaction's row
    locked. A remote one runs outside, so that no lock is held while another system decides; it
    must be safe to repeat.
    """

    name: ClassVar[str]
    is_remote: ClassVar[bool] = False

    @abstractmethod
    def do(self, transaction: Transaction) -> None:
        """Do the step, or raise ``StepError``."""

    @abstractmethod
    def undo(self, transaction: Transaction) -> None:
        """Undo the step; on frozen accounts too."""


class Debit(Step):
    """Take the amount from the source."""

    name = "debit"

    def do(self, transaction: Transaction) -> None:
        # Both sides: a frozen target should be found before the provider is called.
        accounts = ledger.sides(transaction)
        ledger.refuse_frozen(accounts)
        posting = Posting(accounts["source"], -transaction.amount, Reason.DEBIT)
        ledger.post(transaction, posting)

    def undo(self, transaction: Transaction) -> None:
        source = ledger.sides(transaction)["source"]
        ledger.post(transaction, Posting(source, transaction.amount, Reason.DEBIT_UNDONE))


class Credit(Step):
    """Give the amount to the target."""

    name = "credit"

    def do(self, transaction: Transaction) -> None:
        accounts = ledger.sides(transaction)
        ledger.refuse_frozen({"target": accounts["target"]})
        ledger.post(transaction, Posting(accounts["target"], transaction.amount, Reason.CREDIT))

    def undo(self, transaction: Transaction) -> None:
        target = ledger.sides(transaction)["target"]
        ledger.post(transaction, Posting(target, -transaction.amount, Reason.CREDIT_UNDONE))


class Provider(Step):
    """Let the payment provider move the money."""

    name = "provider"
    is_remote = True

    def __init__(self, gateway: PaymentGateway) -> None:
        self._gateway = gateway

    def do(self, transaction: Transaction) -> None:
        self._gateway.perform(
            Request(
                operation=_operation(transaction),
                reference=str(transaction.pk),
                amount=transaction.amount,
                currency=transaction.currency_id,
            )
        )

    def undo(self, transaction: Transaction) -> None:
        self._gateway.cancel(str(transaction.pk))


def plan(transaction: Transaction, gateway: PaymentGateway) -> list[Step]:
    """Return the steps of a transaction, in order.

    The source is debited before the provider is called, and the target credited afterwards, so
    that no money is spent twice.
    """
    steps: list[Step] = [Provider(gateway)]
    if transaction.source_id is not None:
        steps.insert(0, Debit())
    if transaction.target_id is not None:
        steps.append(Credit())
    return steps


def _operation(transaction: Transaction) -> Operation:
    if transaction.source_id is None:
        return Operation.COLLECT
    if transaction.target_id is None:
        return Operation.PAY_OUT
    return Operation.CLEAR
