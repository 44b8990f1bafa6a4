"""Customers' accounts."""

from __future__ import annotations

import uuid
from uuid import UUID

from django.conf import settings
from django.db import models
from django.db.models import Q

from currencies.models import Currency


class AccountQuerySet(models.QuerySet["Account"]):
    """Accounts, and the one way to lock them."""

    def locked(self, *pks: UUID) -> dict[UUID, Account]:
        """Lock accounts until the transaction ends, and return them by primary key.

        Locking in the order of the keys prevents deadlocks between callers that lock the same
        accounts.
        """
        # NO KEY: rows that refer to an account may be inserted meanwhile.
        accounts = self.filter(pk__in=pks).order_by("pk").select_for_update(no_key=True)
        return {account.pk: account for account in accounts}


class Account(models.Model):
    """Money of one owner in one currency."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        FROZEN = "frozen"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="accounts"
    )
    currency = models.ForeignKey(Currency, on_delete=models.PROTECT, related_name="accounts")
    balance = models.BigIntegerField(default=0, help_text="In minor units.")
    status = models.CharField(max_length=6, choices=Status, default=Status.ACTIVE)
    version = models.PositiveIntegerField(
        default=0, help_text="Counts the changes of the balance."
    )
    opened_at = models.DateTimeField(auto_now_add=True)

    objects = AccountQuerySet.as_manager()

    class Meta:
        ordering = ["opened_at", "id"]
        indexes = [models.Index(fields=["owner", "status"], name="account_owner_status")]
        constraints = [
            models.CheckConstraint(
                condition=Q(balance__gte=0), name="account_balance_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["active", "frozen"]), name="account_status_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.currency_id} account of {self.owner}"

    @property
    def is_active(self) -> bool:
        return self.status == self.Status.ACTIVE

    @property
    def balance_text(self) -> str:
        return self.currency.format(self.balance)

    def freeze(self) -> None:
        """Reject all changes of the balance, except those of compensations."""
        self.status = self.Status.FROZEN
        self.save(update_fields=["status"])
