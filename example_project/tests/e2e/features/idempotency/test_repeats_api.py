"""Repeated orders over HTTP."""

from tests.cases import LiveCase
from transactions.models import Transaction


class RepeatApiTests(LiveCase):
    """A client that did not get the first response sends its order again."""

    def test_gets_the_same_transaction(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        order = {"key": "once", "amount": 10_00, "target": account}
        first, second = ada.order("top_up", **order), ada.order("top_up", **order)
        self.assertEqual((first.status, second.status), (202, 200))
        self.assertEqual(first.data["id"], second.data["id"])
        ada.finished(first)
        self.assertEqual(ada.balance(account), 10_00)

    def test_long_after_the_end(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        order = {"key": "once", "amount": 10_00, "target": account}
        done = ada.finished(ada.order("top_up", **order))
        for _ in range(10):
            repeat = ada.order("top_up", **order).data
            self.assertEqual((repeat["id"], repeat["state"]), (done["id"], "completed"))
        self.assertEqual(ada.balance(account), 10_00)
        self.assertEqual(Transaction.objects.count(), 1)

    def test_key_of_another_order_is_a_conflict(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        ada.order("top_up", key="once", amount=10_00, target=account)
        reply = ada.order("top_up", key="once", amount=20_00, target=account)
        self.assertEqual(reply.status, 409)

    def test_key_of_another_customer_is_a_conflict(self) -> None:
        ada, bob = self.customer("ada"), self.customer("bob")
        ada.order("top_up", key="once", amount=1, target=ada.open_account())
        reply = bob.order("top_up", key="once", amount=1, target=bob.open_account())
        self.assertEqual(reply.status, 409)
        self.assertNotIn("id", reply.data)
