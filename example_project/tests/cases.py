"""Base classes: how far a test's orders get, and which connections see them.

``InlineCase`` rolls back. Other threads see none of its rows, so steps run in the test's own
thread. ``BackgroundCase`` and ``LiveCase`` commit. Steps run in the background as in production,
and each test ends without running threads or open connections.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock
from uuid import uuid4

from django.contrib.auth.models import Group, User
from django.test import LiveServerTestCase, TestCase, TransactionTestCase

from accounts.access import OPERATORS
from accounts.models import Account
from tests.customers import Customer, hashed_password
from tests.reference import ensure_reference_data
from tests.transports import InProcess, Network, Transport
from tests.waiting import TIMEOUT, wait_until
from transactions.apps import TransactionsConfig
from transactions.executor import THREAD_NAME, BackgroundExecutor, Executor, InlineExecutor
from transactions.gateway import FakeGateway
from transactions.models import Kind, Transaction
from transactions.orders import Order, accept
from transactions.reports import discrepancies


class Bank(TransactionTestCase):
    """Members of all cases: a payment provider, accounts, orders and customers."""

    gateway: FakeGateway
    executor: Executor

    def setUp(self) -> None:
        super().setUp()
        app = TransactionsConfig.current()
        self.gateway = FakeGateway()
        self.executor = self.make_executor()
        self.enterContext(mock.patch.object(app, "gateway", self.gateway))
        self.enterContext(mock.patch.object(app, "executor", self.executor))

    def make_executor(self) -> Executor:
        raise NotImplementedError

    @contextmanager
    def settled(self) -> Iterator[None]:
        """At the end of the block, wait until the orders accepted in it have been executed."""
        raise NotImplementedError
        yield

    @property
    def transport(self) -> Transport:
        return InProcess(self.client, self.settled)

    @staticmethod
    def make_user(name: str) -> User:
        """Create a user who cannot sign in, for tests without the API."""
        return User.objects.create_user(name)

    @classmethod
    def make_operator(cls, name: str = "olga") -> User:
        user = cls.make_user(name)
        user.groups.add(Group.objects.get_or_create(name=OPERATORS)[0])
        return user

    def make_account(self, owner: User, currency: str = "EUR", *, balance: int = 0) -> Account:
        account = Account.objects.create(owner=owner, currency_id=currency)
        if balance:
            self.carry_out("top_up", owner, amount=balance, target=account)
        return account

    def customer(self, name: str) -> Customer:
        """Create a user and sign them in."""
        return self.sign_in(self.make_user(name))

    def sign_in(self, user: User) -> Customer:
        user.password = hashed_password()
        user.save(update_fields=["password"])
        return Customer.sign_in(user, self.transport)

    @staticmethod
    def make_order(
        kind: str,
        customer: User,
        *,
        key: str | None = None,
        refunds: Transaction | None = None,
        **details: object,
    ) -> Order:
        accounts = {
            side: account.pk
            for side in ("source", "target")
            if (account := details.pop(side, None)) is not None
        }
        return Order(
            key=key or uuid4().hex,
            kind=Kind(kind),
            customer=customer,
            refunds=refunds and refunds.pk,
            **accounts,
            **details,
        )

    def carry_out(self, kind: str, customer: User, **details: object) -> Transaction:
        """Accept and execute an order, and return its transaction."""
        with self.settled():
            transaction = accept(self.make_order(kind, customer, **details)).transaction
        transaction.refresh_from_db()
        return transaction

    def assert_balance(self, account: Account, balance: int) -> None:
        account.refresh_from_db()
        self.assertEqual(account.balance, balance)

    def assert_books_balance(self) -> None:
        self.assertEqual(discrepancies(), [])


class InlineCase(Bank, TestCase):
    """A test that rolls back."""

    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        ensure_reference_data()

    def make_executor(self) -> Executor:
        return InlineExecutor()

    @contextmanager
    def settled(self) -> Iterator[None]:
        with self.captureOnCommitCallbacks(execute=True):
            yield


class BackgroundCase(Bank):
    """A test that commits, whose steps run in the background."""

    # The flush after another test deletes rows that migrations inserted.
    serialized_rollback = True

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self._leave_nothing_running)
        ensure_reference_data()

    def make_executor(self) -> Executor:
        return BackgroundExecutor(threads=4)

    @contextmanager
    def settled(self) -> Iterator[None]:
        yield
        self.executor.drain(TIMEOUT)

    def _leave_nothing_running(self) -> None:
        self.executor.stop()
        wait_until(lambda: not _busy_threads(), "the threads of the test have ended")


class LiveCase(BackgroundCase, LiveServerTestCase):
    """A test that sends HTTP requests to a live server."""

    @property
    def transport(self) -> Transport:
        return Network(self.live_server_url)


def _busy_threads() -> list[str]:
    """Return the names of the threads that execute steps or serve requests."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(THREAD_NAME) or "process_request_thread" in thread.name
    ]
