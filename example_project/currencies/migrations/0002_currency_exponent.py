from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("currencies", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="currency",
            name="exponent",
            field=models.PositiveSmallIntegerField(
                default=2,
                help_text=("Digits after the decimal point: how minor units make a major one."),
            ),
        ),
        migrations.AddConstraint(
            model_name="currency",
            constraint=models.CheckConstraint(
                condition=models.Q(exponent__lte=4), name="currency_exponent_is_small"
            ),
        ),
    ]
