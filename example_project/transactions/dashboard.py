"""The page at the root: all accounts and the newest transactions."""

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from accounts.models import Account
from transactions.models import State, Transaction

NEWEST = 20


@require_GET
def dashboard(request: HttpRequest) -> HttpResponse:
    """Show accounts, recent transactions, and the number of transactions by state."""
    transactions = Transaction.objects.select_related("currency", "source", "target")
    context = {
        "accounts": Account.objects.select_related("owner", "currency"),
        "transactions": transactions[:NEWEST],
        "counts": Transaction.objects.aggregate(
            **{state: Count("pk", filter=Q(state=state)) for state in State.values}
        ),
    }
    return render(request, "transactions/dashboard.html", context)
