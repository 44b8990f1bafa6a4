"""Transferring over HTTP."""

from tests.cases import LiveCase


class TransferApiTests(LiveCase):
    """Two customers of a live server."""

    def test_moves_money_between_customers(self) -> None:
        ada, bob = self.customer("ada"), self.customer("bob")
        hers, his = ada.open_account(balance=100_00), bob.open_account()
        done = ada.finished(ada.order("transfer", amount=40_00, source=hers, target=his))
        self.assertEqual(done["state"], "completed")
        self.assertEqual((ada.balance(hers), bob.balance(his)), (60_00, 40_00))

    def test_is_seen_by_both_sides_only(self) -> None:
        ada, bob, eve = (self.customer(name) for name in ("ada", "bob", "eve"))
        hers, his = ada.open_account(balance=100_00), bob.open_account()
        done = ada.finished(ada.order("transfer", amount=40_00, source=hers, target=his))
        path = f"/api/transactions/{done['id']}"
        statuses = [customer.get(path).status for customer in (ada, bob, eve)]
        self.assertEqual(statuses, [200, 200, 404])

    def test_goes_round_in_a_ring(self) -> None:
        ada = self.customer("ada")
        ring = [ada.open_account(balance=10_00) for _ in range(4)]
        replies = [
            ada.order("transfer", amount=1_00, source=source, target=target)
            for _ in range(2)
            for source, target in zip(ring, ring[1:] + ring[:1], strict=True)
        ]
        for reply in replies:
            self.assertEqual(ada.finished(reply)["state"], "completed")
        self.assertEqual([ada.balance(account) for account in ring], [10_00] * 4)


class TransferRefusalTests(LiveCase):
    """The responses of a live server to rejected orders."""

    def test_currencies_have_to_agree(self) -> None:
        ada = self.customer("ada")
        euros, yen = ada.open_account("EUR", balance=10_00), ada.open_account("JPY")
        reply = ada.order("transfer", amount=1, source=euros, target=yen)
        self.assertEqual(reply.status, 400)
        self.assertEqual(reply.data["error"], "The accounts have different currencies.")

    def test_malformed_orders_are_named(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        for details in (
            {"kind": "gift", "amount": 1, "target": account},
            {"kind": "top_up", "amount": "1", "target": account},
            {"kind": "top_up", "amount": True, "target": account},
            {"kind": "top_up", "amount": 1, "target": "nowhere"},
        ):
            with self.subTest(details):
                reply = ada.order(**details)
                self.assertEqual(reply.status, 400)
                self.assertTrue(reply.data["error"])

    def test_an_order_needs_a_key(self) -> None:
        ada = self.customer("ada")
        order = {"kind": "top_up", "amount": 1, "target": ada.open_account()}
        reply = ada.post("/api/transactions", order)
        self.assertEqual(reply.status, 400)
        self.assertIn("idempotency key", reply.data["error"])
