"""Refunding in the background."""

import threading
from concurrent.futures import ThreadPoolExecutor

from django.db import connections

from tests.cases import BackgroundCase
from tests.waiting import TIMEOUT
from transactions.errors import OrderConflictError, ProviderDeclinedError
from transactions.gateway import Operation, Request
from transactions.models import State, Transaction
from transactions.orders import accept


class RefundSagaTests(BackgroundCase):
    """A refund is the original with source and target exchanged."""

    def setUp(self) -> None:
        super().setUp()
        self.ada, self.bob = self.make_user("ada"), self.make_user("bob")
        self.hers = self.make_account(self.ada, balance=1_000)
        self.his = self.make_account(self.bob)

    def pay(self, amount: int = 400) -> Transaction:
        return self.carry_out(
            "transfer", self.ada, amount=amount, source=self.hers, target=self.his
        )

    def test_of_a_top_up_pays_out(self) -> None:
        asked: list[Operation] = []
        self.gateway.before(lambda request: asked.append(request.operation))
        paid = self.carry_out("top_up", self.ada, amount=50, target=self.hers)
        self.carry_out("refund", self.ada, refunds=paid)
        self.assertEqual(asked, [Operation.COLLECT, Operation.PAY_OUT])
        self.assert_balance(self.hers, 1_000)

    def test_of_a_withdrawal_collects(self) -> None:
        asked: list[Operation] = []
        self.gateway.before(lambda request: asked.append(request.operation))
        paid = self.carry_out("withdrawal", self.ada, amount=50, source=self.hers)
        self.carry_out("refund", self.ada, refunds=paid)
        self.assertEqual(asked, [Operation.PAY_OUT, Operation.COLLECT])
        self.assert_balance(self.hers, 1_000)

    def test_fails_when_the_money_is_spent(self) -> None:
        paid = self.pay()
        self.carry_out("withdrawal", self.bob, amount=1, source=self.his)
        failed = self.carry_out("refund", self.ada, refunds=paid)
        self.assertEqual(failed.state, State.FAILED)
        self.assert_balance(self.his, 399)
        self.assert_balance(self.hers, 600)

    def test_failed_one_may_be_tried_again(self) -> None:
        paid = self.pay()
        self.gateway.fail(ProviderDeclinedError("Not now."), times=1)
        first = self.carry_out("refund", self.ada, refunds=paid)
        second = self.carry_out("refund", self.ada, refunds=paid)
        self.assertEqual((first.state, second.state), (State.FAILED, State.COMPLETED))
        self.assert_balance(self.hers, 1_000)
        self.assert_books_balance()

    def test_is_not_refunded_itself(self) -> None:
        refund = self.carry_out("refund", self.ada, refunds=self.pay())
        with self.assertRaises(OrderConflictError):
            accept(self.make_order("refund", self.ada, refunds=refund))


class RefundRaceTests(BackgroundCase):
    """Several refunds of one transaction arrive at the same moment."""

    def test_one_wins(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        paid = self.carry_out("top_up", ada, amount=400, target=account)
        together = threading.Barrier(4, timeout=TIMEOUT)

        def refund() -> bool:
            try:
                together.wait()
                accept(self.make_order("refund", ada, refunds=paid))
            except OrderConflictError:
                return False
            finally:
                connections.close_all()
            return True

        with ThreadPoolExecutor(4) as pool, self.settled():
            won = [future.result() for future in [pool.submit(refund) for _ in range(4)]]
        self.assertEqual(won.count(True), 1)
        self.assertEqual(paid.refunded_by.count(), 1)
        self.assert_balance(account, 0)

    def test_waits_for_its_original(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        refusals: list[str] = []

        def refund_too_early(request: Request) -> None:
            original = Transaction.objects.get(pk=request.reference)
            try:
                accept(self.make_order("refund", ada, refunds=original))
            except OrderConflictError as error:
                refusals.append(str(error))

        self.gateway.before(refund_too_early)
        self.carry_out("top_up", ada, amount=400, target=account)
        self.assertEqual(len(refusals), 1)
        self.assert_balance(account, 400)
