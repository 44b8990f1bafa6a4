"""Which refunds are accepted."""

from uuid import uuid4

from django.db import IntegrityError, transaction

from tests.cases import InlineCase
from transactions.errors import OrderConflictError, OrderError, OrderForbiddenError
from transactions.models import Kind, State
from transactions.orders import Order, accept


class RefundRulesTests(InlineCase):
    """Only completed transactions can be refunded, and each of them once."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada, balance=1_000)

    def test_unknown_original_is_refused(self) -> None:
        order = Order(key="k", kind=Kind.REFUND, customer=self.ada, refunds=uuid4())
        with self.assertRaisesMessage(OrderError, "no such transaction"):
            accept(order)

    def test_failed_original_is_refused(self) -> None:
        failed = self.carry_out("withdrawal", self.ada, amount=1_001, source=self.account)
        with self.assertRaises(OrderConflictError):
            accept(self.make_order("refund", self.ada, refunds=failed))

    def test_customer_of_another_transaction_is_refused(self) -> None:
        done = self.carry_out("withdrawal", self.ada, amount=10, source=self.account)
        bob = self.make_user("bob")
        with self.assertRaises(OrderForbiddenError):
            accept(self.make_order("refund", bob, refunds=done))

    def test_operator_may_refund_for_others(self) -> None:
        done = self.carry_out("withdrawal", self.ada, amount=10, source=self.account)
        refund = self.carry_out("refund", self.make_operator(), refunds=done)
        self.assertEqual(refund.state, State.COMPLETED)
        self.assert_balance(self.account, 1_000)

    def test_database_allows_one_refund_whatever_the_code_does(self) -> None:
        done = self.carry_out("withdrawal", self.ada, amount=10, source=self.account)
        refund = self.carry_out("refund", self.ada, refunds=done)
        refund.pk, refund.idempotency_key = uuid4(), "another"
        with (
            self.assertRaisesMessage(IntegrityError, "transaction_one_refund"),
            transaction.atomic(),
        ):
            refund.save(force_insert=True)

    def test_a_day_of_refunds_brings_everything_back(self) -> None:
        paid = [
            self.carry_out("withdrawal", self.ada, amount=n, source=self.account)
            for n in range(1, 13)
        ]
        for original in paid:
            self.carry_out("refund", self.ada, refunds=original)
        self.assert_balance(self.account, 1_000)
        self.assert_books_balance()
