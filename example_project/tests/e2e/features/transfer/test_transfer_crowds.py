"""Many transfers at once."""

from itertools import permutations

from django.db.models import Sum

from accounts.models import Account
from tests.cases import BackgroundCase
from transactions.errors import ProviderDeclinedError
from transactions.gateway import Request
from transactions.models import State, Transaction
from transactions.orders import accept


class OppositeTransfersTests(BackgroundCase):
    """Pairs of accounts that pay each other: another order of locks would deadlock."""

    def test_two_accounts(self) -> None:
        ada = self.make_user("ada")
        one, two = (self.make_account(ada, balance=1_000) for _ in range(2))
        with self.settled():
            for _ in range(12):
                accept(self.make_order("transfer", ada, amount=10, source=one, target=two))
                accept(self.make_order("transfer", ada, amount=10, source=two, target=one))
        self.assertEqual(Transaction.objects.exclude(state=State.COMPLETED).count(), 0)
        self.assert_balance(one, 1_000)
        self.assert_balance(two, 1_000)
        self.assert_books_balance()

    def test_every_pair_of_four_accounts(self) -> None:
        ada = self.make_user("ada")
        accounts = [self.make_account(ada, balance=1_000) for _ in range(4)]
        with self.settled():
            for _ in range(2):
                for source, target in permutations(accounts, 2):
                    accept(
                        self.make_order("transfer", ada, amount=7, source=source, target=target)
                    )
        for account in accounts:
            self.assert_balance(account, 1_000)
        self.assert_books_balance()


class TroubledTransfersTests(BackgroundCase):
    """Many transfers, some of which fail."""

    def test_money_is_neither_made_nor_lost(self) -> None:
        ada = self.make_user("ada")
        accounts = [self.make_account(ada, balance=100) for _ in range(4)]

        def decline_odd_amounts(request: Request) -> None:
            if request.amount % 2:
                raise ProviderDeclinedError("Odd.")

        self.gateway.before(decline_odd_amounts)
        with self.settled():
            for amount in range(1, 4):
                for source, target in permutations(accounts, 2):
                    accept(
                        self.make_order(
                            "transfer", ada, amount=amount, source=source, target=target
                        )
                    )
        transfers = Transaction.objects.filter(kind="transfer")
        self.assertEqual(transfers.filter(state=State.FAILED).count(), 24)
        self.assertEqual(transfers.filter(state=State.COMPLETED).count(), 12)
        self.assertEqual(Account.objects.aggregate(all=Sum("balance"))["all"], 400)
        self.assert_books_balance()

    def test_only_what_is_there_is_spent(self) -> None:
        ada, bob = self.make_user("ada"), self.make_user("bob")
        hers, his = self.make_account(ada, balance=100), self.make_account(bob)
        with self.settled():
            for _ in range(20):
                accept(self.make_order("transfer", ada, amount=9, source=hers, target=his))
        self.assert_balance(hers, 1)
        self.assert_balance(his, 99)
        self.assert_books_balance()
