"""Statements as CSV files, kept in the media storage."""

import csv
from io import StringIO

from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from accounts.models import Account
from transactions.reports import Statement, statement

HEADER = ("at", "kind", "reason", "amount", "balance")


def export_statement(account: Account) -> str:
    """Write an account's statement to the storage, if it has changed; return its name."""
    # Each change of the balance increments the version, so equal versions have equal statements.
    key = f"statement:{account.pk}:{account.version}"
    name = cache.get(key)
    if name is None or not default_storage.exists(name):
        content = ContentFile(as_csv(statement(account)).encode())
        name = default_storage.save(f"statements/{account.pk}.csv", content)
        cache.set(key, name)
    return name


def as_csv(statement: Statement) -> str:
    """Return a statement as CSV, with amounts in major units."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADER)
    major = statement.account.currency.major
    for line in statement.lines:
        amounts = (major(line.amount), major(line.balance))
        writer.writerow([line.at.isoformat(), line.kind, line.reason, *amounts])
    return text.getvalue()
