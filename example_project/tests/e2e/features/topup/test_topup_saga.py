"""Topping up in the background."""

from tests.cases import BackgroundCase
from transactions.errors import ProviderDeclinedError, ProviderUnreachableError
from transactions.gateway import Request
from transactions.models import State
from transactions.orders import accept


class TopUpSagaTests(BackgroundCase):
    """The steps of a top-up run in background threads."""

    def test_collects_before_it_credits(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        balances: list[int] = []

        def note_balance(_: Request) -> None:
            account.refresh_from_db()
            balances.append(account.balance)

        self.gateway.after(note_balance)
        done = self.carry_out("top_up", ada, amount=700, target=account)
        self.assertEqual(done.state, State.COMPLETED)
        self.assertEqual(balances, [0])
        self.assert_balance(account, 700)

    def test_declined_leaves_nothing_behind(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        self.gateway.fail(ProviderDeclinedError("The card has expired."))
        failed = self.carry_out("top_up", ada, amount=700, target=account)
        self.assertEqual(failed.state, State.FAILED)
        self.assertEqual(failed.error, "The card has expired.")
        self.assertFalse(failed.entries.exists())
        self.assert_balance(account, 0)

    def test_collected_is_given_back_when_the_account_froze_meanwhile(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        self.gateway.after(lambda _: account.freeze())
        failed = self.carry_out("top_up", ada, amount=700, target=account)
        self.assertEqual(failed.error, "The target account is frozen.")
        self.assertEqual(self.gateway.performed, [str(failed.pk)])
        self.assertEqual(self.gateway.cancelled, [str(failed.pk)])
        self.assert_balance(account, 0)

    def test_lost_answer_cancels_what_was_collected(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)

        def lose_answer(_: Request) -> None:
            raise ProviderUnreachableError("Timed out.")

        self.gateway.after(lose_answer)
        failed = self.carry_out("top_up", ada, amount=700, target=account)
        self.assertEqual(failed.state, State.FAILED)
        self.assertEqual(self.gateway.cancelled, [str(failed.pk)])

    def test_many_at_once_lose_no_update(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        with self.settled():
            for _ in range(25):
                accept(self.make_order("top_up", ada, amount=25, target=account))
        self.assert_balance(account, 25 * 25)
        self.assertEqual(account.version, 25)
        self.assert_books_balance()
