"""What the recording of a build finds, and which later changes it detects."""

import json
import os
from pathlib import Path

import pytest

from .test_fingerprint import INSTALLED, MIGRATIONS, Change, Site, site

__all__ = ["site"]

_NAMES = ["rates", "deep/__init__", "deep/constants", "late", "seeders", "routers", "facts"]
IMPORTED = [f"library/{name}.py" for name in _NAMES]


def test_imports_are_followed(site: Site) -> None:
    """From migrations, through any modules, even those imported long before."""
    found = site.dependencies()
    assert set(IMPORTED) <= found.keys()
    assert found.keys().isdisjoint({"library/views.py", "config/settings.py"})
    before = "import library.rates, library.late, library.views"
    later = site.run(f"{before}\nprint(json.dumps(Recording(runner).dependencies()))")
    assert json.loads(later).keys() == found.keys()
    assert site.notices(found, dict.fromkeys(IMPORTED, "# other")) == IMPORTED


IMPORTS = {
    "top/inner.py": "from top.inner import value",
    "library/deep/a.py": "from library.deep import a",
    "library/deep/b.py": "import library.deep.b",
    "library/deep/c.py": "import library.deep.c as one",
    "library/deep/d.py": "from ..deep.d import value",
    "library/deep/e.py": 'NAME = "library.deep.e.value"',
}


def test_forms_of_imports(site: Site) -> None:
    """Names in a package, modules, aliases, relative imports and import_string."""
    for path, statement in IMPORTS.items():
        site.write(path, "value = 1\n")
        site.add(f"{MIGRATIONS}/0001_initial.py", f"def again():\n    {statement}")
    found = site.dependencies()
    assert site.notices(found, dict.fromkeys(IMPORTS, "value = 2\n")) == [*IMPORTS]


def test_missing_files_and_modules(site: Site) -> None:
    """A missing module, file or folder that the build looked for counts when it appears."""
    site.add("library/rates.py", "try: import local_rates\nexcept ImportError: pass\n")
    build = "import glob; glob.glob('none/*')\ntry: open('data/more.csv')\nexcept OSError: pass"
    found = site.dependencies(build)
    assert {found[name] for name in ("local_rates.py", "data/more.csv", "none/")} == {
        "FileNotFoundError"
    }
    appearing = ["local_rates.py", "data/more.csv", "none/x"]
    assert site.notices(found, dict.fromkeys(appearing, "")) == appearing


def test_receivers_of_signals(site: Site) -> None:
    """A handler of `post_migrate` creates rows, so its module and what it imports count."""
    site.write("library/handlers.py", "from . import groups\n\ndef make(**kwargs): pass\n")
    site.write("library/groups.py", "NAMES = []\n")
    site.configure('SCHEMA_RUNNER["FIXTURES"] = []')
    connect = "from django.db.models.signals import post_migrate; post_migrate.connect(make)"
    site.add("library/models.py", f"from library.handlers import make\n{connect}")
    found = site.dependencies()
    assert {"library/handlers.py", "library/groups.py"} <= found.keys()
    assert "library/models.py" not in found


CONNECT = """
from django.contrib.auth import get_user_model
from django.db.models.signals import post_migrate
def make(**kwargs): get_user_model().objects.create()
post_migrate.connect(make)
"""
NEEDING_MODELS: list[Change] = [
    ("configure", 'SCHEMA_RUNNER["FIXTURES"] = ["books"]'),
    ("replace", "library/seeders.py", "pass", "apps.get_model('a')"),
    # A signal handler of an installed package.
    ("write", f"{INSTALLED}/installed/models.py", CONNECT),
    ("configure", 'MIGRATION_MODULES = {"library": None}'),
    # Not a package.
    ("rename", f"{MIGRATIONS}/__init__.py", "other.py"),
    ("configure", 'DATABASES["default"]["TEST"] = {"MIGRATE": False}'),
]


@pytest.mark.parametrize("change", NEEDING_MODELS, ids=" ".join)
def test_modules_of_models(site: Site, change: Change) -> None:
    """They count if a build may use the models themselves instead of the historical ones."""
    site.configure('SCHEMA_RUNNER["FIXTURES"] = []')
    site.change(*change)
    assert "library/models.py" in site.dependencies()


def test_settings_that_are_read(site: Site) -> None:
    """Their values count, from any source."""
    site.add("library/rates.py", "from django.conf import settings\nRATE = settings.RATE\n")
    site.add("library/late.py", "from django.conf import settings\ngetattr(settings, 'MORE', 1)\n")
    file = f"{INSTALLED}/installed/migrations/0001_initial.py"
    site.add(file, "from django.conf import settings\nLENGTH = getattr(settings, 'LENGTH', 5)\n")
    found = site.dependencies()
    assert {"setting:RATE", "setting:MORE", "setting:LENGTH"} <= found.keys()
    assert site.is_unchanged(found, seed="1")
    for changed in ("RATE = 8", "RATE = 7; MORE = 8", "del MORE; LENGTH = 9"):
        site.configure(changed)
        assert not site.is_unchanged(found)


OPENED = {
    "open": "open('data/rates.csv').close()",
    "os.open": "os.close(os.open('data/rates.csv', os.O_RDONLY))",
    "bytes": "open(b'data/rates.csv').close()",
    "pathlib": "Path('data/rates.csv').absolute().read_text()",
    "a thread": "import threading; one = threading.Thread(target=open, args=['data/rates.csv']);"
    " one.start(); one.join()",
    "another folder": "os.chdir('data'); open('rates.csv').close(); os.chdir('..')",
}


def test_opened_files(site: Site) -> None:
    """Opened in any way and in any thread; named relative to the project's root."""
    found = site.recordings(OPENED)
    assert [name for name in OPENED if "data/rates.csv" not in found[name]] == []
    for text in ("3,4\n", None):
        assert site.seen(found, {"data/rates.csv": text}) == {"data/rates.csv": [*OPENED]}


LISTED = {
    "os.listdir": "os.listdir('data')",
    "os.scandir": "list(os.scandir('data'))",
    "a descriptor": "one = os.open('data', os.O_RDONLY); os.listdir(one); os.close(one)",
    "glob": "import glob; glob.glob('data/*.csv')",
    "pathlib": "list(Path('data').iterdir())",
    "the working directory": "os.chdir('data'); os.listdir(); os.chdir('..')",
}


def test_listed_folders(site: Site) -> None:
    """The names in them count, except compiled Python files."""
    found = site.recordings(LISTED)
    assert [name for name in LISTED if "data/" not in found[name]] == []
    compiled = "data/__pycache__/a.cpython-311.pyc"
    changes = {compiled: "", "data/rates.csv": "5,6\n", "data/more.csv": ""}
    seen = site.seen(found, changes)
    assert seen == {compiled: [], "data/rates.csv": [], "data/more.csv": [*LISTED]}


def test_modules_imported_meanwhile(site: Site) -> None:
    """Their sources count, compiled or not, and so do the modules that they import."""
    site.write("tools/__init__.py", "")
    site.write("tools/made.py", "from tools import more\n")
    site.write("tools/more.py", "")
    for _ in range(2):
        found = site.dependencies("sys.dont_write_bytecode = False\nimport tools.made")
        assert {"tools/made.py", "tools/more.py"} <= found.keys()
        assert not [name for name in found if name.endswith(".pyc")]
        assert "tools/" not in found, "a new module next to it is no change"
    assert list(site.folder.glob("tools/__pycache__/*.pyc"))


NOT_COUNTED = {
    "written": "open('data/new.csv', 'w').close(); open('data/new.csv').close()",
    "added to": "open('data/rates.csv', 'a').close(); open('data/rates.csv').close()",
    "renamed": "import tempfile; name = tempfile.mktemp(); open(name, 'w').close();"
    " import shutil; shutil.move(name, 'data/moved.csv'); open('data/moved.csv').close()",
    "temporary": "import atexit, tempfile; name = tempfile.mkstemp()[1];"
    " atexit.register(os.unlink, name); open(name).close()",
    "the standard library's": "import antigravity; open(os.__file__).close()",
    "Django's": "open(django.__file__).close()",
    "the system's": "open('/proc/self/stat').close(); open('/dev/null').close()",
    "time zones": "import zoneinfo; zoneinfo.available_timezones()",
    "ours": "import schema_runner; open(schema_runner.__file__).close()",
    "installed within the project": "open('.venv/lib/site-packages/tool.py').close()",
    "descriptors": "r, w = os.pipe(); open(r).close(); os.close(w)",
}


def test_files_that_do_not_count(site: Site) -> None:
    """Files that the build itself wrote, and files outside of the project."""
    site.write(".venv/lib/site-packages/tool.py", "")
    found = site.recordings({"nothing": "pass", **NOT_COUNTED})
    for name in NOT_COUNTED:
        assert (name, found[name].keys()) == (name, found["nothing"].keys())


def test_the_hook_is_inactive_between_recordings(site: Site) -> None:
    """The audit hook is installed once and does nothing between recordings."""
    code = """
        added = []
        sys.addaudithook(lambda event, args: added.append(event == "sys.addaudithook"))
        one, two = Recording(runner), Recording(runner)
        open("data/rates.csv").close()
        with one:
            with two:
                pass
            open("data/other.csv", "w").close()
            open("library/views.py").close()
        open("data/rates.csv").close()
        found = one.dependencies(), two.dependencies()
        print(["library/views.py" in each for each in found],
              any("data/rates.csv" in each for each in found), sum(added))
    """
    assert site.run(code) == "[True, False] False 1"


def test_the_hook_never_raises(site: Site) -> None:
    assert site.dependencies(
        """
        for event in ("open", "os.listdir", "os.scandir", "os.rename"):
            sys.audit(event)
            sys.audit(event, object(), object(), object())
            sys.audit(event, None, None, None)
        """
    )


def test_loading_fixtures(site: Site) -> None:
    """Of new files in the folders that loaddata lists, only those of that fixture count."""
    find = """
        from django.core.management.commands.loaddata import Command
        search = Command()
        search.using, search.app_label, search.verbosity = "default", None, 0
        search.serialization_formats = ["json"]
        search.find_fixtures("books")
    """
    changes = {"unrelated.txt": "", "books.json": "[]"}
    assert site.notices(site.dependencies(find), changes) == ["books.json"]


def test_a_file_changed_during_the_build(site: Site) -> None:
    """It is unknown whether the build read the old or the new content."""
    build = "open('data/rates.csv').close()\nos.utime('data/rates.csv', (4e9, 4e9))"
    assert not site.is_unchanged(site.dependencies(build))


def test_dependencies_are_relocatable(site: Site, tmp_path: Path) -> None:
    found = site.dependencies("open('data/rates.csv').close(); os.listdir('data')")
    assert not [name for name in found if os.path.isabs(name)]
    (tmp_path / "moved").mkdir()
    for folder in (site.folder, site.installed):
        folder.rename(tmp_path / "moved" / folder.name)
    moved = Site(tmp_path / "moved", site.fork_server)
    assert moved.notices(found, {"data/rates.csv": "7\n"}) == ["data/rates.csv"]


def test_files_outside_the_project_have_absolute_names(site: Site, tmp_path: Path) -> None:
    """Files next to the project have absolute names; temporary files do not count."""
    beside = tmp_path / "beside.csv"
    beside.write_text("1")
    opened = f"open({str(beside)!r}).close()"
    elsewhere = f"import tempfile; tempfile.tempdir = {str(tmp_path / 'temporary')!r}\n{opened}"
    found = site.recordings({"temporary": opened, "elsewhere": elsewhere})
    assert [name for name in found if str(beside) in found[name]] == ["elsewhere"]
