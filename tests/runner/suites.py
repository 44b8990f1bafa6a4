"""Suites of tests that commit, made at random: what they meet depends on those before them."""

import random
import re

from ..project import Project

_SETTINGS = """
    INSTALLED_APPS += ["django.contrib.sites", "shop"]
    SITE_ID = 1
    DATABASES["other"] = {**DATABASES["default"], "NAME": DATABASES["default"]["NAME"] + "_other"}
    DATABASES["other"]["TEST"] = {"DEPENDENCIES": []}
    DATABASES["twin"] = {**DATABASES["default"], "TEST": {"DEPENDENCIES": []}}
"""
_MODELS = """
    from django.db import models


    class Country(models.Model):
        code = models.CharField(max_length=2, unique=True)


    class Order(models.Model):
        number = models.IntegerField(default=1)
        country = models.ForeignKey(Country, models.CASCADE, null=True)
        again = models.ForeignKey("self", models.CASCADE, null=True)
        authors = models.ManyToManyField("library.Author")
"""
_MIGRATION = """
    from django.db import migrations, models


    def rows(apps, editor):
        manager = apps.get_model("shop", "Country").objects.using(editor.connection.alias)
        for code in ("DE", "FR"):
            manager.create(code=code)
        manager.model.objects.using(editor.connection.alias).create(id=50, code="IT")


    class Migration(migrations.Migration):
        initial = True
        dependencies = [("library", "0001_initial")]
        operations = [
            migrations.CreateModel(
                name="Country",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("code", models.CharField(max_length=2, unique=True)),
                ],
            ),
            migrations.CreateModel(
                name="Order",
                fields=[
                    ("id", models.BigAutoField(primary_key=True, serialize=False)),
                    ("number", models.IntegerField(default=1)),
                    ("country", models.ForeignKey("shop.Country", models.CASCADE, null=True)),
                    ("again", models.ForeignKey("self", models.CASCADE, null=True)),
                    ("authors", models.ManyToManyField("library.Author")),
                ],
            ),
            migrations.RunPython(rows),
        ]
"""
_FIXTURE = """
    [{"model": "shop.country", "pk": 77, "fields": {"code": "DE"}},
     {"model": "shop.country", "pk": 78, "fields": {"code": "ES"}}]
"""
_HEAD = """
        import threading

        from django.contrib.auth.models import Group, Permission, User
        from django.contrib.contenttypes.models import ContentType
        from django.contrib.sites.models import Site
        from django.core.management import call_command
        from django.test import override_settings
        from shop.models import Country, Order


        def in_thread(function):
            def call():
                function()
                connection.close()

            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
"""
# What a test does or expects; each can be the whole of one, or a line of several.
_LINES = [
    "self.assertEqual(Country.objects.count(), 0)",
    "self.assertEqual(Author.objects.count(), 0)",
    "self.assertEqual(Order.objects.count(), 0)",
    "Country.objects.create(code='DE')",
    "Country.objects.create(code='IT')",
    "self.assertEqual(Country.objects.get(code='FR').code, 'FR')",
    "self.assertEqual(Country.objects.create(code='PT').pk, 1)",
    "self.assertEqual(Author.objects.create(name='first').pk, 1)",
    "self.assertEqual(Site.objects.get_current().domain, 'example.com')",
    "Site.objects.all().delete()",
    "self.assertEqual(Site.objects.count(), 1)",
    "self.assertTrue(ContentType.objects.get_for_model(Order).pk)",
    "ContentType.objects.create(app_label='old', model='gone')",
    "self.assertFalse(ContentType.objects.filter(app_label='old').exists())",
    "Permission.objects.get(codename='add_order')",
    "Permission.objects.filter(codename='add_order').delete()",
    "Permission.objects.update(name='changed')",
    "self.assertFalse(Permission.objects.filter(name='changed').exists())",
    "Group.objects.create(name='staff').permissions.add(Permission.objects.first())",
    "User.objects.create(username='me').groups.add(Group.objects.create(name='staff'))",
    "Order.objects.create().authors.add(Author.objects.create(name='an author'))",
    "order = Order.objects.create(); order.again = order; order.save()",
    "in_thread(lambda: Author.objects.create(name='from a thread'))",
    'connection.cursor().execute("INSERT INTO shop_order (number) VALUES (5)")',
    "connection.cursor().execute('TRUNCATE shop_country CASCADE')",
    "connection.cursor().execute('DELETE FROM django_migrations WHERE app = %s', ['shop'])",
    "call_command('flush', interactive=False, verbosity=0)",
    "call_command('loaddata', 'countries', verbosity=0)",
    "Country.objects.all().delete()",
    "Country.objects.bulk_create([Country(code=code) for code in ('DE', 'AT')])",
    "self.assertEqual(Country.objects.using('other').count(), 0)",
    "Country.objects.using('other').create(code='DE')",
    "Author.objects.using('twin').create(name='of the twin')",
]
# What a class is like besides.
_TRAITS = [
    "",
    "",
    "reset_sequences = True",
    "serialized_rollback = True",
    "fixtures = ['countries']",
    "available_apps = ['shop', 'library', 'django.contrib.contenttypes']",
    "available_apps = ['shop', 'library', 'django.contrib.contenttypes', 'django.contrib.auth']",
    "databases = {'default', 'other'}",
    "databases = {'default', 'twin'}",
    "databases = {'default', 'other', 'twin'}",
]
_OUTCOME = re.compile(r"^(test_\d+ \(\S+\)).*? \.\.\. (?:.*\n(?:.*\n)*?)??(ok|FAIL|ERROR)$", re.M)


def write_suite(project: Project, seed: int, *, classes: int = 14) -> None:
    """Write a project whose suite is another for each seed."""
    choose = random.Random(seed)
    project.configure(_SETTINGS)
    project.write("shop/__init__.py", "")
    project.write("shop/models.py", _MODELS)
    project.write("shop/migrations/__init__.py", "")
    project.write("shop/migrations/0001_initial.py", _MIGRATION)
    project.write("shop/fixtures/countries.json", _FIXTURE)
    lines = [_HEAD.replace("\n        ", "\n")]
    for number in range(classes):
        base = choose.choice(["TransactionTestCase"] * 5 + ["TestCase"])
        trait = choose.choice(_TRAITS if base == "TransactionTestCase" else _TRAITS[:2])
        lines.append(f"\n\nclass C{number:02}({base}):")
        lines += [f"    {trait}"] if trait else []
        if choose.random() < 0.15:
            lines[-2 if trait else -1] = lines[-2 if trait else -1].replace(
                "class", "@override_settings(SITE_ID=2)\nclass"
            )
        # A thread would wait for what a TestCase has not committed.
        possible = [line for line in _LINES if base != "TestCase" or "in_thread" not in line]
        for test in range(choose.randint(2, 4)):
            lines.append(f"    def test_{test}(self):")
            chosen = choose.choices(possible, k=choose.randint(1, 3))
            lines += [f"        {line}" for line in chosen]
    project.tests("\n".join(lines))


def outcomes(project: Project, *arguments: str) -> dict[str, bool]:
    """Run the suite, and map its tests to whether they have passed."""
    output = project.run("--verbosity", "2", *arguments).stderr
    found = {test: outcome == "ok" for test, outcome in _OUTCOME.findall(output)}
    assert f"Ran {len(found)} tests" in output, output
    return found
