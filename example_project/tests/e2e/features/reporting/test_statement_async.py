"""Statements from async code."""

from asgiref.sync import sync_to_async
from django.test import AsyncClient

from accounts.access import issue_token
from accounts.models import Account
from tests.cases import BackgroundCase, InlineCase
from tests.ledgers import fill_ledger
from transactions.models import Transaction
from transactions.reports import astatement


class AsyncStatementTests(InlineCase):
    """The async view and the async ORM, within the test's own transaction."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada)
        self.headers = {"Authorization": f"Bearer {issue_token(self.ada)}"}

    async def test_view_sends_every_line(self) -> None:
        total = await sync_to_async(fill_ledger)(self.account, 1_000)
        response = await self.async_client.get(
            f"/api/accounts/{self.account.pk}/statement", headers=self.headers
        )
        data = response.json()
        self.assertEqual(len(data["lines"]), 1_000)
        self.assertEqual((data["closing"], data["totals"]), (total, {"top_up": total}))

    async def test_view_hides_the_accounts_of_others(self) -> None:
        bob = await sync_to_async(self.make_user)("bob")
        headers = {"Authorization": f"Bearer {issue_token(bob)}"}
        response = await self.async_client.get(
            f"/api/accounts/{self.account.pk}/statement", headers=headers
        )
        self.assertEqual(response.status_code, 404)

    async def test_report_equals_the_ledger(self) -> None:
        await sync_to_async(fill_ledger)(self.account, 1_000)
        found = await astatement(self.account)
        entries = [entry.balance_after async for entry in self.account.entries.all()]
        self.assertEqual([line.balance for line in found.lines], entries)

    async def test_new_account_has_an_empty_statement(self) -> None:
        found = await astatement(self.account)
        self.assertEqual((found.lines, found.closing, found.totals), ([], 0, {}))


class AsyncOrderTests(BackgroundCase):
    """Async clients post orders that background threads execute."""

    async def test_order_is_carried_out(self) -> None:
        ada = await sync_to_async(self.make_user)("ada")
        account = await Account.objects.acreate(owner=ada, currency_id="EUR")
        token = issue_token(ada)
        for n in range(10):
            response = await AsyncClient().post(
                "/api/transactions",
                {"kind": "top_up", "amount": 100, "target": str(account.pk)},
                content_type="application/json",
                headers={"Authorization": f"Bearer {token}", "Idempotency-Key": f"k{n}"},
            )
            self.assertEqual(response.status_code, 202)
        await sync_to_async(self.executor.drain)(60)
        await account.arefresh_from_db()
        self.assertEqual(account.balance, 1_000)

    async def test_sees_the_final_state(self) -> None:
        ada = await sync_to_async(self.make_user)("ada")
        account = await sync_to_async(self.make_account)(ada, balance=500)
        done = await Transaction.objects.aget(target=account)
        outcomes = [step.outcome async for step in done.steps.all()]
        self.assertEqual(outcomes, ["done", "done"])
