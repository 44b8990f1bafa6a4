"""Which orders count as the same."""

from tests.cases import InlineCase
from transactions.errors import OrderConflictError, OrderError
from transactions.models import Transaction
from transactions.orders import accept
from transactions.saga import Saga


class RepeatRulesTests(InlineCase):
    """Repeats within one thread."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada, balance=1_000)

    def test_repeat_creates_and_moves_nothing(self) -> None:
        for _ in range(10):
            self.carry_out("withdrawal", self.ada, key="k", amount=100, source=self.account)
        self.assert_balance(self.account, 900)
        self.assertEqual(Transaction.objects.filter(kind="withdrawal").count(), 1)

    def test_repeat_of_a_failed_order_stays_failed(self) -> None:
        order = {"key": "k", "amount": 1_500, "source": self.account}
        failed = self.carry_out("withdrawal", self.ada, **order)
        self.carry_out("top_up", self.ada, amount=1_000, target=self.account)
        again = self.carry_out("withdrawal", self.ada, **order)
        self.assertEqual((again.pk, again.state), (failed.pk, "failed"))
        self.assert_balance(self.account, 2_000)

    def test_every_detail_counts(self) -> None:
        other = self.make_account(self.ada)
        order = {"key": "k", "amount": 100, "source": self.account}
        self.carry_out("withdrawal", self.ada, **order)
        for difference in ({"amount": 101}, {"source": other}):
            with self.subTest(difference), self.assertRaises(OrderConflictError):
                accept(self.make_order("withdrawal", self.ada, **{**order, **difference}))

    def test_keys_have_a_length(self) -> None:
        order = self.make_order("withdrawal", self.ada, amount=1, source=self.account)
        accept(order)
        for key in (" " * 65, "x" * 65):
            long = self.make_order("withdrawal", self.ada, key=key, amount=1, source=self.account)
            with self.assertRaisesMessage(OrderError, "1 to 64 characters"):
                accept(long)

    def test_running_a_finished_transaction_again_does_nothing(self) -> None:
        done = self.carry_out("withdrawal", self.ada, amount=100, source=self.account)
        for _ in range(20):
            Saga(self.gateway).run(done.pk)
        self.assert_balance(self.account, 900)
        self.assertEqual(done.steps.count(), 2)
