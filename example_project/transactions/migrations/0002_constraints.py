from django.db import migrations, models
from django.db.models import F, Q

FINAL = Q(state__in=["completed", "failed"])


class Migration(migrations.Migration):
    dependencies = [("transactions", "0001_initial")]

    operations = [
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=Q(amount__gt=0), name="transaction_amount_positive"
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=(
                    Q(kind="top_up", source=None, target__isnull=False)
                    | Q(kind="withdrawal", source__isnull=False, target=None)
                    | Q(kind="transfer", source__isnull=False, target__isnull=False)
                    | Q(kind="refund")
                ),
                name="transaction_sides_match_kind",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=Q(source=None) | Q(target=None) | ~Q(source=F("target")),
                name="transaction_sides_differ",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=(Q(FINAL, finished_at__isnull=False) | Q(~FINAL, finished_at=None)),
                name="transaction_finished_when_final",
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgerentry",
            constraint=models.CheckConstraint(
                condition=~Q(amount=0), name="entry_moves_something"
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgerentry",
            constraint=models.CheckConstraint(
                condition=Q(balance_after__gte=0), name="entry_balance_not_negative"
            ),
        ),
        migrations.AddConstraint(
            model_name="ledgerentry",
            constraint=models.UniqueConstraint(
                fields=["transaction", "account", "reason"], name="entry_once"
            ),
        ),
        migrations.AddIndex(
            model_name="ledgerentry",
            index=models.Index(fields=["account", "created_at"], name="entry_statement"),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(fields=["-created_at"], name="transaction_newest"),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(condition=~FINAL, fields=["state"], name="transaction_unfinished"),
        ),
    ]
