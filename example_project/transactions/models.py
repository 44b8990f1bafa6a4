"""Transactions, the ledger they write and the log of their steps."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from accounts.models import Account
from currencies.models import Currency


class Kind(models.TextChoices):
    """What a transaction does with the money."""

    TOP_UP = "top_up"
    WITHDRAWAL = "withdrawal"
    TRANSFER = "transfer"
    REFUND = "refund"


class State(models.TextChoices):
    """The progress of a transaction."""

    PENDING = "pending"
    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"


FINAL_STATES = (State.COMPLETED, State.FAILED)

# Spelt out, as in the migrations.
_FINAL = Q(state__in=["completed", "failed"])


class Limit(models.Model):
    """The most that one transaction of a kind may move."""

    kind = models.CharField(max_length=10, choices=Kind, primary_key=True)
    maximum = models.PositiveIntegerField(help_text="In major units of whatever currency.")

    class Meta:
        ordering = ["kind"]

    def __str__(self) -> str:
        return f"{self.kind}: {self.maximum}"


class Transaction(models.Model):
    """An accepted order, and its outcome."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    idempotency_key = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=10, choices=Kind)
    state = models.CharField(max_length=12, choices=State, default=State.PENDING)
    amount = models.BigIntegerField(help_text="In minor units.")
    currency = models.ForeignKey(Currency, on_delete=models.PROTECT, related_name="+")
    source = models.ForeignKey(
        Account, null=True, on_delete=models.PROTECT, related_name="outgoing"
    )
    target = models.ForeignKey(
        Account, null=True, on_delete=models.PROTECT, related_name="incoming"
    )
    refunds = models.ForeignKey(
        "self", null=True, on_delete=models.PROTECT, related_name="refunded_by"
    )
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="transactions"
    )
    error = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [
            models.Index(fields=["-created_at"], name="transaction_newest"),
            models.Index(
                fields=["state"],
                condition=~_FINAL,
                name="transaction_unfinished",
            ),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="transaction_amount_positive"),
            models.CheckConstraint(
                condition=(
                    Q(kind="top_up", source=None, target__isnull=False)
                    | Q(kind="withdrawal", source__isnull=False, target=None)
                    | Q(kind="transfer", source__isnull=False, target__isnull=False)
                    | Q(kind="refund")
                ),
                name="transaction_sides_match_kind",
            ),
            models.CheckConstraint(
                condition=Q(source=None) | Q(target=None) | ~Q(source=F("target")),
                name="transaction_sides_differ",
            ),
            models.CheckConstraint(
                condition=(
                    Q(kind="refund", refunds__isnull=False) | Q(~Q(kind="refund"), refunds=None)
                ),
                name="transaction_refund_names_original",
            ),
            models.CheckConstraint(
                condition=(Q(_FINAL, finished_at__isnull=False) | Q(~_FINAL, finished_at=None)),
                name="transaction_finished_when_final",
            ),
            # A refund that failed may be tried again under another key.
            models.UniqueConstraint(
                fields=["refunds"], condition=~Q(state="failed"), name="transaction_one_refund"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk} ({self.state})"

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def amount_text(self) -> str:
        return self.currency.format(self.amount)


class LedgerEntry(models.Model):
    """One change of one account's balance; entries are never changed."""

    class Reason(models.TextChoices):
        DEBIT = "debit"
        CREDIT = "credit"
        DEBIT_UNDONE = "debit_undone"
        CREDIT_UNDONE = "credit_undone"

    transaction = models.ForeignKey(Transaction, on_delete=models.PROTECT, related_name="entries")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="entries")
    reason = models.CharField(max_length=13, choices=Reason)
    amount = models.BigIntegerField(help_text="In minor units; negative takes money out.")
    balance_after = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "ledger entries"
        indexes = [models.Index(fields=["account", "created_at"], name="entry_statement")]
        constraints = [
            models.CheckConstraint(condition=~Q(amount=0), name="entry_moves_something"),
            models.CheckConstraint(
                condition=Q(balance_after__gte=0), name="entry_balance_not_negative"
            ),
            # Money moves once, however often a step is repeated.
            models.UniqueConstraint(
                fields=["transaction", "account", "reason"], name="entry_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reason} {self.amount}"


class StepRecord(models.Model):
    """The outcome of one step of a transaction."""

    class Outcome(models.TextChoices):
        DONE = "done"
        FAILED = "failed"
        UNDONE = "undone"

    transaction = models.ForeignKey(Transaction, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=20)
    outcome = models.CharField(max_length=6, choices=Outcome)
    detail = models.CharField(max_length=200, blank=True)
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["transaction", "name", "outcome"], name="step_outcome_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.outcome}"
