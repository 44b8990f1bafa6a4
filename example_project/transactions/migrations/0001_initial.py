import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

KINDS = [
    ("top_up", "Top Up"),
    ("withdrawal", "Withdrawal"),
    ("transfer", "Transfer"),
    ("refund", "Refund"),
]
STATES = [
    ("pending", "Pending"),
    ("running", "Running"),
    ("compensating", "Compensating"),
    ("completed", "Completed"),
    ("failed", "Failed"),
]


def protected(to, related_name, *, null=False):
    return models.ForeignKey(
        null=null,
        on_delete=django.db.models.deletion.PROTECT,
        related_name=related_name,
        to=to,
    )


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("accounts", "0002_account_status_version"),
        ("currencies", "0002_currency_exponent"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Transaction",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("idempotency_key", models.CharField(max_length=64, unique=True)),
                ("kind", models.CharField(choices=KINDS, max_length=10)),
                (
                    "state",
                    models.CharField(choices=STATES, default="pending", max_length=12),
                ),
                ("amount", models.BigIntegerField(help_text="In minor units.")),
                ("error", models.CharField(blank=True, max_length=200)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("currency", protected("currencies.currency", "+")),
                ("source", protected("accounts.account", "outgoing", null=True)),
                ("target", protected("accounts.account", "incoming", null=True)),
                ("refunds", protected("transactions.transaction", "refunded_by", null=True)),
                ("requested_by", protected(settings.AUTH_USER_MODEL, "transactions")),
            ],
            options={"ordering": ["-created_at", "id"]},
        ),
        migrations.CreateModel(
            name="LedgerEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("debit", "Debit"),
                            ("credit", "Credit"),
                            ("debit_undone", "Debit Undone"),
                            ("credit_undone", "Credit Undone"),
                        ],
                        max_length=13,
                    ),
                ),
                (
                    "amount",
                    models.BigIntegerField(help_text="In minor units; negative takes money out."),
                ),
                ("balance_after", models.BigIntegerField()),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("account", protected("accounts.account", "entries")),
                ("transaction", protected("transactions.transaction", "entries")),
            ],
            options={"verbose_name_plural": "ledger entries", "ordering": ["id"]},
        ),
    ]
