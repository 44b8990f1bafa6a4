"""Rows that the database rejects, regardless of the code."""

from uuid import uuid4

from django.db import IntegrityError, transaction
from django.utils import timezone

from tests.cases import InlineCase
from transactions.models import LedgerEntry, Transaction


class TransactionConstraintTests(InlineCase):
    """Inconsistent rows of transactions."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada, balance=100)
        self.done = Transaction.objects.get()

    def refuse(self, constraint: str, **details: object) -> None:
        sound = {
            "idempotency_key": uuid4().hex,
            "kind": "top_up",
            "amount": 1,
            "currency_id": "EUR",
            "target": self.account,
            "requested_by": self.ada,
        }
        with self.assertRaisesMessage(IntegrityError, constraint), transaction.atomic():
            Transaction.objects.create(**{**sound, **details})

    def test_amount_is_positive(self) -> None:
        self.refuse("transaction_amount_positive", amount=0)

    def test_sides_match_the_kind(self) -> None:
        self.refuse("transaction_sides_match_kind", kind="withdrawal")

    def test_sides_differ(self) -> None:
        self.refuse("transaction_sides_differ", kind="transfer", source=self.account)

    def test_refund_names_its_original(self) -> None:
        self.refuse("transaction_refund_names_original", kind="refund")
        self.refuse("transaction_refund_names_original", refunds=self.done)

    def test_final_states_have_an_end(self) -> None:
        self.refuse("transaction_finished_when_final", state="completed")
        self.refuse("transaction_finished_when_final", finished_at=timezone.now())

    def test_key_is_unique(self) -> None:
        self.refuse("idempotency_key", idempotency_key=self.done.idempotency_key)

    def test_money_moves_once(self) -> None:
        entry = LedgerEntry.objects.get()
        entry.pk = None
        with self.assertRaisesMessage(IntegrityError, "entry_once"), transaction.atomic():
            entry.save()
