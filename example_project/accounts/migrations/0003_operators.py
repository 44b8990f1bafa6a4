"""Create the group whose members may act for every customer."""

from django.db import migrations

OPERATORS = "operators"


def create_operators(apps, schema_editor):
    group = apps.get_model("auth", "Group")
    group.objects.using(schema_editor.connection.alias).get_or_create(name=OPERATORS)


def delete_operators(apps, schema_editor):
    group = apps.get_model("auth", "Group")
    group.objects.using(schema_editor.connection.alias).filter(name=OPERATORS).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_account_status_version"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [migrations.RunPython(create_operators, delete_operators)]
