"""What a recording of a build finds, and whether a change of it is seen."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .test_fingerprint import Site, package, replaced, site, written

__all__ = ["package", "site"]


@pytest.fixture
def rates(site: Site) -> Site:
    """A project whose first migration imports much: see `library.rates`."""
    site.write("data/rates.csv", "1,2\n")
    return site


IMPORTED = [
    "library/rates.py",
    "library/deep/__init__.py",
    "library/deep/constants.py",
    "library/late.py",
    "library/seeders.py",
    "library/routers.py",
    "library/facts.py",
]


def test_imports_are_followed(site: Site) -> None:
    """From migrations through any modules, absolute, relative and within functions.

    They may have been imported long before; and views, which nothing imports, do not count.
    """
    found = site.dependencies("pass")
    assert set(IMPORTED) <= found.keys()
    assert "library/views.py" not in found
    before = "import library.rates, library.late, library.views"
    assert site.run(f"{before}\nprint(sorted(Recording(runner).dependencies()))") == str(
        sorted(found)
    )
    assert "config/settings.py" not in found
    assert site.is_unchanged(found)


@pytest.mark.parametrize("path", IMPORTED)
def test_a_changed_import_is_seen(site: Site, path: str) -> None:
    found = site.dependencies("pass")
    site.add(path, "# other")
    assert not site.is_unchanged(found)


ADDED = {
    "a name in a package": ("from library.deep import other", "library/deep/other.py"),
    "a module of a module": ("import library.deep.other", "library/deep/other.py"),
    "another top package": ("from top.inner import value", "top/inner.py"),
    "an alias": ("import library.deep.other as one", "library/deep/other.py"),
    "a relative one": ("from ..deep.other import value", "library/deep/other.py"),
    "import_string": ('NAME = "library.deep.other.value"', "library/deep/other.py"),
}


@pytest.mark.parametrize(("statement", "path"), ADDED.values(), ids=ADDED.keys())
def test_each_way_to_import(site: Site, statement: str, path: str) -> None:
    site.write(path, "value = 1\n")
    site.add("library/migrations/0001_initial.py", f"def again():\n    {statement}")
    found = site.dependencies("pass")
    site.write(path, "value = 2\n")
    assert path in found
    assert not site.is_unchanged(found)


def test_an_import_that_finds_nothing(site: Site) -> None:
    """When it finds something later, that is a change."""
    text = "try:\n    import local_rates\nexcept ImportError:\n    pass\n"
    site.add("library/rates.py", text)
    found = site.dependencies("pass")
    assert found["local_rates.py"] == "absent"
    assert site.is_unchanged(found)
    site.write("local_rates.py", "")
    assert not site.is_unchanged(found)


def test_receivers_of_signals(site: Site) -> None:
    """A handler of `post_migrate` makes rows, and so does what it imports."""
    site.write("library/handlers.py", "from . import groups\n\ndef make(**kwargs):\n    pass\n")
    site.write("library/groups.py", "NAMES = []\n")
    site.add("config/settings.py", 'SCHEMA_RUNNER["FIXTURES"] = []')
    site.add(
        "library/models.py",
        "from django.db.models.signals import post_migrate\n"
        "from library.handlers import make\npost_migrate.connect(make)",
    )
    found = site.dependencies("pass")
    assert {"library/handlers.py", "library/groups.py"} <= found.keys()
    assert "library/models.py" not in found


NEEDING_MODELS = {
    "fixtures": written("library/fixtures/books.json", "[]"),
    "a seeder that gets them": replaced("library/seeders.py", "pass", "apps.get_model('a')"),
    "no migrations": lambda site: site.add(
        "config/settings.py", 'MIGRATION_MODULES = {"library": None}'
    ),
    "migrations that are no package": lambda site: (
        site.folder / "library/migrations/__init__.py"
    ).unlink(),
    "TEST MIGRATE": lambda site: site.add(
        "config/settings.py", 'DATABASES["default"]["TEST"] = {"MIGRATE": False}'
    ),
}


@pytest.mark.parametrize("change", NEEDING_MODELS.values(), ids=NEEDING_MODELS.keys())
def test_modules_of_models(site: Site, change: Callable[[Site], None]) -> None:
    """They count where a build may use the models themselves, not the historical ones."""
    if change is not NEEDING_MODELS["fixtures"]:
        site.add("config/settings.py", 'SCHEMA_RUNNER["FIXTURES"] = []')
        assert "library/models.py" not in site.dependencies("pass")
    change(site)
    assert "library/models.py" in site.dependencies("pass")


def test_settings_that_are_read(site: Site) -> None:
    """Their values count, wherever they come from."""
    site.add("library/rates.py", "from django.conf import settings\nRATE = settings.RATE\n")
    site.add("library/late.py", "from django.conf import settings\ngetattr(settings, 'MORE', 1)\n")
    found = site.dependencies("pass")
    assert site.is_unchanged(found)
    for name in ("RATE", "MORE"):
        assert f"setting:{name}" in found
        site.add("config/settings.py", f"{name} = 8")
        assert not site.is_unchanged(found)
        site.replace("config/settings.py", f"\n{name} = 8\n", "")


def test_installed_packages_that_are_imported(site: Site) -> None:
    """It is their version that counts."""
    site.add("library/rates.py", "import useful")
    found = site.dependencies("import useful; open(useful.__file__).close()")
    assert [name for name in found if "useful" in name] == ["package:useful"]
    old, new = (site.installed / f"useful-{version}.dist-info" for version in ("3.0", "3.1"))
    old.rename(new)
    assert not site.is_unchanged(found)


OPENED = {
    "open": "open('data/rates.csv').close()",
    "os.open": "os.close(os.open('data/rates.csv', os.O_RDONLY))",
    "bytes": "open(b'data/rates.csv').close()",
    "pathlib": "import pathlib; pathlib.Path('data/rates.csv').absolute().read_text()",
    "a thread": "import threading; one = threading.Thread(target=open, args=['data/rates.csv']);"
    " one.start(); one.join()",
    "another folder": "os.chdir('data'); open('rates.csv').close(); os.chdir('..')",
}


@pytest.mark.parametrize("statement", OPENED.values(), ids=OPENED.keys())
def test_opened_files(rates: Site, statement: str) -> None:
    """However, and in whichever thread; with their names from the project's root."""
    found = rates.dependencies(statement)
    assert "data/rates.csv" in found
    assert rates.is_unchanged(found)
    rates.write("data/rates.csv", "3,4\n")
    assert not rates.is_unchanged(found)


def test_a_file_that_is_gone(rates: Site) -> None:
    found = rates.dependencies("open('data/rates.csv').close()")
    (rates.folder / "data/rates.csv").unlink()
    assert not rates.is_unchanged(found)


def test_a_file_that_was_not_there(rates: Site) -> None:
    """It was looked for, so it counts when it appears."""
    build = "try:\n    open('data/more.csv')\nexcept OSError:\n    pass"
    found = rates.dependencies(build)
    assert found["data/more.csv"] == "absent"
    assert rates.is_unchanged(found)
    rates.write("data/more.csv", "")
    assert not rates.is_unchanged(found)


def test_modules_imported_meanwhile(rates: Site) -> None:
    """They count by their sources, compiled or not; what they import counts as well."""
    rates.write("tools/__init__.py", "")
    rates.write("tools/made.py", "from tools import more\n")
    rates.write("tools/more.py", "")
    for _ in range(2):
        code = "import sys; sys.dont_write_bytecode = False\nimport tools.made"
        found = rates.dependencies(code)
        assert {"tools/made.py", "tools/more.py"} <= found.keys()
        assert not [name for name in found if name.endswith(".pyc")]
        assert "tools/" not in found, "a new module beside it is no change"
    assert list(rates.folder.glob("tools/__pycache__/*.pyc"))


NOT_COUNTED = {
    "written": "open('data/new.csv', 'w').close(); open('data/new.csv').close()",
    "added to": "open('data/rates.csv', 'a').close(); open('data/rates.csv').close()",
    "renamed": "import tempfile; name = tempfile.mktemp(); open(name, 'w').close();"
    " import shutil; shutil.move(name, 'data/new.csv'); open('data/new.csv').close()",
    "temporary": "import atexit, tempfile; name = tempfile.mkstemp()[1];"
    " atexit.register(os.unlink, name); open(name).close()",
    "the standard library's": "import quopri; open(os.__file__).close()",
    "Django's": "open(django.__file__).close()",
    "the system's": "open('/proc/self/stat').close(); open('/dev/null').close()",
    "time zones": "import zoneinfo; zoneinfo.available_timezones()",
    "ours": "import schema_runner; open(schema_runner.__file__).close()",
    "descriptors": "r, w = os.pipe(); open(r).close(); os.close(w)",
}


@pytest.mark.parametrize("statement", NOT_COUNTED.values(), ids=NOT_COUNTED.keys())
def test_what_does_not_count(rates: Site, statement: str) -> None:
    """What the build has written itself, and what is not the project's."""
    assert rates.dependencies(statement).keys() == rates.dependencies("pass").keys()


def test_nothing_counts_before_or_after(rates: Site) -> None:
    """The hook, which stays, is quiet; each recording has its own."""
    code = """
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
              any("data/rates.csv" in each for each in found))
    """
    assert rates.run(code) == "[True, False] False"


def test_the_hook_is_added_once(rates: Site) -> None:
    code = """
        added = []
        sys.addaudithook(lambda event, args: added.append(event == "sys.addaudithook"))
        for _ in range(3):
            with Recording(runner):
                pass
        print(sum(added))
    """
    assert rates.run(code) == "1"


def test_the_hook_never_raises(rates: Site) -> None:
    """What an event may bring is anybody's."""
    code = """
        with Recording(runner) as recording:
            for event in ("open", "os.listdir", "os.scandir", "os.rename"):
                sys.audit(event)
                sys.audit(event, object(), object(), object())
                sys.audit(event, None, None, None)
        print(recording.dependencies() != {})
    """
    assert rates.run(code) == "True"


LISTED = {
    "os.listdir": "os.listdir('data')",
    "os.scandir": "list(os.scandir('data'))",
    "glob": "import glob; glob.glob('data/*.csv')",
    "pathlib": "import pathlib; list(pathlib.Path('data').iterdir())",
    "the working directory": "os.chdir('data'); os.listdir(); os.chdir('..')",
}


@pytest.mark.parametrize("statement", LISTED.values(), ids=LISTED.keys())
def test_listed_folders(rates: Site, statement: str) -> None:
    """The names in them count, and not what Python compiles."""
    found = rates.dependencies(statement)
    assert "data/" in found
    rates.write("data/__pycache__/a.cpython-311.pyc", "")
    rates.write("data/rates.csv", "5,6\n")
    assert rates.is_unchanged(found)
    rates.write("data/more.csv", "")
    assert not rates.is_unchanged(found)


def test_a_folder_that_was_not_there(rates: Site) -> None:
    found = rates.dependencies("import glob; glob.glob('none/*')")
    assert rates.is_unchanged(found)
    assert found["none/"] == "absent"
    rates.write("none/x", "")
    assert not rates.is_unchanged(found)


def test_loading_fixtures(rates: Site) -> None:
    """loaddata lists the working directory, where any file may appear, for names it seeks."""
    find = """
        from django.core.management.commands.loaddata import Command
        search = Command()
        search.using, search.app_label, search.verbosity = "default", None, 0
        search.serialization_formats = ["json"]
        search.find_fixtures("books")
    """
    found = rates.dependencies(find)
    rates.write("unrelated.txt", "")
    assert rates.is_unchanged(found)
    rates.write("books.json", "[]")
    assert not rates.is_unchanged(found)


def test_a_file_changed_during_the_build(rates: Site) -> None:
    """Nobody knows which content the build has read."""
    build = "open('data/rates.csv').close()\nos.utime('data/rates.csv', (4e9, 4e9))"
    assert not rates.is_unchanged(rates.dependencies(build))


def test_dependencies_are_found_in_another_folder(rates: Site, tmp_path: Path) -> None:
    """Such as where a cache is restored to."""
    found = rates.dependencies("open('data/rates.csv').close(); os.listdir('data')")
    assert not [name for name in found if os.path.isabs(name)]
    (tmp_path / "moved").mkdir()
    for folder in (rates.folder, rates.installed):
        folder.rename(tmp_path / "moved" / folder.name)
    moved = Site(tmp_path / "moved", rates.package)
    assert moved.is_unchanged(found)
    written("data/rates.csv", "7\n")(moved)
    assert not moved.is_unchanged(found)


def test_files_elsewhere_have_their_whole_names(rates: Site, tmp_path: Path) -> None:
    """Such as what lies beside the project, where that is not the temporary folder."""
    (tmp_path / "beside.csv").write_text("1")
    opened = f"open({str(tmp_path / 'beside.csv')!r}).close()"
    elsewhere = f"import tempfile; tempfile.tempdir = {str(tmp_path / 'temporary')!r}\n{opened}"
    assert str(tmp_path / "beside.csv") in rates.dependencies(elsewhere)
    assert str(tmp_path / "beside.csv") not in rates.dependencies(opened)


def test_installed_files_within_the_project(rates: Site) -> None:
    """A virtual environment often lies in the project's folder."""
    rates.write(".venv/lib/site-packages/tool.py", "")
    found = rates.dependencies("open('.venv/lib/site-packages/tool.py').close()")
    assert not [name for name in found if "tool" in name]
