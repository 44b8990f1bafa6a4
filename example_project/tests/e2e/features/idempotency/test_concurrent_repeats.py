"""Concurrent posts of the same order."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from django.db import connections

from tests.cases import BackgroundCase, LiveCase
from tests.waiting import TIMEOUT
from transactions.models import StepRecord, Transaction
from transactions.orders import Order, accept
from transactions.saga import Saga

SIDES = 4


def together(job: Callable[[], object]) -> list[object]:
    """Run a job in several threads that start at the same moment."""
    barrier = threading.Barrier(SIDES, timeout=TIMEOUT)

    def run() -> object:
        try:
            barrier.wait()
            return job()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(SIDES) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(SIDES)]]


class ConcurrentRepeatsTests(BackgroundCase):
    """Threads accept the same order."""

    def accept_together(self, order: Order) -> set[UUID]:
        with self.settled():
            acceptances = together(lambda: accept(order))
        self.assertEqual([one.is_new for one in acceptances].count(True), 1)
        return {one.transaction.pk for one in acceptances}

    def test_top_ups(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        for n in range(5):
            order = self.make_order("top_up", ada, key=f"k{n}", amount=100, target=account)
            self.assertEqual(len(self.accept_together(order)), 1)
        self.assert_balance(account, 500)
        self.assert_books_balance()

    def test_transfers(self) -> None:
        ada = self.make_user("ada")
        one, two = self.make_account(ada, balance=1_000), self.make_account(ada)
        for n in range(5):
            order = self.make_order(
                "transfer", ada, key=f"k{n}", amount=100, source=one, target=two
            )
            self.assertEqual(len(self.accept_together(order)), 1)
        self.assert_balance(one, 500)
        self.assert_balance(two, 500)

    def test_refunds(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        paid = self.carry_out("top_up", ada, amount=100, target=account)
        order = self.make_order("refund", ada, key="back", refunds=paid)
        self.assertEqual(len(self.accept_together(order)), 1)
        self.assert_balance(account, 0)


class ConcurrentRunnersTests(BackgroundCase):
    """Several runners run the same transaction, as after an early resume."""

    def test_each_step_is_done_once(self) -> None:
        ada = self.make_user("ada")
        one, two = self.make_account(ada, balance=1_000), self.make_account(ada)
        saga = Saga(self.gateway)
        for _ in range(5):
            order = self.make_order("transfer", ada, amount=100, source=one, target=two)
            with self.settled():
                transaction = accept(order).transaction
                together(lambda pk=transaction.pk: saga.run(pk))
            self.assertEqual(transaction.steps.count(), 3)
            self.assertEqual(transaction.entries.count(), 2)
        self.assert_balance(one, 500)
        self.assert_balance(two, 500)
        self.assertEqual(self.gateway.performed.count(str(transaction.pk)), 1)

    def test_each_step_is_undone_once(self) -> None:
        ada = self.make_user("ada")
        one, two = self.make_account(ada, balance=1_000), self.make_account(ada)
        self.gateway.after(lambda _: two.freeze())
        saga = Saga(self.gateway)
        with self.settled():
            transaction = accept(
                self.make_order("transfer", ada, amount=100, source=one, target=two)
            ).transaction
            together(lambda: saga.run(transaction.pk))
        undone = transaction.steps.filter(outcome=StepRecord.Outcome.UNDONE)
        self.assertEqual(undone.count(), 2)
        self.assert_balance(one, 1_000)


class ConcurrentRequestsTests(LiveCase):
    """Clients post the same order to a live server."""

    def test_one_of_them_creates(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account()
        for n in range(4):
            key = f"k{n}"
            replies = together(
                lambda key=key: ada.order("top_up", key=key, amount=100, target=account)
            )
            statuses = sorted(reply.status for reply in replies)
            self.assertEqual(statuses, [200] * (SIDES - 1) + [202])
            self.assertEqual(len({reply.data["id"] for reply in replies}), 1)
            ada.finished(replies[0])
        self.assertEqual(ada.balance(account), 400)
        self.assertEqual(Transaction.objects.count(), 4)
