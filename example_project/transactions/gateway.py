"""The payment provider, which moves the money that the ledger records."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Operation(StrEnum):
    """An operation of the provider."""

    COLLECT = "collect"
    PAY_OUT = "pay_out"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the provider, which is safe to repeat because of its reference."""

    operation: Operation
    reference: str
    amount: int
    currency: str


class PaymentGateway(Protocol):
    """The interface of a payment provider.

    Both methods can be repeated without a second effect, and raise ``ProviderDeclinedError`` or
    ``ProviderUnreachableError``.
    """

    def perform(self, request: Request) -> None:
        """Collect from outside, pay out, or clear a movement between two accounts."""

    def cancel(self, reference: str) -> None:
        """Reverse what was performed under a reference, if anything."""


Hook = Callable[[Request], None]


class FakeGateway:
    """A provider within this process.

    ``performed`` and ``cancelled`` hold references in the order of their arrival. Tests can make
    requests fail or block.
    """

    def __init__(self) -> None:
        self.performed: list[str] = []
        self.cancelled: list[str] = []
        self._lock = threading.Lock()
        self._before: list[Hook] = []
        self._after: list[Hook] = []
        self._cancel_errors: list[Exception] = []

    def perform(self, request: Request) -> None:
        for hook in self._before:
            hook(request)
        with self._lock:
            if request.reference not in self.performed:
                self.performed.append(request.reference)
        for hook in self._after:
            hook(request)

    def cancel(self, reference: str) -> None:
        with self._lock:
            if self._cancel_errors:
                raise self._cancel_errors.pop(0)
            if reference in self.performed and reference not in self.cancelled:
                self.cancelled.append(reference)

    def before(self, hook: Hook) -> None:
        """Call a hook before each request is performed; its exception is the provider's answer."""
        self._before.append(hook)

    def after(self, hook: Hook) -> None:
        """Call a hook after each request was performed; its exception replaces the answer."""
        self._after.append(hook)

    def fail(self, error: Exception, *, times: int | None = None) -> None:
        """Answer this number of requests, or all, with an error."""
        left = [times]

        def hook(_: Request) -> None:
            with self._lock:
                if left[0] == 0:
                    return
                if left[0] is not None:
                    left[0] -= 1
            raise error

        self.before(hook)

    def fail_cancel(self, error: Exception) -> None:
        """Answer the next cancellation with an error."""
        self._cancel_errors.append(error)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Answer no request until the block ends."""
        released = threading.Event()

        def hook(_: Request) -> None:
            released.wait()

        self.before(hook)
        try:
            yield
        finally:
            released.set()
