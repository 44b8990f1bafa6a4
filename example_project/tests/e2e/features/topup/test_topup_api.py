"""Topping up over HTTP."""

from uuid import uuid4

from tests.cases import LiveCase


class TopUpApiTests(LiveCase):
    """A customer tops up through a live server."""

    def test_is_accepted_at_once_and_completed_later(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        with self.gateway.held():
            reply = ada.order("top_up", amount=12_50, target=account)
            self.assertEqual(reply.status, 202)
            self.assertEqual(ada.balance(account), 0)
        self.assertEqual(ada.finished(reply)["state"], "completed")
        self.assertEqual(ada.balance(account), 12_50)

    def test_shows_its_steps(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        done = ada.finished(ada.order("top_up", amount=5_00, target=account))
        self.assertEqual(
            done["steps"],
            [{"name": "provider", "outcome": "done"}, {"name": "credit", "outcome": "done"}],
        )

    def test_many_add_up(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        replies = [ada.order("top_up", amount=n, target=account) for n in range(1, 13)]
        for reply in replies:
            self.assertEqual(ada.finished(reply)["state"], "completed")
        self.assertEqual(ada.balance(account), sum(range(1, 13)))

    def test_needs_a_token(self) -> None:
        order = {"kind": "top_up", "amount": 1, "target": str(uuid4())}
        headers = {"Idempotency-Key": "k", "Authorization": "Bearer forged"}
        reply = self.transport.send("POST", "/api/transactions", headers, order)
        self.assertEqual(reply.status, 401)
        self.assertIn("forged", reply.data["error"])
