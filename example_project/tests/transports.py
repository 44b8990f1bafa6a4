"""Two ways to send a request: within this process, and over the network."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from django.test import Client

from tests.waiting import TIMEOUT

Headers = dict[str, str]

# No proxy of the environment between a test and its server.
_opener = build_opener(ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Reply:
    """The response of a server."""

    status: int
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.body)


class Transport(Protocol):
    """Sends a request and returns the reply."""

    def send(self, method: str, path: str, headers: Headers, data: object = None) -> Reply: ...


@dataclass(frozen=True, slots=True)
class InProcess:
    """Django's test client, with a context manager around each request."""

    client: Client
    around: Callable[[], AbstractContextManager[object]]

    def send(self, method: str, path: str, headers: Headers, data: object = None) -> Reply:
        with self.around():
            response = self.client.generic(
                method, path, json.dumps(data), "application/json", headers=headers
            )
        return Reply(response.status_code, response.content)


@dataclass(frozen=True, slots=True)
class Network:
    """HTTP to a live server."""

    url: str

    def send(self, method: str, path: str, headers: Headers, data: object = None) -> Reply:
        body = None if data is None else json.dumps(data).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = Request(self.url + path, body, headers, method=method)  # noqa: S310 (our own server)
        try:
            with _opener.open(request, timeout=TIMEOUT) as response:
                return Reply(response.status, response.read())
        except HTTPError as error:
            with error:
                return Reply(error.code, error.read())
