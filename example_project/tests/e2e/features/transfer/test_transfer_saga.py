"""Transferring in the background."""

from tests.cases import BackgroundCase
from transactions.errors import ProviderDeclinedError
from transactions.gateway import Request
from transactions.models import State


class TransferSagaTests(BackgroundCase):
    """The steps of a transfer, and how they can fail."""

    def setUp(self) -> None:
        super().setUp()
        self.ada, self.bob = self.make_user("ada"), self.make_user("bob")
        self.hers = self.make_account(self.ada, balance=1_000)
        self.his = self.make_account(self.bob)

    def test_money_is_nowhere_while_the_provider_clears(self) -> None:
        seen: list[tuple[int, int]] = []

        def look(_: Request) -> None:
            self.hers.refresh_from_db()
            self.his.refresh_from_db()
            seen.append((self.hers.balance, self.his.balance))

        self.gateway.before(look)
        self.carry_out("transfer", self.ada, amount=250, source=self.hers, target=self.his)
        self.assertEqual(seen, [(750, 0)])
        self.assert_balance(self.hers, 750)
        self.assert_balance(self.his, 250)

    def test_declined_returns_to_the_source(self) -> None:
        self.gateway.fail(ProviderDeclinedError("Suspicious."))
        failed = self.carry_out(
            "transfer", self.ada, amount=250, source=self.hers, target=self.his
        )
        self.assertEqual(failed.state, State.FAILED)
        reasons = list(failed.entries.values_list("reason", "amount"))
        self.assertEqual(reasons, [("debit", -250), ("debit_undone", 250)])
        self.assert_balance(self.hers, 1_000)

    def test_target_frozen_at_the_last_moment_returns_to_the_source(self) -> None:
        self.gateway.after(lambda _: self.his.freeze())
        failed = self.carry_out(
            "transfer", self.ada, amount=250, source=self.hers, target=self.his
        )
        self.assertEqual(
            list(failed.steps.values_list("name", "outcome")),
            [
                ("debit", "done"),
                ("provider", "done"),
                ("credit", "failed"),
                ("provider", "undone"),
                ("debit", "undone"),
            ],
        )
        self.assertEqual(self.gateway.cancelled, [str(failed.pk)])
        self.assert_balance(self.hers, 1_000)
        self.assert_balance(self.his, 0)

    def test_target_frozen_beforehand_never_reaches_the_provider(self) -> None:
        self.his.freeze()
        failed = self.carry_out(
            "transfer", self.ada, amount=250, source=self.hers, target=self.his
        )
        self.assertEqual(failed.error, "The target account is frozen.")
        self.assertNotIn(str(failed.pk), self.gateway.performed)
