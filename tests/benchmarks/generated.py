"""Projects like real ones: apps whose models have grown with each migration.

Every app creates its models a few at a time, and changes each a little later: it adds and alters
fields, then adds an index and a constraint. A model refers to another of its app, and the first
one to the previous app, in groups of three apps; in the first group, some refer to users. An app
has one many-to-many relation, and ends with a migration that inserts rows. models.py has the final
state. The more models are related to a changed one, the longer Django's migrations take: if all
apps referred to users, as is usual, those of the big project would take five times as long. With
groups, a round takes minutes, and the ratios of runs that do not migrate are less favorable.

There are as many classes as the largest run has workers, each with one test of one query. Tests
wait until all workers are ready, because otherwise the first worker would run them all.
"""

import compileall
from itertools import zip_longest
from typing import NamedTuple

from ..project import Project

CLASSES = 8
# The tables of django.contrib.auth and contenttypes, and django_migrations.
_DJANGO_TABLES = 8
_DJANGO_MIGRATIONS = 14
# The number of models created before the first one is changed.
_LAG = 3

_TESTS = """\
import time

from django.contrib.auth.models import Group
from django.test import TestCase

from marks import are_workers_ready

class Waiting:
    @classmethod
    def setUpClass(cls):
        deadline = time.monotonic() + 1200
        while not are_workers_ready():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        super().setUpClass()
"""
_TEST = """
class Generated{}(Waiting, TestCase):
    def test_query(self):
        self.assertEqual(Group.objects.count(), 0)
"""
_MIGRATION = """\
from django.conf import settings
from django.db import migrations, models

def insert(apps, schema_editor):
    for n in range(10):
        apps.get_model("{app}", "{first}").objects.create(name=f"name {{n}}", slug=f"name-{{n}}")

class Migration(migrations.Migration):
    dependencies = {dependencies}
    operations = [{operations}]
"""
# The number of apps that refer to each other.
GROUP = 3
_ALTERED = {"name": "models.CharField(max_length=200, unique=True)"}
_MODEL = """
class {name}(models.Model):
{fields}

    class Meta:
        indexes = [{index}]
        constraints = [{constraint}]
"""


def app_name(number: int) -> str:
    return f"app{number:02}"


class Model(NamedTuple):
    """A model, with its migrations and its final source in models.py."""

    app: int
    position: int

    @property
    def name(self) -> str:
        return f"Item{self.app:02}{self.position:02}"

    @property
    def creation(self) -> str:
        key = 'models.BigAutoField("ID", auto_created=True, primary_key=True, serialize=False)'
        fields = {"id": key, **self._created}
        pairs = ", ".join(f'("{name}", {field})' for name, field in fields.items())
        return f'migrations.CreateModel("{self.name}", fields=[{pairs}])'

    @property
    def changes(self) -> list[str]:
        return [
            *(f'migrations.AddField("{self.name}", "{k}", {v})' for k, v in self._added.items()),
            *(f'migrations.AlterField("{self.name}", "{k}", {v})' for k, v in _ALTERED.items()),
            f'migrations.AddIndex("{self.name}", {self._index})',
            f'migrations.AddConstraint("{self.name}", {self._constraint})',
        ]

    @property
    def source(self) -> str:
        fields = {**self._created, **self._added, **_ALTERED}
        lines = "\n".join(f"    {name} = {field}" for name, field in fields.items())
        return _MODEL.format(
            name=self.name, fields=lines, index=self._index, constraint=self._constraint
        )

    @property
    def _created(self) -> dict[str, str]:
        fields = {
            "name": "models.CharField(max_length=100, unique=True)",
            "text": "models.TextField(blank=True)",
            "amount": "models.DecimalField(max_digits=10, decimal_places=2, default=0)",
            "is_active": "models.BooleanField(default=True)",
            "created": "models.DateTimeField(auto_now_add=True)",
        }
        if self.position:
            parent = Model(self.app, (self.position - 1) // 2)
        elif self.app % GROUP:
            parent = Model(self.app - 1, 0)
        else:
            return fields
        target = f'"{app_name(parent.app)}.{parent.name}"'
        parent_field = f"models.ForeignKey({target}, models.CASCADE, null={not self.position})"
        return {**fields, "parent": parent_field}

    @property
    def _added(self) -> dict[str, str]:
        fields = {
            "status": "models.PositiveSmallIntegerField(default=0)",
            "slug": 'models.SlugField(default="")',
        }
        if self.app < GROUP and self.position % 3 == 0:
            options = 'models.SET_NULL, related_name="+", null=True'
            fields["owner"] = f"models.ForeignKey(settings.AUTH_USER_MODEL, {options})"
        if self.position == 0:
            related = f"{app_name(self.app)}.{Model(self.app, 1).name}"
            fields["related"] = f'models.ManyToManyField("{related}", related_name="+")'
        return fields

    @property
    def _index(self) -> str:
        return f'models.Index(fields=["status", "created"], name="{self.name}_status")'

    @property
    def _constraint(self) -> str:
        if self.position % 2:
            condition = "models.Q(amount__gte=0)"
            return f'models.CheckConstraint(condition={condition}, name="{self.name}_amount")'
        return f'models.UniqueConstraint(fields=["slug", "status"], name="{self.name}_slug")'


class Size(NamedTuple):
    """The size of a project, including Django's own tables and migrations."""

    name: str
    tables: int
    migrations: int
    apps: int


SMALL = Size("small", tables=20, migrations=26, apps=3)
BIG = Size("big", tables=300, migrations=300, apps=15)


def write_project(project: Project, size: Size) -> None:
    # Each app has a table for its many-to-many relation besides those of its models.
    models = shares(size.tables - _DJANGO_TABLES - size.apps, size.apps)
    migrations = shares(size.migrations - _DJANGO_MIGRATIONS, size.apps)
    for number in range(size.apps):
        _write_app(project, number, models=models[number], migrations=migrations[number])
    apps = [app_name(number) for number in range(size.apps)]
    project.configure(
        'INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]\n'
        f"INSTALLED_APPS += {apps}"
    )
    project.write("suite/__init__.py", "")
    project.write("suite/tests.py", _TESTS + "".join(map(_TEST.format, range(CLASSES))))
    # Otherwise, the first command would compile all of it.
    compileall.compile_dir(project.folder, quiet=1)


def write_models(project: Project, number: int, models: int) -> list[Model]:
    """Write an app with this number of models, in their final state."""
    app = app_name(number)
    members = [Model(number, position) for position in range(models)]
    project.write(f"{app}/__init__.py", "")
    head = "from django.conf import settings\nfrom django.db import models\n"
    project.write(f"{app}/models.py", head + "".join(member.source for member in members))
    return members


def shares(total: int, parts: int) -> list[int]:
    return [total * (n + 1) // parts - total * n // parts for n in range(parts)]


def _write_app(project: Project, number: int, *, models: int, migrations: int) -> None:
    app = app_name(number)
    members = write_models(project, number, models)
    project.write(f"{app}/migrations/__init__.py", "")
    operations = _operations(members)
    # Rows are inserted in a separate migration, as Django's documentation advises.
    counts = [*shares(len(operations), migrations - 1), 1]
    operations.append("migrations.RunPython(insert, migrations.RunPython.noop)")
    before = ["auth", "0012_alter_user_first_name_max_length"]
    dependencies = [before, *([[app_name(number - 1), "0001_step"]] if number % GROUP else [])]
    for step, count in enumerate(counts, start=1):
        text = _MIGRATION.format(
            app=app,
            first=members[0].name,
            dependencies=[tuple(each) for each in dependencies],
            operations=",\n".join(operations[:count]),
        )
        project.write(f"{app}/migrations/{step:04}_step.py", text)
        dependencies, operations = [[app, f"{step:04}_step"]], operations[count:]


def _operations(members: list[Model]) -> list[str]:
    """List an app's operations in the order in which its models have grown."""
    operations = []
    for created, changed in zip_longest(members, [None] * _LAG + members):
        operations += [created.creation] if created else []
        operations += changed.changes if changed else []
    return operations
