"""Customers, who use the API only."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import uuid4

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User

from tests.transports import Reply, Transport
from tests.waiting import wait_until
from transactions.models import FINAL_STATES

PASSWORD = "correct horse battery staple"


@cache
def hashed_password() -> str:
    """Hash the password of all customers once: it takes as long as signing in."""
    return make_password(PASSWORD)


@dataclass(frozen=True, slots=True)
class Customer:
    """A user with a token and a transport to the server."""

    user: User
    transport: Transport
    token: str = field(repr=False)

    @classmethod
    def sign_in(cls, user: User, transport: Transport) -> "Customer":
        """Get a token for a user by their password."""
        credentials = {"username": user.username, "password": PASSWORD}
        reply = transport.send("POST", "/api/tokens", {}, credentials)
        return cls(user, transport, reply.data["token"])

    def get(self, path: str) -> Reply:
        return self.transport.send("GET", path, self._headers)

    def post(self, path: str, data: object, **headers: str) -> Reply:
        return self.transport.send("POST", path, {**self._headers, **headers}, data)

    def open_account(self, currency: str = "EUR", *, balance: int = 0) -> str:
        """Open an account, and top it up."""
        account = self.post("/api/accounts", {"currency": currency}).data["id"]
        if balance:
            self.finished(self.order("top_up", amount=balance, target=account))
        return account

    def order(self, kind: str, *, key: str | None = None, **details: object) -> Reply:
        """Post an order, by default with a new key."""
        headers = {"Idempotency-Key": key or uuid4().hex}
        return self.post("/api/transactions", {"kind": kind, **details}, **headers)

    def finished(self, reply: Reply) -> dict[str, Any]:
        """Poll the transaction of a reply until it has ended, and return it."""
        path = f"/api/transactions/{reply.data['id']}"

        def final() -> dict[str, Any] | None:
            data = self.get(path).data
            return data if data["state"] in FINAL_STATES else None

        return wait_until(final, f"{path} has ended")

    def balance(self, account: str) -> int:
        return self.get(f"/api/accounts/{account}").data["balance"]

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}
