"""Refunding over HTTP."""

from tests.cases import LiveCase


class RefundApiTests(LiveCase):
    """Refunds through a live server."""

    def test_reverses_a_transfer(self) -> None:
        ada, bob = self.customer("ada"), self.customer("bob")
        hers, his = ada.open_account(balance=100_00), bob.open_account()
        paid = ada.finished(ada.order("transfer", amount=40_00, source=hers, target=his))
        refund = ada.finished(ada.order("refund", refunds=paid["id"]))
        self.assertEqual((refund["state"], refund["amount"]), ("completed", 40_00))
        self.assertEqual((refund["source"], refund["target"]), (his, hers))
        self.assertEqual((ada.balance(hers), bob.balance(his)), (100_00, 0))

    def test_happens_once(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        paid = ada.finished(ada.order("top_up", amount=40_00, target=account))
        ada.finished(ada.order("refund", refunds=paid["id"]))
        again = ada.order("refund", refunds=paid["id"])
        self.assertEqual(again.status, 409)
        self.assertEqual(ada.balance(account), 0)

    def test_of_another_user_needs_an_operator(self) -> None:
        ada, bob = self.customer("ada"), self.customer("bob")
        account = ada.open_account()
        paid = ada.finished(ada.order("top_up", amount=40_00, target=account))
        self.assertEqual(bob.order("refund", refunds=paid["id"]).status, 403)
        bob.user.groups.add(self.make_operator().groups.get())
        self.assertEqual(bob.order("refund", refunds=paid["id"]).status, 202)
