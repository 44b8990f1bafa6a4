"""Execute a transaction: its steps in order or, after a failure, their compensations."""

import logging
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction as database
from django.utils import timezone

from transactions.errors import StepError
from transactions.gateway import PaymentGateway
from transactions.models import State, StepRecord, Transaction
from transactions.steps import Step, plan

logger = logging.getLogger(__name__)

Outcome = StepRecord.Outcome


class OvertakenError(Exception):
    """Another runner has changed the state of the transaction."""


@dataclass(frozen=True, slots=True)
class Saga:
    """Executes transactions.

    Every step is recorded in the database transaction that has its effect, so ``run`` resumes an
    interrupted run at any point; two concurrent ones do each step once.
    """

    gateway: PaymentGateway

    def run(self, pk: UUID) -> None:
        """Execute a transaction to its end; do nothing if it has ended."""
        try:
            transaction = self._begin(pk)
            if transaction.state == State.RUNNING:
                self._go_forward(transaction)
            elif transaction.state == State.COMPENSATING:
                self._go_back(transaction)
        except OvertakenError:
            logger.info("Transaction %s is in other hands.", pk)

    def _begin(self, pk: UUID) -> Transaction:
        with database.atomic():
            transaction = _locked(pk)
            if transaction.state == State.PENDING:
                _move(transaction, State.RUNNING)
        return transaction

    def _go_forward(self, transaction: Transaction) -> None:
        for step in plan(transaction, self.gateway):
            try:
                _do(step, transaction)
            except StepError as failure:
                _turn_back(step, transaction, failure)
                self._go_back(transaction)
                return
        _finish(transaction, before=State.RUNNING, after=State.COMPLETED)

    def _go_back(self, transaction: Transaction) -> None:
        for step in reversed(plan(transaction, self.gateway)):
            _undo(step, transaction)
        _finish(transaction, before=State.COMPENSATING, after=State.FAILED)


def _do(step: Step, transaction: Transaction) -> None:
    if step.is_remote and not _is_recorded(step, transaction, Outcome.DONE):
        step.do(transaction)
    with database.atomic():
        transaction = _locked(transaction.pk, expected=State.RUNNING)
        if _is_recorded(step, transaction, Outcome.DONE):
            return
        if not step.is_remote:
            step.do(transaction)
        transaction.steps.create(name=step.name, outcome=Outcome.DONE)


def _undo(step: Step, transaction: Transaction) -> None:
    # A remote step that failed, or was interrupted, may have had its effect.
    if not (step.is_remote or _is_recorded(step, transaction, Outcome.DONE)):
        return
    if step.is_remote and not _is_recorded(step, transaction, Outcome.UNDONE):
        step.undo(transaction)
    with database.atomic():
        transaction = _locked(transaction.pk, expected=State.COMPENSATING)
        if _is_recorded(step, transaction, Outcome.UNDONE):
            return
        if not step.is_remote:
            step.undo(transaction)
        transaction.steps.create(name=step.name, outcome=Outcome.UNDONE)


def _turn_back(step: Step, transaction: Transaction, failure: StepError) -> None:
    with database.atomic():
        transaction = _locked(transaction.pk, expected=State.RUNNING)
        detail = str(failure)[:200]
        transaction.steps.create(name=step.name, outcome=Outcome.FAILED, detail=detail)
        transaction.error = detail
        _move(transaction, State.COMPENSATING)


def _finish(transaction: Transaction, *, before: State, after: State) -> None:
    with database.atomic():
        transaction = _locked(transaction.pk, expected=before)
        transaction.finished_at = timezone.now()
        _move(transaction, after)


def _locked(pk: UUID, *, expected: State | None = None) -> Transaction:
    """Lock a transaction; always before its accounts, never after."""
    transaction = Transaction.objects.select_for_update(no_key=True).get(pk=pk)
    if expected is not None and transaction.state != expected:
        raise OvertakenError
    return transaction


def _move(transaction: Transaction, state: State) -> None:
    transaction.state = state
    transaction.save(update_fields=["state", "error", "finished_at"])


def _is_recorded(step: Step, transaction: Transaction, outcome: StepRecord.Outcome) -> bool:
    return transaction.steps.filter(name=step.name, outcome=outcome).exists()
