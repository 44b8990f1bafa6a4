"""Projects whose tests commit, and the times at which the body of each test starts and ends.

Their models are those of `generated`, without migrations. A handler of post_migrate creates the
rows of some small tables, like Django's content types. All tests connect before their bodies:

- `Idle`: tests read, and change nothing.
- `Committing`: each test commits rows in five tables, which differ from test to test.
- `Scoped`: the same with `available_apps`, in the tables of two small apps.
- `Rolled`: 500 tests whose rows are rolled back, in five tables each, through all tables.
- `suite.many`: 20 classes of 10 tests that commit.
- `suite.first`: a test that reads, and two that commit. The gap is that between the first and the
  last of them, with what the runner prepares for the first commit, and the first flush or reset.

The gap between two bodies contains the flush or the reset, Django's own set-up and tear-down, and
a connection. The first quarter of a class's gaps is left out: resets fill their caches in it.
"""

import compileall
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..project import WITH_STOCK, Project
from .command import prepare, run
from .generated import app_name, shares, write_models

# The tables of django.contrib.auth and contenttypes.
_DJANGO_TABLES = 7
_SMALL = 2

_REFERENCE_MODEL = """
class Kind{number}(models.Model):
    name = models.CharField(max_length=50, unique=True)
    position = models.PositiveSmallIntegerField(default=0)
"""
_REFERENCE_APP = """
    from django.apps import AppConfig
    from django.db.models.signals import post_migrate

    def make_rows(sender, using, **kwargs):
        for model in sender.get_models():
            rows = model.objects.using(using)
            if not rows.exists():
                rows.bulk_create(model(name=f"kind {n}", position=n) for n in range(20))

    class ReferenceConfig(AppConfig):
        name = "reference"
        def ready(self):
            post_migrate.connect(make_rows, sender=self)
"""
_STAMPED = """
    import os
    import time
    from itertools import count

    from django.apps import apps
    from django.contrib.auth.models import Group, User
    from django.db import connection
    from django.test import TestCase, TransactionTestCase

    STAMPS = open(os.environ["BENCH_STAMPS"], "a", buffering=1)
    NUMBERS = count()

    def stamped(body, *args):
        def test(self):
            begun = time.perf_counter()
            body(*args)
            name = getattr(self, "stamp", type(self).__name__)
            STAMPS.write(f"{name} {begun} {time.perf_counter()}\\n")

        return test

    class Connected(TransactionTestCase):
        def setUp(self):
            connection.ensure_connection()

    def add_tests(test_class, bodies):
        for number, body in enumerate(bodies):
            setattr(test_class, f"test_{number:03}", stamped(*body))

    def models_of(*labels):
        configs = map(apps.get_app_config, labels)
        found = [m for app in configs for m in app.get_models(include_auto_created=True)]
        return [*found, Group, User][:5]

    def write(models):
        made = {}
        for model in models:
            _row(model, made)

    def _row(model, made):
        if model not in made:
            values = {}
            for field in model._meta.concrete_fields:
                if field.many_to_one and not field.null:
                    values[field.name] = _row(field.related_model, made)
                elif field.unique and not field.primary_key:
                    values[field.name] = f"name {next(NUMBERS)}"
            made[model] = model._default_manager.create(**values)
        return made[model]
"""
_TESTS = """
    from suite.stamped import *

    COUNT = int(os.environ["BENCH_TESTS"])
    ALL = apps.get_models(include_auto_created=True)
    APPS = {apps}

    class Idle(Connected): pass
    class Committing(Connected): pass
    class Scoped(Connected): available_apps = {scoped}
    class Rolled(TestCase): pass

    add_tests(Idle, [(Group.objects.count,)] * COUNT)
    add_tests(Committing, [(write, models_of(APPS[n % len(APPS)])) for n in range(COUNT)])
    add_tests(Scoped, [(write, models_of(*{scoped}))] * COUNT)
    add_tests(Rolled, [(write, (ALL + ALL)[5 * n % len(ALL) :][:5]) for n in range(500)])
"""
_MANY = """
    from suite.stamped import *

    APPS = {apps}
    for number in range(20):
        name = f"Many{{number:02}}"
        globals()[name] = type(name, (Connected,), {{"__module__": __name__}})
        add_tests(globals()[name], [(write, models_of(APPS[number % len(APPS)]))] * 10)
"""
_FIRST = """
    from suite.stamped import *

    class Reading(TestCase): stamp = "First"
    class Writing(Connected): stamp = "First"

    add_tests(Reading, [(Group.objects.count,)])
    add_tests(Writing, [(write, models_of({app!r})[:3])] * 2)
"""


class Shape(NamedTuple):
    """The number of tables of a project, with Django's own, and of apps."""

    name: str
    tables: int
    apps: int
    # Tables that have rows before each test, besides content types and permissions.
    references: int


FEW = Shape("10 tables", tables=10, apps=1, references=0)
MANY = Shape("300 tables", tables=300, apps=17, references=10)


def write_committing(project: Project, shape: Shape) -> None:
    # Each app has a table for its many-to-many relation besides those of its models.
    models = shape.tables - _DJANGO_TABLES - shape.references - shape.apps
    large = max(shape.apps - _SMALL, 1)
    small = shape.apps - large
    counts = [*shares(models - 2 * small, large), *[2] * small]
    for number, count in enumerate(counts):
        write_models(project, number, count)
    apps = [app_name(number) for number in range(shape.apps)]
    models = "".join(_REFERENCE_MODEL.format(number=n) for n in range(shape.references))
    project.write("reference/__init__.py", "")
    project.write("reference/models.py", f"from django.db import models\n{models}")
    project.write("reference/apps.py", _REFERENCE_APP)
    project.configure(
        'INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]\n'
        f'INSTALLED_APPS += ["reference.apps.ReferenceConfig", *{apps}]\n'
        'DATABASES["default"]["TEST"] = {"MIGRATE": False}'
    )
    project.write("suite/__init__.py", "")
    project.write("suite/stamped.py", _STAMPED)
    project.write("suite/tests.py", _TESTS.format(apps=apps[:large], scoped=apps[-_SMALL:]))
    project.write("suite/many.py", _MANY.format(apps=apps[:large]))
    project.write("suite/first.py", _FIRST.format(app=apps[0]))
    compileall.compile_dir(project.folder, quiet=1)


class Gaps(NamedTuple):
    """Seconds of the whole command, and the median gap between tests by class."""

    whole: float
    between: Mapping[str, float]


def measure_gaps(
    project: Project, runner: str, labels: Sequence[str], *, tests: int, is_kept: bool = False
) -> Gaps:
    """Run tests in one process, `tests` for each class of variable size; all must pass.

    With `is_kept`, use the databases that an earlier run has kept, and keep them.
    """
    prepare(project, is_kept=is_kept)
    flags = ["--noinput", *(WITH_STOCK if runner == "stock" else ())]
    flags += ["--keepdb"] if is_kept else []
    with tempfile.TemporaryDirectory(prefix="stamps-") as folder:
        stamps = Path(folder) / "stamps"
        env = {"BENCH_STAMPS": str(stamps), "BENCH_TESTS": str(tests)}
        result = run(*labels, *flags, folder=project.folder, env=env)
        bodies: dict[str, list[tuple[float, float]]] = {}
        for line in stamps.read_text().splitlines():
            name, begun, ended = line.split()
            bodies.setdefault(name, []).append((float(begun), float(ended)))
    result.check_passed(sum(map(len, bodies.values())))
    between = {name: _between(times) for name, times in bodies.items()}
    if first := bodies.get("First"):
        between["First"] = first[-1][0] - first[0][1]
    return Gaps(result.seconds, between)


def _between(bodies: Sequence[tuple[float, float]]) -> float:
    gaps = [begun - ended for (_, ended), (begun, _) in pairwise(bodies)]
    return median(gaps[-(-len(gaps) // 4) :])
