from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="account",
            name="status",
            field=models.CharField(
                choices=[("active", "Active"), ("frozen", "Frozen")],
                default="active",
                max_length=6,
            ),
        ),
        migrations.AddField(
            model_name="account",
            name="version",
            field=models.PositiveIntegerField(
                default=0, help_text="Counts the changes of the balance."
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(status__in=["active", "frozen"]),
                name="account_status_is_known",
            ),
        ),
        migrations.AddIndex(
            model_name="account",
            index=models.Index(fields=["owner", "status"], name="account_owner_status"),
        ),
    ]
