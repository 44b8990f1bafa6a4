"""The API of tokens and accounts."""

from typing import Any
from uuid import UUID

from django.contrib.auth import authenticate
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import customer, issue_token, may_use
from accounts.models import Account
from config.api import RequestError, body, json_errors
from currencies.models import Currency


def represent(account: Account) -> dict[str, Any]:
    """Return an account as the API shows it."""
    return {
        "id": str(account.pk),
        "currency": account.currency_id,
        "balance": account.balance,
        "balance_text": account.balance_text,
        "status": account.status,
        "version": account.version,
    }


def visible_account(request: HttpRequest, pk: UUID) -> Account:
    """Return the requested account, if the sender may see it."""
    user = customer(request)
    account = Account.objects.select_related("currency", "owner").filter(pk=pk).first()
    if account is None or not may_use(user, account):
        raise Http404("There is no such account.")
    return account


@require_POST
@json_errors
def tokens(request: HttpRequest) -> JsonResponse:
    """Exchange a username and a password for a token."""
    data = body(request)
    user = authenticate(request, username=data.get("username"), password=data.get("password"))
    if user is None:
        raise RequestError("The username or the password is wrong.", status=401)
    return JsonResponse({"token": issue_token(user)})


@require_http_methods(["GET", "POST"])
@json_errors
def accounts(request: HttpRequest) -> JsonResponse:
    """List the accounts of the sender, or open another."""
    user = customer(request)
    if request.method == "POST":
        currency = Currency.objects.filter(pk=body(request).get("currency")).first()
        if currency is None:
            raise RequestError("There is no such currency.")
        account = Account.objects.create(owner=user, currency=currency)
        return JsonResponse(represent(account), status=201)
    own: QuerySet[Account] = user.accounts.select_related("currency")
    return JsonResponse({"accounts": [represent(account) for account in own]})


@require_GET
@json_errors
def account(request: HttpRequest, pk: UUID) -> JsonResponse:
    """Show one account."""
    return JsonResponse(represent(visible_account(request, pk)))
