"""Suites of tests that commit, made at random: what they meet depends on those before them."""

import random
import re
from dataclasses import dataclass

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
    from django.db import migrations
    from django.db.migrations.state import ModelState
    from shop.models import Country, Order

    def rows(apps, editor):
        manager = apps.get_model("shop", "Country").objects.using(editor.connection.alias)
        for code in ("DE", "FR"):
            manager.create(code=code)
        manager.create(id=50, code="IT")

    def create(model):
        fields = ModelState.from_model(model).fields
        return migrations.CreateModel(model.__name__, [*fields.items()])

    class Migration(migrations.Migration):
        initial = True
        dependencies = [("library", "0001_initial")]
        operations = [create(Country), create(Order), migrations.RunPython(rows)]
"""
_FIXTURE = """
    [{"model": "shop.country", "pk": 77, "fields": {"code": "DE"}},
     {"model": "shop.country", "pk": 78, "fields": {"code": "ES"}}]
"""
_HEAD = """
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sites.models import Site
from django.core.management import call_command
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
_OUTCOME = re.compile(
    r"^(test_\d+) \(\S+\.(C\d+)\.\S+\).*? \.\.\. (?:.*\n)*?.*?\b(ok|FAIL|ERROR)$", re.M
)


@dataclass(slots=True)
class Suite:
    """Classes by name, each with its head and its tests, which map names to lines."""

    classes: dict[str, tuple[str, dict[str, list[str]]]]

    @classmethod
    def make(cls, seed: int, *, classes: int = 20) -> "Suite":
        """Make another suite for each seed."""
        choose = random.Random(seed)
        return cls({f"C{n:02}": _make_class(choose, f"C{n:02}") for n in range(classes)})

    def write(self, project: Project) -> None:
        text = _HEAD
        for head, tests in self.classes.values():
            text += f"\n\n{head}"
            for test, lines in tests.items():
                text += "".join([f"    def {test}(self):\n", *(f"        {x}\n" for x in lines)])
        project.tests(text)

    def run(self, project: Project, *arguments: str) -> set[tuple[str, str]]:
        """Run the suite; return the tests that have passed, with their classes first."""
        self.write(project)
        output = project.run("--verbosity", "2", *arguments).stderr
        outcomes = {(name, test): what for test, name, what in _OUTCOME.findall(output)}
        assert f"Ran {len(outcomes)} tests" in output, output
        return {test for test, what in outcomes.items() if what == "ok"}


def _make_class(choose: random.Random, name: str) -> tuple[str, dict[str, list[str]]]:
    base = choose.choice(["TransactionTestCase"] * 5 + ["TestCase"])
    trait = choose.choice(_TRAITS if base == "TransactionTestCase" else _TRAITS[:1])
    head = "@override_settings(SITE_ID=2)\n" if choose.random() < 0.15 else ""
    head += f"class {name}({base}):\n" + (f"    {trait}\n" if trait else "")
    # A thread would wait for what a TestCase has not committed.
    possible = [line for line in _LINES if base != "TestCase" or "in_thread" not in line]
    return head, {
        f"test_{n}": choose.choices(possible, k=choose.randint(1, 3))
        for n in range(choose.randint(2, 4))
    }


def write_project(project: Project) -> None:
    """Write what the suites are about."""
    project.configure(_SETTINGS)
    project.write("shop/__init__.py", "")
    project.write("shop/models.py", _MODELS)
    project.write("shop/migrations/__init__.py", "")
    project.write("shop/migrations/0001_initial.py", _MIGRATION)
    project.write("shop/fixtures/countries.json", _FIXTURE)
