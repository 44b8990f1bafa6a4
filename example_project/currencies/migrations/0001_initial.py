from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Currency",
            fields=[
                ("code", models.CharField(max_length=3, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=60, unique=True)),
            ],
            options={"verbose_name_plural": "currencies", "ordering": ["code"]},
        ),
        migrations.AddConstraint(
            model_name="currency",
            constraint=models.CheckConstraint(
                condition=models.Q(code__regex="^[A-Z]{3}$"), name="currency_code_is_iso"
            ),
        ),
    ]
