"""The API of transactions and statements."""

from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_GET, require_http_methods

from accounts.access import customer, is_operator
from accounts.views import visible_account
from config.api import RequestError, body, json_errors
from transactions.errors import OrderConflictError, OrderError, OrderForbiddenError
from transactions.exports import export_statement
from transactions.models import Kind, Transaction
from transactions.orders import Order, accept
from transactions.reports import astatement

PAGE = 50


def represent(transaction: Transaction) -> dict[str, Any]:
    """Return a transaction as the API shows it."""
    return {
        "id": str(transaction.pk),
        "kind": transaction.kind,
        "state": transaction.state,
        "amount": transaction.amount,
        "currency": transaction.currency_id,
        "source": _text(transaction.source_id),
        "target": _text(transaction.target_id),
        "refunds": _text(transaction.refunds_id),
        "error": transaction.error,
        "created_at": transaction.created_at.isoformat(),
        "finished_at": transaction.finished_at and transaction.finished_at.isoformat(),
    }


@require_http_methods(["GET", "POST"])
@json_errors
def transactions(request: HttpRequest) -> JsonResponse:
    """List the newest transactions the sender may see, or accept an order."""
    user = customer(request)
    if request.method == "POST":
        return _accept(_order(request, user))
    newest = _visible(user)[:PAGE]
    return JsonResponse({"transactions": [represent(transaction) for transaction in newest]})


@require_GET
@json_errors
def transaction(request: HttpRequest, pk: UUID) -> JsonResponse:
    """Show a transaction and its steps."""
    found = _visible(customer(request)).filter(pk=pk).first()
    if found is None:
        raise Http404("There is no such transaction.")
    steps = [{"name": step.name, "outcome": step.outcome} for step in found.steps.all()]
    return JsonResponse({**represent(found), "steps": steps})


@require_GET
@json_errors
async def statement(request: HttpRequest, pk: UUID) -> JsonResponse:
    """Show the statement of an account."""
    account = await sync_to_async(visible_account)(request, pk)
    found = await astatement(account)
    lines = [
        {
            "at": line.at.isoformat(),
            "kind": line.kind,
            "reason": line.reason,
            "amount": line.amount,
            "balance": line.balance,
        }
        for line in found.lines
    ]
    return JsonResponse({"lines": lines, "closing": found.closing, "totals": found.totals})


@require_GET
@json_errors
def statement_csv(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Send the statement of an account as a CSV file."""
    name = export_statement(visible_account(request, pk))
    with default_storage.open(name) as file:
        return HttpResponse(file.read(), content_type="text/csv; charset=utf-8")


def _visible(user: User) -> QuerySet[Transaction]:
    if is_operator(user):
        return Transaction.objects.all()
    own = Q(requested_by=user) | Q(source__owner=user) | Q(target__owner=user)
    return Transaction.objects.filter(own)


def _order(request: HttpRequest, user: User) -> Order:
    data = body(request)
    amount = data.get("amount", 0)
    # bool is a subclass of int in Python.
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise RequestError("The amount is a number of minor units.")
    try:
        return Order(
            key=request.headers.get("Idempotency-Key", ""),
            kind=Kind(data.get("kind")),
            customer=user,
            amount=amount,
            source=_uuid(data.get("source")),
            target=_uuid(data.get("target")),
            refunds=_uuid(data.get("refunds")),
        )
    except ValueError as error:
        raise RequestError(f"The order is malformed: {error}.") from error


def _accept(order: Order) -> JsonResponse:
    try:
        found, is_new = accept(order)
    except OrderForbiddenError as error:
        raise RequestError(str(error), status=403) from error
    except OrderConflictError as error:
        raise RequestError(str(error), status=409) from error
    except OrderError as error:
        raise RequestError(str(error)) from error
    return JsonResponse(represent(found), status=202 if is_new else 200)


def _uuid(value: object) -> UUID | None:
    return None if value is None else UUID(str(value))


def _text(pk: UUID | None) -> str | None:
    return None if pk is None else str(pk)
