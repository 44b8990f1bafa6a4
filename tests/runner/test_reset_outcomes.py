"""Random suites of committing tests that pass with stock Django's flush pass with resets."""

import random
import re

import pytest

from ..project import WITH_STOCK, Project

SETTINGS = """
    INSTALLED_APPS += ["shop.apps.Shop", "django.contrib.sites"]
    SITE_ID = 1
    DATABASES["other"] = {**DATABASES["default"], "NAME": DATABASES["default"]["NAME"] + "_other"}
    DATABASES["other"]["TEST"] = {"DEPENDENCIES": []}
    DATABASES["twin"] = {**DATABASES["default"], "TEST": {"DEPENDENCIES": []}}
"""
# A handler between Django's own, which depends on the rows of the first.
APPS = """
    from django.apps import AppConfig, apps
    from django.db.models.signals import post_migrate

    def grant(sender, using, **named):
        # Tests with available_apps may exclude it.
        if not apps.is_installed("django.contrib.auth"): return
        from django.contrib.auth.models import Group, Permission

        clerks, _ = Group.objects.using(using).get_or_create(name="clerks")
        clerks.permissions.set(Permission.objects.using(using).all())

    class Shop(AppConfig):
        name = "shop"
        def ready(self): post_migrate.connect(grant, sender=self)
"""
MODELS = """
    from django.db import models

    class Country(models.Model):
        code = models.CharField(max_length=2, unique=True)

    class Order(models.Model):
        number = models.IntegerField(default=1)
        country = models.ForeignKey(Country, models.CASCADE, null=True)
        again = models.ForeignKey("self", models.CASCADE, null=True)
        authors = models.ManyToManyField("library.Author")
"""
MIGRATION = """
    from django.db import migrations
    from helpers.migrations import created
    from shop.models import Country, Order

    def rows(apps, editor):
        manager = apps.get_model("shop", "Country").objects.using(editor.connection.alias)
        for code in ("DE", "FR"): manager.create(code=code)
        manager.create(id=50, code="IT")

    class Migration(migrations.Migration):
        initial = True
        dependencies = [("library", "0001_initial")]
        operations = [*created(Country, Order), migrations.RunPython(rows)]
"""
FIXTURE = """
    [{"model": "shop.country", "pk": 77, "fields": {"code": "DE"}},
     {"model": "shop.country", "pk": 78, "fields": {"code": "ES"}}]
"""
HEAD = """
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sites.models import Site
from django.core.management import call_command
from helpers.elsewhere import in_a_thread
from shop.models import Country, Order
# Permissions of all apps except the last, as in stock Django.
CLERKS = 32
"""
# Statements and assertions; a test consists of one or more.
LINES = [
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
    "self.assertEqual(Group.objects.get(name='clerks').permissions.count(), CLERKS)",
    "self.assertEqual(Group.objects.using('other').get().permissions.count(), CLERKS)",
    "Group.objects.all().delete()",
    "User.objects.create(username='me').groups.add(Group.objects.create(name='staff'))",
    "Order.objects.create().authors.add(Author.objects.create(name='an author'))",
    "order = Order.objects.create(); order.again = order; order.save()",
    "in_a_thread(lambda: Author.objects.create(name='from a thread'))",
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
# Attributes of a class.
TRAITS = [
    *("", "", "reset_sequences = True", "serialized_rollback = True", "fixtures = ['countries']"),
    "available_apps = ['shop', 'library', 'django.contrib.contenttypes']",
    "available_apps = ['shop', 'library', 'django.contrib.contenttypes', 'django.contrib.auth']",
    "databases = {'default', 'other'}",
    "databases = {'default', 'twin'}",
    "databases = {'default', 'other', 'twin'}",
]
OUTCOME = re.compile(
    r"^(test_\d+) \(\S+\.(C\d+)\.\S+\).*? \.\.\. (?:.*\n)*?.*?\b(ok|FAIL|ERROR)$", re.M
)


def random_class(choose: random.Random, name: str) -> str:
    base = choose.choice(["TransactionTestCase"] * 5 + ["TestCase"])
    trait = choose.choice(TRAITS if base == "TransactionTestCase" else TRAITS[:1])
    text = "@override_settings(SITE_ID=2)\n" if choose.random() < 0.15 else ""
    text += f"class {name}({base}):\n    {trait}\n"
    # A thread would block on rows that a TestCase has not committed.
    possible = [line for line in LINES if base != "TestCase" or "in_a_thread" not in line]
    for n in range(choose.randint(2, 4)):
        lines = choose.choices(possible, k=choose.randint(1, 3))
        text += f"    def test_{n}(self):\n        " + "\n        ".join(lines) + "\n"
    return text


def passing(project: Project, *arguments: str) -> set[tuple[str, str]]:
    """Run the suite; return the class and name of each test that passed."""
    output = project.run("--verbosity", "2", *arguments).stderr
    outcomes = {(name, test): what for test, name, what in OUTCOME.findall(output)}
    assert f"Ran {len(outcomes)} tests" in output, output
    return {test for test, what in outcomes.items() if what == "ok"}


@pytest.mark.parametrize("seed", range(4))
def test_a_suite_that_passes_in_stock_django_passes(project: Project, seed: int) -> None:
    """Tests depend on each other through rows, fixtures, sequences and so on."""
    project.configure(SETTINGS)
    project.write("shop/__init__.py", "")
    project.write("shop/apps.py", APPS)
    project.write("shop/models.py", MODELS)
    project.write("shop/migrations/__init__.py", "")
    project.write("shop/migrations/0001_initial.py", MIGRATION)
    project.write("shop/fixtures/countries.json", FIXTURE)
    choose = random.Random(seed)
    project.tests(HEAD + "\n".join(random_class(choose, f"C{n:02}") for n in range(20)))
    expected = passing(project, *WITH_STOCK)
    assert len({name for name, _ in expected}) > 5
    assert expected <= passing(project)
