"""Withdrawing over HTTP."""

from tests.cases import LiveCase
from transactions.errors import ProviderDeclinedError


class WithdrawalApiTests(LiveCase):
    """A customer withdraws through a live server."""

    def test_takes_the_money_out(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account(balance=100_00)
        done = ada.finished(ada.order("withdrawal", amount=30_00, source=account))
        self.assertEqual(done["state"], "completed")
        self.assertEqual(ada.balance(account), 70_00)

    def test_reserves_the_money_while_the_provider_thinks(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account(balance=100_00)
        with self.gateway.held():
            first = ada.order("withdrawal", amount=80_00, source=account)
            second = ada.order("withdrawal", amount=80_00, source=account)
        states = [ada.finished(reply)["state"] for reply in (first, second)]
        self.assertCountEqual(states, ["completed", "failed"])
        self.assertEqual(ada.balance(account), 20_00)

    def test_declined_gives_the_money_back(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account(balance=100_00)
        self.gateway.fail(ProviderDeclinedError("The bank is unknown."))
        failed = ada.finished(ada.order("withdrawal", amount=30_00, source=account))
        self.assertEqual((failed["state"], failed["error"]), ("failed", "The bank is unknown."))
        self.assertEqual(ada.balance(account), 100_00)

    def test_of_another_user_is_forbidden(self) -> None:
        ada, bob = self.customer("ada"), self.customer("bob")
        account = ada.open_account(balance=100_00)
        reply = bob.order("withdrawal", amount=1, source=account)
        self.assertEqual(reply.status, 403)
        self.assertEqual(ada.balance(account), 100_00)
