"""Withdrawing in the background."""

from io import StringIO

from django.core.management import call_command

from tests.cases import BackgroundCase
from tests.waiting import TIMEOUT
from transactions.errors import ProviderDeclinedError, ProviderUnreachableError
from transactions.models import State, Transaction
from transactions.orders import accept


class WithdrawalSagaTests(BackgroundCase):
    """The steps of a withdrawal, and their compensation."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada, balance=1_000)

    def steps(self, transaction: Transaction) -> list[tuple[str, str]]:
        return list(transaction.steps.values_list("name", "outcome"))

    def test_debits_then_pays_out(self) -> None:
        done = self.carry_out("withdrawal", self.ada, amount=400, source=self.account)
        self.assertEqual(self.steps(done), [("debit", "done"), ("provider", "done")])
        self.assert_balance(self.account, 600)

    def test_is_undone_in_reverse_order(self) -> None:
        self.gateway.fail(ProviderDeclinedError("No."))
        failed = self.carry_out("withdrawal", self.ada, amount=400, source=self.account)
        self.assertEqual(
            self.steps(failed),
            [
                ("debit", "done"),
                ("provider", "failed"),
                ("provider", "undone"),
                ("debit", "undone"),
            ],
        )
        self.assert_balance(self.account, 1_000)
        self.assert_books_balance()

    def test_without_funds_never_reaches_the_provider(self) -> None:
        failed = self.carry_out("withdrawal", self.ada, amount=1_001, source=self.account)
        self.assertEqual(failed.error, "The account does not hold enough.")
        self.assertNotIn(str(failed.pk), self.gateway.performed)

    def test_gives_back_to_an_account_frozen_meanwhile(self) -> None:
        self.gateway.before(lambda _: self.account.freeze())
        self.gateway.fail(ProviderDeclinedError("No."))
        failed = self.carry_out("withdrawal", self.ada, amount=400, source=self.account)
        self.assertEqual(failed.state, State.FAILED)
        self.assert_balance(self.account, 1_000)

    def test_stuck_compensation_is_resumed(self) -> None:
        self.gateway.fail(ProviderDeclinedError("No."))
        self.gateway.fail_cancel(ProviderUnreachableError("Timed out."))
        stuck = accept(
            self.make_order("withdrawal", self.ada, amount=400, source=self.account)
        ).transaction
        with (
            self.assertRaises(ProviderUnreachableError),
            self.assertLogs("transactions.executor", "ERROR"),
        ):
            self.executor.drain(TIMEOUT)
        stuck.refresh_from_db()
        self.assertEqual(stuck.state, State.COMPENSATING)
        self.assert_balance(self.account, 600)

        call_command("resume_transactions", stdout=StringIO())
        stuck.refresh_from_db()
        self.assertEqual(stuck.state, State.FAILED)
        self.assert_balance(self.account, 1_000)

    def test_rush_never_overdraws(self) -> None:
        with self.settled():
            for _ in range(20):
                accept(self.make_order("withdrawal", self.ada, amount=70, source=self.account))
        states = list(
            Transaction.objects.filter(kind="withdrawal").values_list("state", flat=True)
        )
        self.assertEqual(states.count(State.COMPLETED), 14)
        self.assertEqual(states.count(State.FAILED), 6)
        self.assert_balance(self.account, 20)
        self.assert_books_balance()
