"""Which transfers are accepted."""

from itertools import pairwise

from tests.cases import InlineCase
from transactions.errors import OrderError
from transactions.models import Kind
from transactions.orders import Order, accept


class TransferRulesTests(InlineCase):
    """Transfers within one database transaction."""

    def setUp(self) -> None:
        super().setUp()
        self.ada, self.bob = self.make_user("ada"), self.make_user("bob")
        self.hers = self.make_account(self.ada, balance=5_000)
        self.his = self.make_account(self.bob)

    def test_to_the_same_account_is_refused(self) -> None:
        order = Order(
            key="k",
            kind=Kind.TRANSFER,
            customer=self.ada,
            amount=1,
            source=self.hers.pk,
            target=self.hers.pk,
        )
        with self.assertRaisesMessage(OrderError, "same account"):
            accept(order)

    def test_to_another_currency_is_refused(self) -> None:
        dollars = self.make_account(self.bob, "USD")
        order = self.make_order("transfer", self.ada, amount=1, source=self.hers, target=dollars)
        with self.assertRaisesMessage(OrderError, "different currencies"):
            accept(order)

    def test_chain_of_accounts_passes_everything_on(self) -> None:
        chain = [self.hers, *(self.make_account(self.ada) for _ in range(20))]
        for source, target in pairwise(chain):
            self.carry_out("transfer", self.ada, amount=5_000, source=source, target=target)
        self.assert_balance(chain[0], 0)
        self.assert_balance(chain[-1], 5_000)
        self.assert_books_balance()

    def test_entries_tell_balances_as_they_were(self) -> None:
        for amount in (100, 200, 300):
            self.carry_out("transfer", self.ada, amount=amount, source=self.hers, target=self.his)
        balances = list(self.his.entries.values_list("balance_after", flat=True))
        self.assertEqual(balances, [100, 300, 600])
