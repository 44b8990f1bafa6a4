"""Which withdrawals are accepted."""

from uuid import uuid4

from tests.cases import InlineCase
from transactions.errors import OrderError, OrderForbiddenError
from transactions.models import Kind, State, Transaction
from transactions.orders import Order, accept


class WithdrawalRulesTests(InlineCase):
    """Rules are checked when an order arrives, funds when it is executed."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada, balance=1_000)

    def test_lack_of_funds_fails_later(self) -> None:
        failed = self.carry_out("withdrawal", self.ada, amount=1_001, source=self.account)
        self.assertEqual(failed.state, State.FAILED)
        self.assertIsNotNone(failed.finished_at)

    def test_everything_may_be_taken(self) -> None:
        self.carry_out("withdrawal", self.ada, amount=1_000, source=self.account)
        self.assert_balance(self.account, 0)

    def test_frozen_account_gives_nothing(self) -> None:
        self.account.freeze()
        failed = self.carry_out("withdrawal", self.ada, amount=1, source=self.account)
        self.assertEqual(failed.error, "The source account is frozen.")

    def test_unknown_account_is_refused(self) -> None:
        order = Order(key="k", kind=Kind.WITHDRAWAL, customer=self.ada, amount=1, source=uuid4())
        with self.assertRaisesMessage(OrderError, "no such account"):
            accept(order)

    def test_of_another_user_is_refused(self) -> None:
        bob = self.make_user("bob")
        order = self.make_order("withdrawal", bob, amount=1, source=self.account)
        with self.assertRaises(OrderForbiddenError):
            accept(order)

    def test_many_small_ones_add_up(self) -> None:
        for _ in range(20):
            self.carry_out("withdrawal", self.ada, amount=50, source=self.account)
        self.assert_balance(self.account, 0)
        done = Transaction.objects.filter(kind="withdrawal", state=State.COMPLETED)
        self.assertEqual(done.count(), 20)
