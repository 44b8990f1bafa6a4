"""The fingerprint: what changes it, and what leaves it the same on every machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

import schema_runner

from ..fork_server import ForkServer

INSTALLED = "../site-packages"
MIGRATIONS = "library/migrations"
_PACKAGES = [
    "config", "library", "library/deep", MIGRATIONS, "other_migrations",
    f"{INSTALLED}/installed", f"{INSTALLED}/installed/migrations",
]  # fmt: skip
_EMPTY = [*(f"{name}/__init__.py" for name in _PACKAGES), f"{INSTALLED}/useful.py"]
_FILES = {
    **dict.fromkeys(_EMPTY, ""),
    "config/settings.py": """
        from pathlib import Path

        BASE_DIR = Path(__file__).resolve().parent.parent
        SECRET_KEY = "generated"
        INSTALLED_APPS = [
            "django.contrib.contenttypes", "django.contrib.auth", "installed", "library",
        ]
        DATABASES = {"default": {
            "ENGINE": "django.db.backends.postgresql", "HOST": "localhost", "PORT": "5432",
            "NAME": "project", "USER": "owner", "PASSWORD": "secret",
            "OPTIONS": {"sslmode": "prefer", "password": "hidden", "isolation_level": 1},
        }}
        DATABASE_ROUTERS = ["library.routers.Router"]
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        USE_TZ = True
        RATE = 7
        FIXTURE_DIRS = [BASE_DIR / "more"]
        SCHEMA_RUNNER = {
            "FIXTURES": ["books"], "SEEDERS": ["library.seeders.seed"],
            "FINGERPRINT": ["library.facts.answer"],
        }
    """,
    "library/models.py": """
        from functools import partial

        from django.conf import settings
        from django.core.validators import RegexValidator
        from django.db import models
        from django.utils.translation import gettext_lazy as _

        class Shelf(models.Manager):
            use_in_migrations = True
            def __init__(self, size=1): super().__init__(); self.size = size
            def deconstruct(self): return False, "library.models.Shelf", None, (self.size,), {}

        class Mixin: pass

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
    f"{MIGRATIONS}/0001_initial.py": """
        from django.db import migrations, models

        from library import rates

        def fill(apps, schema_editor): from ..late import text
        class Migration(migrations.Migration):
            operations = [
                migrations.CreateModel("Book", [("id", models.BigAutoField(primary_key=True))]),
                migrations.RunPython(fill),
            ]
    """,
    f"{MIGRATIONS}/rows.csv": "1,2\n",
    f"{MIGRATIONS}/inner/__init__.py": "ROWS = 1\n",
    "library/rates.py": "from .deep.constants import RATE\n",
    "library/deep/constants.py": "RATE = 1\n",
    "library/late.py": "text = 'late'\n",
    "library/views.py": "PAGE = 1\n",
    "library/seeders.py": "def seed(using): pass\n",
    "library/routers.py": "class Router: pass\n",
    "library/facts.py": "def answer(): return 1\n",
    "library/fixtures/books.json": "[]\n",
    "data/rates.csv": "1,2\n",
    f"{INSTALLED}/installed/migrations/0001_initial.py": """
        from django.db import migrations
        class Migration(migrations.Migration): pass
    """,
    f"{INSTALLED}/some_app-1.0.dist-info/RECORD": "installed/__init__.py,,\n",
    f"{INSTALLED}/some_app-1.0.dist-info/METADATA": "Name: some-app\nVersion: 1.0\n",
    f"{INSTALLED}/useful-3.0.dist-info/RECORD": "useful.py,,\n",
}
_SETUP = """
import json, os, sys
from pathlib import Path
sys.path[:0] = os.environ["PYTHONPATH"].split(":")
sys.dont_write_bytecode = True
import django
django.setup()
from schema_runner.fingerprint import Recording, combine_parts, is_unchanged, compute_parts
from schema_runner.project import Project
from schema_runner.settings import Settings

runner = Settings.read()

def show(*facts):
    facts = facts or ["server 18", "role a"]
    print(combine_parts(compute_parts("default", runner_settings=runner, facts=facts)))
"""
_RECORD = """
found = {}
for name, build in %r.items():
    with Recording(runner) as recording:
        exec(build, dict(globals()))
    found[name] = recording.dependencies()
print(json.dumps(found))
"""
_CHANGE = """
found, changes, seen = *%r, {}
assert [name for name in found if not is_unchanged(found[name])] == []
for name, text in changes.items():
    file = Path(name)
    before = file.read_text() if file.exists() else None
    if text is None:
        file.unlink()
    else:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    seen[name] = [name for name in found if not is_unchanged(found[name])]
    file.unlink() if before is None else file.write_text(before)
print(json.dumps(seen))
"""


# Files and their new contents, or None for removed files.
Changes = Mapping[str, str | None]


class Site:
    """A small project in `project`, with its packages in `site-packages`."""

    def __init__(self, folder: Path, fork_server: ForkServer) -> None:
        self.fork_server = fork_server
        self.folder = folder / "project"
        self.installed = folder / "site-packages"

    def fill(self) -> "Site":
        for path, text in _FILES.items():
            self.write(path, text)
        return self

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text).lstrip())

    def add(self, path: str, text: str) -> None:
        with (self.folder / path).open("a") as file:
            file.write(f"\n{dedent(text)}\n")

    def configure(self, text: str) -> None:
        self.add("config/settings.py", text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert old in text
        (self.folder / path).write_text(text.replace(old, new))

    def rename(self, path: str, name: str) -> None:
        (self.folder / path).rename((self.folder / path).with_name(name))

    def release(self, name: str) -> None:
        metadata = f"{INSTALLED}/{name.replace('-', '_')}-99.dist-info/METADATA"
        self.write(metadata, f"Name: {name}\nVersion: 99\n")

    def change(self, method: str, *arguments: str) -> None:
        getattr(self, method)(*arguments)

    def run(self, code: str, *, package: Path | None = None, seed: str = "") -> str:
        """Return what statements print in a fork, or in an interpreter with a package or seed."""
        script = self.folder.parent / "run.py"
        script.write_text(f"{_SETUP}\n{dedent(code)}")
        path = [self.folder, self.installed, package or Path(schema_runner.__file__).parents[1]]
        env = {
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "PYTHONPATH": ":".join(map(str, path)),
        }
        if package or seed:
            env["PYTHONHASHSEED"] = seed or "0"
            command = [sys.executable, str(script)]
            return subprocess.check_output(command, cwd=self.folder, env=env, text=True).strip()
        process = self.fork_server.start([str(script)], self.folder, env)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        return stdout.strip()

    def recordings(self, builds: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Record the statements of each build, one after another in one process."""
        found: dict[str, dict[str, str]] = json.loads(self.run(_RECORD % dict(builds)))
        return found

    def dependencies(self, build: str = "pass") -> dict[str, str]:
        return self.recordings({"": dedent(build)})[""]

    def is_unchanged(self, found: dict[str, str], *, seed: str = "") -> bool:
        return self.run(f"print(is_unchanged({found!r}))", seed=seed) == "True"

    def seen(self, found: dict[str, dict[str, str]], changes: Changes) -> dict[str, list[str]]:
        """Map each file, changed or removed alone, to the recordings that detect it."""
        seen: dict[str, list[str]] = json.loads(self.run(_CHANGE % ((found, dict(changes)),)))
        return seen

    def notices(self, found: dict[str, str], changes: Changes) -> list[str]:
        """List the changed files that a recording detects."""
        return [path for path, seen in self.seen({"": found}, changes).items() if seen]


@pytest.fixture
def site(tmp_path: Path, fork_server: ForkServer) -> Site:
    return Site(tmp_path, fork_server).fill()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> str:
    """The fingerprint of the generated project, in a folder of its own."""
    return Site(tmp_path_factory.mktemp("original"), fork_server).fill().run("show()")


CONNECT = """
from django.db.models.signals import post_migrate
def make(**kwargs): pass
post_migrate.connect(make)
"""
# A method of Site, and its arguments.
Change = tuple[str, ...]
FILES: list[Change] = [
    ("add", f"{MIGRATIONS}/0001_initial.py", "# other"),
    ("rename", f"{MIGRATIONS}/0001_initial.py", "0001_first.py"),
    ("write", f"{MIGRATIONS}/0002_more.py", ""),
    ("write", f"{MIGRATIONS}/0002_more.pyc", ""),
    ("write", f"{MIGRATIONS}/rows.csv", "3,4\n"),
    ("write", f"{MIGRATIONS}/inner/__init__.py", "ROWS = 2\n"),
    ("add", f"{INSTALLED}/installed/migrations/0001_initial.py", "# other"),
    ("add", "library/models.py", "class A(Book):\n    class Meta:\n        proxy = True"),
    ("add", "library/models.py", CONNECT),
    ("add", "library/routers.py", "# other"),
    ("add", "library/seeders.py", "# other"),
    ("replace", "library/facts.py", "1", "2"),
    ("write", "library/fixtures/books.json", "[ ]\n"),
    # A file of the same name as the one above, in an otherwise empty folder.
    ("write", "more/books.json", "[]\n"),
    ("rename", f"{INSTALLED}/useful-3.0.dist-info", "useful-3.1.dist-info"),
    (
        "write",
        f"{INSTALLED}/useful-3.0.dist-info/direct_url.json",
        '{"url": "", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
    ),
    ("release", "psycopg"),
    ("release", "django-schema-runner"),
]
IN_ROWS = """
_("book") -> _("novel") | Can lend -> May lend
permissions -> default_permissions = (); permissions
"""
IN_TABLES = """
max_length=100 -> max_length=101 | pages = models.Int -> leaves = None; pages_ = models.Int
models.IntegerField( -> models.BigIntegerField( | null=True -> null=True, db_index=False
default=partial -> db_default=7, default=partial | "by_pages" -> "by_page"
fields=["pages"] -> fields=["kind"] | pages__gt=0 -> pages__gt=1
permissions -> db_table = "other"; permissions | permissions -> managed = False; permissions
title = -> authors = models.ManyToManyField("auth.User"); title =
"""
IN_SETTINGS = """
MIGRATION_MODULES = {"library": "other_migrations"} | MIGRATION_MODULES = {"library": None}
INSTALLED_APPS += ["django.contrib.sessions"] | INSTALLED_APPS.reverse()
DATABASES["default"]["ENGINE"] = "django.db.backends.sqlite3"
DATABASES["default"]["USER"] = "other" | DATABASES["default"]["TIME_ZONE"] = "Asia/Tokyo"
DATABASES["default"]["OPTIONS"]["isolation_level"] = 2
DATABASES["default"]["TEST"] = {"MIGRATE": False} | DATABASES["other"] = DATABASES["default"]
DATABASE_ROUTERS = [] | from library.routers import Router; DATABASE_ROUTERS = [Router()]
LIBRARY_CARD_MODEL = "library.Card" | DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False | TIME_ZONE = "Asia/Tokyo" | LANGUAGE_CODE = "nl" | LANGUAGES = [("nl", "Dutch")]
PASSWORD_HASHERS = [] | FIXTURE_DIRS = [BASE_DIR / "more", BASE_DIR / "most"] | USE_I18N = False
SITE_ID = 3 | DEFAULT_TABLESPACE = "fast" | DEFAULT_INDEX_TABLESPACE = "fast"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache"}}
SCHEMA_RUNNER["FIXTURES"] = [] | SCHEMA_RUNNER["SEEDERS"] = []
SCHEMA_RUNNER["HOST_DATABASE"] = "current" | SCHEMA_RUNNER["ISOLATION"] = "database"
SCHEMA_RUNNER["STRATEGY"] = "migrate"
"""


def listed(table: str) -> list[str]:
    return [one for line in table.strip().splitlines() for one in line.split(" | ")]


CHANGES = [
    *FILES,
    *[("replace", "library/models.py", *one.split(" -> ")) for one in listed(IN_ROWS)],
    *[("configure", one) for one in listed(IN_SETTINGS)],
]


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_a_change_changes_it(site: Site, original: str, change: Change) -> None:
    """Everything that determines the contents of a ready schema changes the fingerprint."""
    site.change(*change)
    assert site.run("show()") != original


SPECIAL_MODEL = """
    from django.contrib.postgres.constraints import ExclusionConstraint
    from django.contrib.postgres.fields import ArrayField, DateRangeField, RangeOperators
    from django.contrib.postgres.indexes import GinIndex
    from django.contrib.postgres.search import SearchVectorField
    from django.db.models.functions import Lower, Now

    class Loan(models.Model):
        tags = ArrayField(models.CharField(max_length=9), db_comment="labels")
        days = DateRangeField(null=True)
        words = SearchVectorField()
        name = models.TextField(db_default="none", db_collation="C")
        made = models.DateTimeField(db_default=Now())
        lower = models.GeneratedField(
            expression=Lower("name"), output_field=models.TextField(), db_persist=True
        )
        class Meta:
            db_table_comment = "loans"
            indexes = [
                GinIndex(fields=["tags"], name="by_tags", fastupdate=False),
                models.Index(Lower("name").desc(), name="by_lower", include=["days"],
                             condition=models.Q(name__gt="a%")),
            ]
            constraints = [
                ExclusionConstraint(name="no_overlap", deferrable=models.Deferrable.DEFERRED,
                                    expressions=[("days", RangeOperators.OVERLAPS)]),
                models.UniqueConstraint(fields=["name"], name="one", nulls_distinct=False),
                models.CheckConstraint(condition=models.Q(tags__contains=["b"]), name="has_b"),
            ]
"""
IN_SPECIAL_MODEL = """
max_length=9 -> max_length=8 | "labels" -> "tags" | "none" -> "no" | "C" -> "POSIX"
db_default=Now() -> db_default=Lower(models.Value("a")) | expression=Lower -> expression=models.F
"loans" -> "loan" | fastupdate=False -> fastupdate=True | .desc() -> .asc() | a% -> b%
include=["days"] -> include=["made"] | OVERLAPS -> EQUAL | nulls_distinct=False -> deferrable=None
["b"] -> ["c"] | Deferrable.DEFERRED -> Deferrable.IMMEDIATE
"""
NEEDING_A_CONNECTION = """
    class Field(models.Field):
        def db_type(self, connection): return connection.cursor().name

    class Odd(models.Model):
        field = Field()
"""
WITHOUT_MIGRATIONS = [
    'MIGRATION_MODULES = {"library": None}',
    'DATABASES["default"]["TEST"] = {"MIGRATE": False}',
]


@pytest.mark.parametrize("setting", WITHOUT_MIGRATIONS)
def test_tables_without_migrations(site: Site, setting: str) -> None:
    """Without migrations, the tables that Django creates from models count."""
    original = site.run("show()")
    site.configure(setting)
    found = changes_in_models(site, IN_TABLES)
    assert original not in found


def test_sql_without_a_connection(site: Site) -> None:
    """Tables with PostgreSQL's own types, and with expressions whose values are quoted."""
    site.configure('MIGRATION_MODULES = {"library": None}')
    site.add("library/models.py", SPECIAL_MODEL)
    changes_in_models(site, IN_SPECIAL_MODEL)
    site.add("library/models.py", NEEDING_A_CONNECTION)
    assert site.run("show()")


def changes_in_models(site: Site, table: str) -> set[str]:
    """Check that each change, alone, changes the fingerprint; return the fingerprints."""
    models = site.folder / "library/models.py"
    text = models.read_text()
    found = {site.run("show()")}
    for number, one in enumerate(listed(table), start=2):
        site.replace("library/models.py", *one.split(" -> "))
        found.add(site.run("show()"))
        assert len(found) == number, one
        models.write_text(text)
    return found


NAMED: dict[Change, list[str]] = {
    ("add", f"{MIGRATIONS}/0001_initial.py", "# other"): ["migrations of library"],
    ("replace", "library/models.py", "Can lend", "May lend"): ["models of library"],
    ("rename", f"{INSTALLED}/some_app-1.0.dist-info", "some_app-1.1.dist-info"): [
        "installed packages"
    ],
    ("configure", "SITE_ID = 3"): ["SITE_ID"],
    ("configure", 'DATABASES["default"]["USER"] = "other"'): ["DATABASES"],
    ("configure", 'DATABASES["default"]["TEST"] = {"MIGRATE": False}'): [
        'TEST["MIGRATE"] (--no-migrations)',
        "models of auth",
        "models of contenttypes",
        "models of library",
    ],
    ("configure", 'SCHEMA_RUNNER["SEEDERS"] = []'): ["SEEDERS"],
    ("configure", 'INSTALLED_APPS += ["django.contrib.sessions"]'): [
        "INSTALLED_APPS",
        "migrations of sessions",
        "models of sessions",
    ],
}


def test_changes_are_named(site: Site) -> None:
    """The changed part is named by its app, or by the project's name for it."""
    code = """
        facts = ["server 18", "extension a 1"]
        print(json.dumps(compute_parts("default", runner_settings=runner, facts=facts)))
    """
    before = json.loads(site.run(code))
    assert {"version of PostgreSQL", "extensions of the server"} <= set(before)
    for change, names in NAMED.items():
        site.change(*change)
        after = json.loads(site.run(code))
        assert sorted({name for name, _ in before.items() ^ after.items()}) == names
        before = after


def test_the_process_and_the_server_count(site: Site, original: str) -> None:
    """The process and the server count; the order of the server's properties does not."""
    code = """
        show("role a", "server 18")
        show("server 19")
        django.__version__, version = "99", django.__version__
        show()
        django.__version__, sys.version_info = version, (3, 99, 1)
        show()
    """
    same, server, django, python = site.run(code).split()
    assert same == original
    assert original not in {server, django, python}


def test_our_own_sources_count(site: Site, tmp_path: Path) -> None:
    """The package's own sources count, because its version stays the same in development."""
    source, ignored = Path(schema_runner.__file__).parent, shutil.ignore_patterns("__pycache__")
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(source, copy / "schema_runner", ignore=ignored)
    before = site.run("show()", package=copy)
    copy.rename(moved)
    assert site.run("show()", package=moved) == before
    for module in ("postgres/schemas", "postgres/reset/rewrite", "fixtures", "flush/hooks"):
        site.add(str(moved / f"schema_runner/{module}.py"), "# other")
        changed = site.run("show()", package=moved)
        assert changed != before
        before = changed


IRRELEVANT = """
DATABASES["default"] |= {"NAME": "other", "HOST": "elsewhere", "PORT": "6543"}
DATABASES["default"] |= {"PASSWORD": "other", "CONN_MAX_AGE": 60}
DATABASES["default"]["OPTIONS"] |= {"password": "x", "sslcert": "/x.pem"}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
SECRET_KEY, SCHEMA_RUNNER["WORKER_SETUP"] = "other", []
"""


def test_changes_that_do_not_affect_contents(site: Site, original: str) -> None:
    site.configure(IRRELEVANT)
    site.write("nothing.txt", "")
    site.write("library/views.py", "PAGE = 2\n")
    site.write(f"{MIGRATIONS}/__pycache__/0001_initial.cpython-311.pyc", "")
    site.replace("library/models.py", "max_length=100", "max_length=101")
    site.replace("library/models.py", 'RegexValidator("a")', 'RegexValidator("b")')
    assert site.run("show()") == original


def test_a_salt(site: Site, original: str) -> None:
    """A salt gives a session fingerprints of its own."""
    code = """
        parts = compute_parts("default", runner_settings=runner, facts=["server 18", "role a"])
        print(*[combine_parts(parts, salt=salt) for salt in ("", "a", "a", "b")])
    """
    unsalted, one, same, other = site.run(code).split()
    assert unsalted == original
    assert one == same
    assert len({unsalted, one, other}) == 3


def test_it_is_the_same_in_every_process(site: Site) -> None:
    """The order of sets, addresses of objects and the first use of an object do not count."""
    site.configure('ANY_MODEL = {"b", "a", "c"}\n')
    code = """
        show()
        from library.models import Book
        Book._meta.get_fields(), str(Book._meta.verbose_name)
        show()
    """
    found = [site.run(code, seed=seed).split() for seed in "012"]
    assert [len(shown) for shown in found] == [2, 2, 2]
    assert len({one for shown in found for one in shown}) == 1


def test_it_is_the_same_by_another_path(site: Site, original: str) -> None:
    """A symbolic link to the project gives the same fingerprint."""
    link = site.folder.parent / "linked" / "project"
    link.parent.mkdir()
    link.symlink_to(site.folder)
    shutil.copytree(site.installed, link.parent / "site-packages")
    assert Site(link.parent, site.fork_server).run("show()") == original


def test_settings_without_a_module(site: Site) -> None:
    """With settings.configure(), the working directory is the project."""
    code = """
        print(Project.find().root)
        from django.conf import settings
        from django.utils.functional import empty
        settings.__dict__.clear()
        settings._wrapped = empty
        settings.configure()
        print(Project.find().root)
    """
    assert site.run(code).split() == [str(site.folder), os.path.realpath(site.folder)]


def test_no_migration_is_imported(site: Site) -> None:
    """Importing migrations would take as long as finding out that none has to be applied."""
    code = "show()\nprint([name for name in sys.modules if '.migrations.0' in name])"
    assert site.run(code).endswith("\n[]")
