"""Tokens and accounts over the API."""

from unittest import mock

from django.contrib.auth.models import User
from django.core import signing

from accounts.access import issue_token
from tests.cases import InlineCase
from tests.customers import PASSWORD


class TokenTests(InlineCase):
    """Passwords are exchanged for tokens, and tokens identify customers."""

    def status_of(self, username: str, password: str) -> int:
        credentials = {"username": username, "password": password}
        return self.transport.send("POST", "/api/tokens", {}, credentials).status

    def test_right_password(self) -> None:
        User.objects.create_user("ada", password=PASSWORD)
        self.assertEqual(self.status_of("ada", PASSWORD), 200)

    def test_wrong_password(self) -> None:
        User.objects.create_user("ada", password=PASSWORD)
        self.assertEqual(self.status_of("ada", "guess"), 401)

    def test_unknown_user(self) -> None:
        self.assertEqual(self.status_of("nobody", PASSWORD), 401)

    def test_retired_user(self) -> None:
        ada = self.make_user("ada")
        ada.is_active = False
        ada.save()
        headers = {"Authorization": f"Bearer {issue_token(ada)}"}
        self.assertEqual(self.transport.send("GET", "/api/accounts", headers).status, 401)

    def test_old_token(self) -> None:
        ada = self.make_user("ada")
        with mock.patch.object(signing.time, "time", return_value=0):
            token = issue_token(ada)
        headers = {"Authorization": f"Bearer {token}"}
        self.assertEqual(self.transport.send("GET", "/api/accounts", headers).status, 401)


class AccountApiTests(InlineCase):
    """Customers open and see accounts."""

    def test_opened_account_is_listed(self) -> None:
        ada = self.customer("ada")
        opened = [ada.open_account(currency) for currency in ("EUR", "JPY", "KWD")]
        listed = ada.get("/api/accounts").data["accounts"]
        self.assertEqual([account["id"] for account in listed], opened)

    def test_unknown_currency_is_refused(self) -> None:
        reply = self.customer("ada").post("/api/accounts", {"currency": "XXX"})
        self.assertEqual(reply.status, 400)

    def test_account_of_another_is_not_found(self) -> None:
        ada, bob = self.customer("ada"), self.customer("bob")
        account = ada.open_account()
        self.assertEqual(bob.get(f"/api/accounts/{account}").status, 404)

    def test_operator_sees_every_account(self) -> None:
        account = self.customer("ada").open_account(balance=5_00)
        olga = self.sign_in(self.make_operator())
        self.assertEqual(olga.get(f"/api/accounts/{account}").data["balance_text"], "5.00 EUR")

    def test_body_has_to_be_an_object(self) -> None:
        ada = self.customer("ada")
        self.assertEqual(ada.post("/api/accounts", ["EUR"]).status, 400)
