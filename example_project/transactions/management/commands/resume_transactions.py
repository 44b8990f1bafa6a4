from django.core.management.base import BaseCommand

from transactions.apps import TransactionsConfig
from transactions.models import FINAL_STATES, Transaction
from transactions.saga import Saga


class Command(BaseCommand):
    """Complete transactions that a crash, or an unreachable provider, has interrupted."""

    help = "Bring every unfinished transaction to its end."

    def handle(self, *args: object, **options: object) -> None:
        saga = Saga(TransactionsConfig.current().gateway)
        unfinished = Transaction.objects.exclude(state__in=FINAL_STATES).order_by("created_at")
        pks = list(unfinished.values_list("pk", flat=True))
        for pk in pks:
            saga.run(pk)
        self.stdout.write(f"Resumed {len(pks)}.")
