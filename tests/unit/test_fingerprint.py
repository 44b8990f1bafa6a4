"""The fingerprint: what changes it, and what leaves it as it is on any machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

import schema_runner

_FILES = {
    "config/__init__.py": "",
    "config/settings.py": """
        from pathlib import Path

        BASE_DIR = Path(__file__).resolve().parent.parent
        SECRET_KEY = "generated"
        INSTALLED_APPS = [
            "django.contrib.contenttypes", "django.contrib.auth", "installed", "library",
        ]
        DATABASES = {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "project",
                "USER": "owner",
                "PASSWORD": "secret",
                "HOST": "localhost",
                "PORT": "5432",
                "OPTIONS": {"sslmode": "prefer", "password": "hidden", "isolation_level": 1},
            }
        }
        DATABASE_ROUTERS = ["library.routers.Router"]
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        USE_TZ = True
        RATE = 7
        SCHEMA_RUNNER = {"FIXTURES": ["books"], "SEEDERS": ["library.seeders.seed"]}
    """,
    "library/__init__.py": "",
    "library/models.py": """
        from functools import partial

        from django.conf import settings
        from django.core.validators import RegexValidator
        from django.db import models
        from django.utils.translation import gettext_lazy as _


        class Shelf(models.Manager):
            use_in_migrations = True

            def __init__(self, size=1):
                super().__init__()
                self.size = size

            def deconstruct(self):
                return False, "library.models.Shelf", None, (self.size,), {}


        class Mixin:
            pass


        class Book(models.Model):
            title = models.CharField(_("title"), max_length=100, validators=[RegexValidator("a")])
            cover = models.FilePathField(path=settings.BASE_DIR / "covers")
            kind = models.CharField(max_length=1, choices=[("a", _("A"))], default=lambda: "a")
            pages = models.IntegerField(default=partial(int, "1"))
            part_of = models.ForeignKey("self", models.CASCADE, null=True)
            objects = Shelf(size=1)

            class Meta:
                verbose_name = _("book")
                permissions = [("lend", "Can lend")]
                indexes = [models.Index(fields=["pages"], name="by_pages")]
                constraints = [
                    models.CheckConstraint(condition=models.Q(pages__gt=0), name="has_pages")
                ]
    """,
    "library/migrations/__init__.py": "",
    "library/migrations/0001_initial.py": """
        from django.db import migrations, models

        from library import rates


        def fill(apps, schema_editor):
            from ..late import text


        class Migration(migrations.Migration):
            operations = [
                migrations.CreateModel("Book", [("id", models.BigAutoField(primary_key=True))]),
                migrations.RunPython(fill),
            ]
    """,
    "library/migrations/rows.csv": "1,2\n",
    "library/migrations/inner/__init__.py": "ROWS = 1\n",
    "library/rates.py": "from .deep.constants import RATE\n",
    "library/deep/__init__.py": "",
    "library/deep/constants.py": "RATE = 1\n",
    "library/late.py": "text = 'late'\n",
    "library/views.py": "PAGE = 1\n",
    "library/seeders.py": "def seed(using):\n    pass\n",
    "library/routers.py": "class Router:\n    pass\n",
    "library/facts.py": "def answer():\n    return 1\n",
    "library/fixtures/books.json": "[]\n",
    "other_migrations/__init__.py": "",
}
_INSTALLED = {
    "installed/__init__.py": "",
    "installed/migrations/__init__.py": "",
    "installed/migrations/0001_initial.py": """
        from django.db import migrations


        class Migration(migrations.Migration):
            pass
    """,
    "some_app-1.0.dist-info/RECORD": "installed/__init__.py,,\n",
    "some_app-1.0.dist-info/METADATA": "Name: some-app\nVersion: 1.0\n",
    "useful-3.0.dist-info/RECORD": "useful.py,,\n",
    "useful.py": "",
}
_SETUP = """
import json, os, sys
import django
django.setup()
from dataclasses import fields
from types import SimpleNamespace
from schema_runner.fingerprint import Recording, fingerprint, is_unchanged
from schema_runner.settings import Settings

read = Settings.read()
runner = SimpleNamespace(**{
    **read._asdict(),
    "fingerprint": ("library.facts.answer",),
})
"""
_PRINT = 'print(fingerprint("default", runner_settings=runner, facts=["server 18", "role a"]))'


class Site:
    """A small project in `project`, and what it has installed in `site-packages`."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.package = package
        self.folder = folder / "project"
        self.installed = folder / "site-packages"

    def fill(self) -> "Site":
        for path, text in _FILES.items():
            self.write(path, text)
        for path, text in _INSTALLED.items():
            self.write(f"../site-packages/{path}", text)
        return self

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text).lstrip())

    def add(self, path: str, text: str) -> None:
        with (self.folder / path).open("a") as file:
            file.write(f"\n{dedent(text)}\n")

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert old in text
        (self.folder / path).write_text(text.replace(old, new))

    def run(self, code: str, **env: str) -> str:
        """Run statements in a process of the project's own; return what they print."""
        done = subprocess.run(
            [sys.executable, "-c", f"{_SETUP}\n{dedent(code)}"],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "DJANGO_SETTINGS_MODULE": "config.settings",
                "PYTHONPATH": f"{self.folder}:{self.installed}:{self.package}",
                "PYTHONDONTWRITEBYTECODE": "1",
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def fingerprint(self, before: str = "", **env: str) -> str:
        return self.run(f"{before}\n{_PRINT}", **env)

    def dependencies(self, build: str) -> dict[str, str]:
        """Record the statements of a build."""
        body = "\n".join(f"    {line}" for line in dedent(build).strip().splitlines())
        code = f"with Recording(runner) as recording:\n{body}\n"
        found = self.run(f"{code}print(json.dumps(recording.dependencies()))")
        result: dict[str, str] = json.loads(found)
        return result

    def is_unchanged(self, dependencies: dict[str, str]) -> bool:
        return self.run(f"print(is_unchanged({dependencies!r}))") == "True"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our package, so that tests may change it and nobody else does meanwhile."""
    folder = tmp_path_factory.mktemp("package")
    source = Path(schema_runner.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, folder / "schema_runner", ignore=ignored)
    return folder


@pytest.fixture
def site(tmp_path: Path, package: Path) -> Site:
    return Site(tmp_path, package).fill()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, package: Path) -> str:
    """The fingerprint of the project as it was generated, in a folder of its own."""
    return Site(tmp_path_factory.mktemp("original"), package).fill().fingerprint()


def configured(text: str) -> Callable[[Site], None]:
    return lambda site: site.add("config/settings.py", text)


def replaced(path: str, old: str, new: str) -> Callable[[Site], None]:
    return lambda site: site.replace(path, old, new)


def model(old: str, new: str) -> Callable[[Site], None]:
    return replaced("library/models.py", old, new)


def written(path: str, text: str = "") -> Callable[[Site], None]:
    return lambda site: site.write(path, text)


def renamed(path: str, to: str) -> Callable[[Site], None]:
    def rename(site: Site) -> None:
        (site.folder / path).rename(site.folder / to)

    return rename


INITIAL = "library/migrations/0001_initial.py"
CHANGES = {
    "a migration": lambda site: site.add(INITIAL, "# other"),
    "a migration's name": renamed(INITIAL, "library/migrations/0001_first.py"),
    "a new migration": written("library/migrations/0002_more.py"),
    "a compiled migration": written("library/migrations/0002_more.pyc"),
    "a file beside migrations": written("library/migrations/rows.csv", "3,4\n"),
    "a package in migrations": written("library/migrations/inner/__init__.py", "ROWS = 2\n"),
    "an installed migration": lambda site: site.add(
        "../site-packages/installed/migrations/0001_initial.py", "# other"
    ),
    "MIGRATION_MODULES": configured('MIGRATION_MODULES = {"library": "other_migrations"}'),
    "no migrations": configured('MIGRATION_MODULES = {"library": None}'),
    "a field": model("max_length=100", "max_length=101"),
    "a field's name": model("pages = models.Int", "leaves = None; pages_ = models.Int"),
    "a field's class": model("models.IntegerField(", "models.BigIntegerField("),
    "a relation": model("models.CASCADE", "models.PROTECT"),
    "a validator": model('RegexValidator("a")', 'RegexValidator("b")'),
    "choices": model('("a", _("A"))', '("a", _("B"))'),
    "a lambda": model('lambda: "a"', 'lambda: "b"'),
    "a partial": model('partial(int, "1")', 'partial(int, "2")'),
    "a lazy text": model('_("title")', '_("name")'),
    "a verbose name": model('_("book")', '_("novel")'),
    "a permission": model("Can lend", "May lend"),
    "an index": model('fields=["pages"]', 'fields=["kind"]'),
    "a constraint": model("pages__gt=0", "pages__gt=1"),
    "db_table": model("permissions =", 'db_table = "other"\n        permissions ='),
    "managed": model("permissions =", "managed = False\n        permissions ="),
    "ordering": model("permissions =", 'ordering = ["pages"]\n        permissions ='),
    "swappable": model("permissions =", 'swappable = "ANY_MODEL"\n        permissions ='),
    "a base": model("class Book(models.Model)", "class Book(Mixin, models.Model)"),
    "a manager": model("Shelf(size=1)", "Shelf(size=2)"),
    "a proxy": lambda site: site.add(
        "library/models.py", "class Novel(Book):\n    class Meta:\n        proxy = True"
    ),
    "another app": configured('INSTALLED_APPS += ["django.contrib.sessions"]'),
    "the order of apps": configured("INSTALLED_APPS.reverse()"),
    "an app's version": renamed(
        "../site-packages/some_app-1.0.dist-info", "../site-packages/some_app-1.1.dist-info"
    ),
    "psycopg's version": written(
        "../site-packages/psycopg-99.dist-info/METADATA", "Name: psycopg\nVersion: 99\n"
    ),
    "our own version": written(
        "../site-packages/django_schema_runner-99.dist-info/METADATA",
        "Name: django-schema-runner\nVersion: 99\n",
    ),
    "ENGINE": configured('DATABASES["default"]["ENGINE"] = "django.db.backends.sqlite3"'),
    "USER": configured('DATABASES["default"]["USER"] = "other"'),
    "the alias's TIME_ZONE": configured('DATABASES["default"]["TIME_ZONE"] = "Asia/Tokyo"'),
    "OPTIONS": configured('DATABASES["default"]["OPTIONS"]["isolation_level"] = 2'),
    "TEST": configured('DATABASES["default"]["TEST"] = {"MIGRATE": False}'),
    "another alias": configured('DATABASES["other"] = DATABASES["default"]'),
    "a router": configured("DATABASE_ROUTERS = []"),
    "a router's source": lambda site: site.add("library/routers.py", "LIMIT = 2"),
    "a router that is an object": configured(
        "from library.routers import Router\nDATABASE_ROUTERS = [Router()]"
    ),
    "a swappable model's setting": configured('LIBRARY_CARD_MODEL = "library.Card"'),
    "DEFAULT_AUTO_FIELD": configured('DEFAULT_AUTO_FIELD = "django.db.models.AutoField"'),
    "USE_TZ": configured("USE_TZ = False"),
    "TIME_ZONE": configured('TIME_ZONE = "Asia/Tokyo"'),
    "LANGUAGE_CODE": configured('LANGUAGE_CODE = "nl"'),
    "LANGUAGES": configured('LANGUAGES = [("nl", "Dutch")]'),
    "SITE_ID": configured("SITE_ID = 3"),
    "DEFAULT_TABLESPACE": configured('DEFAULT_TABLESPACE = "fast"'),
    "DEFAULT_INDEX_TABLESPACE": configured('DEFAULT_INDEX_TABLESPACE = "fast"'),
    "a cache in the database": configured(
        'CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache",'
        ' "LOCATION": "cached"}}'
    ),
    "a fixture": written("library/fixtures/books.json", "[ ]\n"),
    "a fixture of the same name": lambda site: [
        configured('FIXTURE_DIRS = [BASE_DIR / "more"]')(site),
        site.write("more/books.json", "[]\n"),
    ],
    "FIXTURES": configured('SCHEMA_RUNNER["FIXTURES"] = []'),
    "SEEDERS": configured('SCHEMA_RUNNER["SEEDERS"] = []'),
    "a seeder's source": lambda site: site.add("library/seeders.py", "LIMIT = 2"),
    "HOST_DATABASE": configured('SCHEMA_RUNNER["HOST_DATABASE"] = "current"'),
    "ISOLATION": configured('SCHEMA_RUNNER["ISOLATION"] = "database"'),
    "FINGERPRINT": replaced("library/facts.py", "1", "2"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_changes_it(site: Site, original: str, change: Callable[[Site], None]) -> None:
    """Whatever decides about the contents of a ready schema counts."""
    change(site)
    assert site.fingerprint() != original


BEFORE = {
    "strategy": "runner.strategy = 'other'",
    "Django's version": "django.__version__ = '99'",
    "Python's version": "sys.version_info = (3, 99, 1)",
}


@pytest.mark.parametrize("statement", BEFORE.values(), ids=BEFORE.keys())
def test_what_the_process_is_counts(site: Site, original: str, statement: str) -> None:
    assert site.fingerprint(statement) != original


def test_our_own_sources_count(site: Site, original: str, tmp_path: Path) -> None:
    """While the package is being worked on, its version says little."""
    site.package = Path(shutil.copytree(site.package, tmp_path / "package"))
    assert site.fingerprint() == original
    site.add("../package/schema_runner/postgres/schemas.py", "# other")
    assert site.fingerprint() != original


def test_facts_count_in_any_order(site: Site, original: str) -> None:
    """The caller's facts count, though a set has no order."""
    call = 'fingerprint("default", runner_settings=runner, facts={})'
    for facts, is_same in (("['role a', 'server 18']", True), ("['server 19']", False)):
        assert (site.run(f"print({call.format(facts)})") == original) is is_same


LEFT_ALONE = {
    "nothing": written("nothing.txt"),
    "another module": written("library/views.py", "PAGE = 2\n"),
    "PASSWORD": configured('DATABASES["default"]["PASSWORD"] = "other"'),
    "HOST": configured('DATABASES["default"]["HOST"] = "elsewhere"'),
    "PORT": configured('DATABASES["default"]["PORT"] = "6543"'),
    "NAME": configured('DATABASES["default"]["NAME"] = "other"'),
    "CONN_MAX_AGE": configured('DATABASES["default"]["CONN_MAX_AGE"] = 60'),
    "a secret in OPTIONS": configured('DATABASES["default"]["OPTIONS"]["password"] = "x"'),
    "a certificate": configured('DATABASES["default"]["OPTIONS"]["sslcert"] = "/x.pem"'),
    "SECRET_KEY": configured('SECRET_KEY = "other"'),
    "a cache elsewhere": configured(
        'CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}'
    ),
    "compiled files": written("library/migrations/__pycache__/0001_initial.cpython-311.pyc"),
    "another package's version": renamed(
        "../site-packages/useful-3.0.dist-info", "../site-packages/useful-3.1.dist-info"
    ),
}


@pytest.mark.parametrize("change", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_it_is_the_same(site: Site, original: str, change: Callable[[Site], None]) -> None:
    """In another folder, and with what does not decide about a schema's contents."""
    change(site)
    assert site.fingerprint() == original


@pytest.mark.parametrize("seed", ["1", "2"])
def test_it_is_the_same_in_every_process(site: Site, original: str, seed: str) -> None:
    """Sets and objects have no order or address in it; nor does a first use change it."""
    settings = 'SCHEMA_RUNNER["WORKER_SETUP"] = []\nANY_MODEL = {"b", "a", "c"}\n'
    site.add("config/settings.py", settings)
    first = site.fingerprint(PYTHONHASHSEED="0")
    assert site.fingerprint(PYTHONHASHSEED=seed) == first
    use = "from library.models import Book; Book._meta.get_fields(); str(Book._meta.verbose_name)"
    assert site.fingerprint(f"{use}\n{_PRINT}", PYTHONHASHSEED=seed) == f"{first}\n{first}"


def test_it_is_the_same_by_another_path(site: Site, original: str) -> None:
    """A symbolic link to the project leads to the same one."""
    link = site.folder.parent / "linked" / "project"
    link.parent.mkdir()
    link.symlink_to(site.folder)
    shutil.copytree(site.installed, link.parent / "site-packages")
    assert Site(link.parent, site.package).fingerprint() == original


def test_settings_without_a_module(site: Site) -> None:
    """Where settings are configured by hand, the working directory is the project."""
    code = "from schema_runner.fingerprint.project import Project\nprint(Project.find().root)"
    configure = "from django.conf import settings, LazySettings\nsettings.__dict__.clear()\n"
    configure += "settings._wrapped = __import__('django.utils.functional').utils.functional.empty"
    assert site.run(code) == str(site.folder)
    assert site.run(f"{configure}\nsettings.configure()\n{code}") == os.path.realpath(site.folder)


def test_no_migration_is_imported(site: Site) -> None:
    """It would cost as much as finding out that nothing has to be migrated."""
    listed = "print([name for name in sys.modules if '.migrations.0' in name])"
    assert site.run(f"{_PRINT}\n{listed}").endswith("\n[]")
