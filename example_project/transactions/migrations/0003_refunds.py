from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("transactions", "0002_constraints")]

    operations = [
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.CheckConstraint(
                condition=(
                    Q(kind="refund", refunds__isnull=False) | Q(~Q(kind="refund"), refunds=None)
                ),
                name="transaction_refund_names_original",
            ),
        ),
        migrations.AddConstraint(
            model_name="transaction",
            constraint=models.UniqueConstraint(
                condition=~Q(state="failed"), fields=["refunds"], name="transaction_one_refund"
            ),
        ),
    ]
