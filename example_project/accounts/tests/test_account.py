"""Accounts and their constraints."""

import threading

from django.contrib.auth.models import Group
from django.db import IntegrityError, connections, transaction
from django.db.models import ProtectedError

from accounts.access import OPERATORS
from accounts.models import Account
from tests.cases import BackgroundCase, InlineCase
from tests.waiting import TIMEOUT


class AccountTests(InlineCase):
    """Properties of every account."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada)

    def test_balance_is_never_negative(self) -> None:
        self.account.balance = -1
        with self.assertRaisesMessage(IntegrityError, "account_balance_not_negative"):
            self.account.save()

    def test_status_is_known(self) -> None:
        self.account.status = "lost"
        with self.assertRaisesMessage(IntegrityError, "account_status_is_known"):
            self.account.save()

    def test_version_counts_changes(self) -> None:
        for _ in range(20):
            self.carry_out("top_up", self.ada, amount=5, target=self.account)
        self.account.refresh_from_db()
        self.assertEqual(self.account.version, 20)

    def test_currency_in_use_cannot_be_deleted(self) -> None:
        with self.assertRaises(ProtectedError):
            self.account.currency.delete()

    def test_balance_reads_well(self) -> None:
        self.assertEqual(self.account.balance_text, "0.00 EUR")
        self.assertEqual(str(self.account), "EUR account of ada")


class LockingTests(BackgroundCase):
    """Accounts are locked in one order, regardless of the requested one."""

    def test_opposite_orders_do_not_deadlock(self) -> None:
        ada = self.make_user("ada")
        one, two = self.make_account(ada), self.make_account(ada)
        barrier = threading.Barrier(2, timeout=TIMEOUT)
        errors: list[Exception] = []

        def lock(*pks: object) -> None:
            try:
                for _ in range(50):
                    barrier.wait()
                    with transaction.atomic():
                        for account in Account.objects.locked(*pks).values():
                            account.balance += 1
                            account.save()
            except Exception as error:
                errors.append(error)
            finally:
                connections.close_all()

        orders = ((one.pk, two.pk), (two.pk, one.pk))
        threads = [threading.Thread(target=lock, args=order) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assert_balance(one, 100)
        self.assert_balance(two, 100)

    def test_operators_of_the_data_migration_survive_flushes(self) -> None:
        self.assertTrue(Group.objects.filter(name=OPERATORS).exists())
