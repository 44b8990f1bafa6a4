"""The dashboard."""

from tests.cases import InlineCase, LiveCase
from tests.transports import Reply
from transactions.dashboard import NEWEST


class DashboardTests(InlineCase):
    """The page as Django renders it."""

    def test_without_anything(self) -> None:
        response = self.client.get("/")
        self.assertContains(response, "No accounts yet.")
        self.assertContains(response, "Nothing has moved yet.")

    def test_shows_accounts_with_balances(self) -> None:
        ada = self.make_user("ada")
        self.make_account(ada, "EUR", balance=1_234_50)
        self.make_account(ada, "JPY", balance=1_234)
        response = self.client.get("/")
        self.assertContains(response, "1,234.50 EUR")
        self.assertContains(response, "1,234 JPY")

    def test_shows_only_the_newest_transactions(self) -> None:
        ada = self.make_user("ada")
        account = self.make_account(ada)
        for _ in range(NEWEST + 5):
            self.carry_out("top_up", ada, amount=1, target=account)
        response = self.client.get("/")
        self.assertContains(response, '<td class="completed"', count=NEWEST)
        self.assertContains(response, f"<strong>{NEWEST + 5}</strong> completed")

    def test_takes_few_queries_however_many_rows(self) -> None:
        ada = self.make_user("ada")
        for _ in range(15):
            self.make_account(ada, balance=1)
        with self.assertNumQueries(3):
            self.client.get("/")


class LiveDashboardTests(LiveCase):
    """The page as a browser gets it."""

    def page(self) -> Reply:
        return self.transport.send("GET", "/", {})

    def test_follows_what_customers_do(self) -> None:
        ada = self.customer("ada")
        account = ada.open_account(balance=50_00)
        ada.finished(ada.order("withdrawal", amount=99_00, source=account))
        page = self.page().body.decode()
        self.assertIn("50.00 EUR", page)
        self.assertIn('<li class="failed"><strong>1</strong>', page)

    def test_escapes_what_people_call_themselves(self) -> None:
        self.customer("<b>eve</b>").open_account()
        page = self.page().body.decode()
        self.assertNotIn("<b>eve</b>", page)
        self.assertIn("&lt;b&gt;eve&lt;/b&gt;", page)
