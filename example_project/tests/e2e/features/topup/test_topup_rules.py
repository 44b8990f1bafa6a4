"""Which top-ups are accepted."""

from tests.cases import InlineCase
from transactions.errors import OrderError, OrderForbiddenError
from transactions.models import Limit, Transaction
from transactions.orders import accept


class TopUpRulesTests(InlineCase):
    """An order that breaks a rule writes nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada)

    def refuse(self, error: type[OrderError], message: str, **details: object) -> None:
        order = self.make_order("top_up", **{"customer": self.ada, **details})
        with self.assertRaisesMessage(error, message):
            accept(order)
        self.assertFalse(Transaction.objects.exists())

    def test_amount_is_positive(self) -> None:
        for amount in (0, -1):
            self.refuse(OrderError, "not positive", amount=amount, target=self.account)

    def test_amount_is_within_the_limit(self) -> None:
        limit = Limit.objects.get(pk="top_up").maximum
        over = limit * 100 + 1
        self.refuse(OrderError, "over the limit", amount=over, target=self.account)
        done = self.carry_out("top_up", self.ada, amount=limit * 100, target=self.account)
        self.assertEqual(done.state, "completed")

    def test_limit_counts_major_units(self) -> None:
        yen = self.make_account(self.ada, "JPY", balance=10_000)
        self.assert_balance(yen, 10_000)
        order = self.make_order("top_up", self.ada, amount=10_001, target=yen)
        with self.assertRaisesMessage(OrderError, "over the limit"):
            accept(order)

    def test_has_a_target_and_no_source(self) -> None:
        self.refuse(OrderError, "these sides", amount=1, source=self.account)
        other = self.make_account(self.ada)
        self.refuse(OrderError, "these sides", amount=1, source=self.account, target=other)

    def test_is_on_ones_own_account(self) -> None:
        bob = self.make_user("bob")
        self.refuse(
            OrderForbiddenError, "another user", customer=bob, amount=1, target=self.account
        )

    def test_operators_may_top_up_for_others(self) -> None:
        operator = self.make_operator()
        self.carry_out("top_up", operator, amount=300, target=self.account)
        self.assert_balance(self.account, 300)
