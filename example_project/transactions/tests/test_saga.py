"""Sagas that were interrupted."""

from io import StringIO

from django.core.management import call_command
from django.db import transaction as database

from tests.cases import InlineCase
from transactions.gateway import FakeGateway, Request
from transactions.models import State, Transaction
from transactions.orders import accept
from transactions.saga import Saga
from transactions.steps import Credit, Debit, Provider, plan


class CrashError(Exception):
    """A simulated end of the process."""


class ResumeTests(InlineCase):
    """An interrupted run continues where it stopped."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.one = self.make_account(self.ada, balance=1_000)
        self.two = self.make_account(self.ada)

    def accepted(self) -> Transaction:
        """Accept an order that is not executed, as after a crash."""
        order = self.make_order("transfer", self.ada, amount=100, source=self.one, target=self.two)
        return accept(order).transaction

    def crash(self, gateway: FakeGateway, transaction: Transaction) -> None:
        with self.assertRaises(CrashError):
            Saga(gateway).run(transaction.pk)
        transaction.refresh_from_db()
        self.assertEqual(transaction.state, State.RUNNING)

    def resume(self) -> str:
        out = StringIO()
        call_command("resume_transactions", stdout=out)
        return out.getvalue()

    def crash_in(self, hook: str) -> None:
        dying = FakeGateway()

        def die(_: Request) -> None:
            raise CrashError

        getattr(dying, hook)(die)
        transaction = self.accepted()
        self.crash(dying, transaction)
        self.assert_balance(self.one, 900)
        self.resume()
        transaction.refresh_from_db()
        self.assertEqual(transaction.state, State.COMPLETED)
        self.assert_balance(self.one, 900)
        self.assert_balance(self.two, 100)

    def test_before_the_first_step(self) -> None:
        transaction = self.accepted()
        self.assertEqual(transaction.state, State.PENDING)
        self.assertEqual(self.resume(), "Resumed 1.\n")
        self.assert_balance(self.two, 100)

    def test_before_the_provider_acted(self) -> None:
        self.crash_in("before")

    def test_after_the_provider_acted(self) -> None:
        self.crash_in("after")

    def test_leaves_finished_ones_alone(self) -> None:
        for _ in range(10):
            self.carry_out("transfer", self.ada, amount=1, source=self.one, target=self.two)
        self.assertEqual(self.resume(), "Resumed 0.\n")
        self.assert_balance(self.two, 10)


class PlanTests(InlineCase):
    """The steps depend on the sides."""

    def test_names(self) -> None:
        ada = self.make_user("ada")
        one, two = self.make_account(ada), self.make_account(ada)
        for sides, names in (
            ({"target": one}, ["provider", "credit"]),
            ({"source": one}, ["debit", "provider"]),
            ({"source": one, "target": two}, ["debit", "provider", "credit"]),
        ):
            with self.subTest(names=names):
                steps = plan(Transaction(**sides), self.gateway)
                self.assertEqual([step.name for step in steps], names)

    def test_undoing_takes_back_what_was_done(self) -> None:
        ada = self.make_user("ada")
        one, two = self.make_account(ada, balance=500), self.make_account(ada)
        order = self.make_order("transfer", ada, amount=200, source=one, target=two)
        transaction = accept(order).transaction
        steps = [Debit(), Provider(self.gateway), Credit()]
        with database.atomic():
            for step in steps:
                step.do(transaction)
            self.assert_balance(two, 200)
            for step in reversed(steps):
                step.undo(transaction)
        self.assert_balance(one, 500)
        self.assert_balance(two, 0)
        self.assertEqual(transaction.entries.count(), 4)
