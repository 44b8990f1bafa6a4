"""The fake payment provider."""

import threading

from django.test import SimpleTestCase

from tests.waiting import TIMEOUT
from transactions.errors import ProviderDeclinedError
from transactions.gateway import FakeGateway, Operation, Request

REQUEST = Request(Operation.COLLECT, "reference", 100, "EUR")


class FakeGatewayTests(SimpleTestCase):
    """It has the guarantees of a real one, and fails on request."""

    def setUp(self) -> None:
        self.gateway = FakeGateway()

    def test_repeat_has_no_second_effect(self) -> None:
        for _ in range(3):
            self.gateway.perform(REQUEST)
        self.assertEqual(self.gateway.performed, ["reference"])

    def test_cancels_what_was_performed_and_once(self) -> None:
        self.gateway.cancel("unheard of")
        self.gateway.perform(REQUEST)
        for _ in range(2):
            self.gateway.cancel("reference")
        self.assertEqual(self.gateway.cancelled, ["reference"])

    def test_fails_so_many_times(self) -> None:
        self.gateway.fail(ProviderDeclinedError("No."), times=2)
        for _ in range(2):
            with self.assertRaises(ProviderDeclinedError):
                self.gateway.perform(REQUEST)
        self.gateway.perform(REQUEST)
        self.assertEqual(self.gateway.performed, ["reference"])

    def test_held_answers_when_released(self) -> None:
        thread = threading.Thread(target=self.gateway.perform, args=[REQUEST])
        with self.gateway.held():
            thread.start()
            self.assertEqual(self.gateway.performed, [])
        thread.join(TIMEOUT)
        self.assertEqual(self.gateway.performed, ["reference"])
