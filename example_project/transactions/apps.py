from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from django.apps import AppConfig, apps
from django.conf import settings
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from uuid import UUID

    from transactions.executor import Executor
    from transactions.gateway import PaymentGateway


class TransactionsConfig(AppConfig):
    """Transactions, with the two objects that execute them."""

    name = "transactions"
    gateway: PaymentGateway
    executor: Executor

    def ready(self) -> None:
        self.gateway = import_string(settings.PAYMENT_GATEWAY)()
        self.executor = import_string(settings.SAGA_EXECUTOR)()

    @classmethod
    def current(cls) -> TransactionsConfig:
        """Return the installed app."""
        return apps.get_app_config("transactions")

    def start_saga(self, pk: UUID) -> None:
        """Execute the steps of an accepted transaction."""
        from transactions.saga import Saga

        self.executor.submit(partial(Saga(self.gateway).run, pk))
