from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("transactions", "0004_steprecord")]

    operations = [
        migrations.CreateModel(
            name="Limit",
            fields=[
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("top_up", "Top Up"),
                            ("withdrawal", "Withdrawal"),
                            ("transfer", "Transfer"),
                            ("refund", "Refund"),
                        ],
                        max_length=10,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "maximum",
                    models.PositiveIntegerField(help_text="In major units of whatever currency."),
                ),
            ],
            options={"ordering": ["kind"]},
        ),
    ]
