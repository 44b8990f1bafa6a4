"""Where workers are: each makes its place as it starts, and drops it as it ends."""

import json
from typing import Any

import pytest

from ..project import MEETING, Project
from .test_aliases import DATABASES, ROUTER, SHOP, SHOP_MIGRATION

METHODS = ["fork", "spawn"]
TWO, THREE = ("--parallel", "2"), ("--parallel", "3")

# A migration that writes down who builds, and a runner that writes down which schemas are left
# when the workers have ended.
BUILDING = """
    import json
    import time
    from pathlib import Path

    import schema_runner


    def write(path, **values):
        with open(path, "a") as lines:
            lines.write(json.dumps(values) + "\\n")


    def build(apps, editor):
        worker = schema_runner.current_worker()
        write("built", number=worker and worker.number, alias=editor.connection.alias)
        deadline = time.monotonic() + 60
        while worker and Path("waits").exists() and not Path("begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


    class Runner(schema_runner.SchemaDiscoverRunner):
        def teardown_databases(self, old_config, **kwargs):
            from django.db import connection

            with connection.cursor() as cursor:
                cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_w'")
                write("left", names=[name for (name,) in cursor.fetchall()])
            super().teardown_databases(old_config, **kwargs)
"""
# Tests that write down where they are.
PLACES = """
        from building import write


        def places(*aliases):
            worker, found = schema_runner.current_worker(), {}
            for alias in aliases:
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT current_schema(), current_database()")
                    found[alias] = cursor.fetchone()
            write("places", number=worker.number, schema=worker.schema, schemas=worker.schemas,
                  process=os.getpid(), places=found)


"""
MEETING_OF_THREE = """
        class First(Meeting, TestCase):
            def test_it(self):
                Path("begun").touch()
                places("default")
                self.meet(3)
                self.assertEqual(Author.objects.count(), 0)
                Author.objects.create(name="same everywhere")


        class Second(First):
            pass


        class Third(First):
            pass
"""
QUICK = """
        class First(TransactionTestCase):
            def test_it(self):
                places("default")


        class Second(First):
            pass
"""


@pytest.fixture
def building(project: Project) -> Project:
    """A project whose workers run its migrations, of which the last is the one above."""
    project.write("building.py", BUILDING)
    project.configure('TEST_RUNNER = "building.Runner"')
    project.configure('SCHEMA_RUNNER = {"STRATEGY": "migrate"}')
    project.migration(
        "0002_building", "0001_initial", 'migrations.RunPython(__import__("building").build)'
    )
    return project


def read(project: Project, name: str) -> list[dict[str, Any]]:
    path = project.folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_makes_its_schema_as_it_starts(building: Project, method: str) -> None:
    """Side by side: the first one tests while the others, whose builds wait for it, migrate."""
    (building.folder / "waits").touch()
    building.tests(MEETING + PLACES + MEETING_OF_THREE)
    result = building.run(*THREE, env={"START_METHOD": method}).passed()
    assert "Ran 3 tests" in result.stderr
    found = {line["number"]: line for line in read(building, "places")}
    assert set(found) == {1, 2, 3}
    for number, line in found.items():
        assert line["schema"].startswith(f"test_w{number}_")
        assert line["schemas"] == {"default": line["schema"]}
        assert line["places"] == {"default": [line["schema"], building.test_name]}
    assert len({line["process"] for line in found.values()}) == 3
    built = [line["number"] for line in read(building, "built")]
    assert built[0] is None
    assert sorted(built[1:]) == [2, 3]
    # Worker 1 has the schema of the run's own build.
    assert read(building, "left") == [{"names": [found[1]["schema"]]}]
    assert building.databases() == []


@pytest.mark.parametrize("method", METHODS)
def test_keepdb_keeps_what_workers_have_made(building: Project, method: str) -> None:
    """All schemas are marked as kept and named, whichever process has made them."""
    building.tests(MEETING + PLACES + MEETING_OF_THREE)
    result = building.run(*THREE, "--keepdb", env={"START_METHOD": method}).passed()
    used = {line["schema"] for line in read(building, "places")}
    kept = {name: mark for name, mark in building.schemas().items() if name.startswith("test_w")}
    assert set(kept) == used
    for name, mark in kept.items():
        assert mark is not None
        assert mark.state == "kept"
        assert f"Kept schema {name} in database '{building.test_name}'." in result.stderr
    building.run().passed()
    assert building.databases() == []


def test_a_worker_that_is_not_needed_does_not_hold_up_the_end(building: Project) -> None:
    """It is ended in the middle of its build, of which nothing stays."""
    (building.folder / "waits").touch()
    building.tests(MEETING + PLACES + QUICK)
    result = building.run(*TWO).passed()
    assert "Ran 2 tests" in result.stderr
    assert {line["number"] for line in read(building, "places")} == {1}
    (left,) = read(building, "left")
    assert {name.split("_")[1] for name in left["names"]} <= {"w1", "w2"}
    assert building.databases() == []


def test_keepdb_waits_for_every_worker(building: Project) -> None:
    """The next run is to find as many schemas as it has workers."""
    (building.folder / "waits").touch()
    building.tests(
        MEETING
        + PLACES
        + QUICK.replace('places("default")', 'places("default"); Path("begun").touch()')
    )
    building.run(*TWO, "--keepdb").passed()
    kept = {name: mark for name, mark in building.schemas().items() if name.startswith("test_w")}
    assert sorted(name.split("_")[1] for name in kept) == ["w1", "w2"]
    assert all(mark is not None and mark.state == "kept" for mark in kept.values())
    building.run().passed()
    assert building.databases() == []


# The alias `default` needs what `other` has.
NEEDING = """
    import schema_runner
    from building import write


    def need(apps, editor):
        from shop.models import Item

        if editor.connection.alias == "default":
            worker = schema_runner.current_worker()
            assert Item.objects.using("other").get().name == "migrated"
            write("needed", number=worker and worker.number)
"""
SEVERAL = """
        from shop.models import Item

        ALIASES = ("default", "again", "other", "mirror", "third")


        class First(Meeting, TransactionTestCase):
            databases = {*ALIASES, "small"}

            def test_it(self):
                places(*ALIASES)
                self.meet()
                for alias in ("default", "third", "small"):
                    self.assertEqual(Author.objects.using(alias).count(), 0)
                    Author.objects.using(alias).create(name=alias)
                Item.objects.create(name="bought")
                self.assertEqual(Author.objects.using("again").get().name, "default")
                self.assertTrue(Item.objects.using("mirror").filter(name="bought").exists())
                self.assertEqual(Author.objects.using("small").get().name, "small")


        class Second(First):
            pass
"""


@pytest.mark.parametrize("method", METHODS)
def test_workers_make_a_place_for_each_database(building: Project, method: str) -> None:
    """In the order of DEPENDENCIES; a mirror and a second alias follow the first."""
    building.configure(DATABASES)
    building.write("routers.py", ROUTER)
    building.write("shop/__init__.py", "")
    building.write("shop/models.py", SHOP)
    building.write("shop/migrations/__init__.py", "")
    building.write("shop/migrations/0001_initial.py", SHOP_MIGRATION)
    building.write("needing.py", NEEDING)
    building.migration(
        "0003_needing", "0002_building", 'migrations.RunPython(__import__("needing").need)'
    )
    building.tests(MEETING + PLACES + SEVERAL)
    building.run(*TWO, env={"START_METHOD": method}).passed()
    assert [line["number"] for line in read(building, "needed")] == [1, 2]
    found = {line["number"]: line["places"] for line in read(building, "places")}
    assert set(found) == {1, 2}
    for number, places in found.items():
        assert places["again"] == places["default"]
        assert places["mirror"] == places["other"]
        assert all(schema.startswith(f"test_w{number}_") for schema, _ in places.values())
        databases = [places[alias][1] for alias in ("default", "other", "third")]
        suffixes = ("", "_other", "_third")
        assert databases == [f"{building.test_name}{suffix}" for suffix in suffixes]
    assert not {str(place) for place in found[1].values()} & {
        str(place) for place in found[2].values()
    }
    assert building.databases() == []


KILLING = """
        class Killing(TransactionTestCase):
            databases = {"default", "small"}

            def test_a(self):
                self.assert_fresh()
                places("default")

            def test_b_dies(self):
                self.assert_fresh()
                os._exit(3)

            def test_c(self):
                self.assert_fresh()
                places("default")
                Path("done").touch()

            def assert_fresh(self):
                for alias in ("default", "small"):
                    self.assertEqual(Author.objects.using(alias).count(), 0)
                    Author.objects.using(alias).create(name="left")
                    tables = connections[alias].introspection.table_names()
                    self.assertNotIn("left_behind", tables)
                if "dies" in self.id():
                    with connection.cursor() as cursor:
                        cursor.execute("CREATE TABLE left_behind (n int)")


        class Beside(TransactionTestCase):
            databases = {"default", "small"}

            def test_d_keeps_the_other_worker_busy(self):
                deadline = time.monotonic() + 60
                while not Path("done").exists():
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.01)
"""
EXTRA = 'migrations.RunSQL("CREATE SCHEMA extra")'


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["schemas", "clones", "isolation"])
def test_what_follows_a_worker_that_was_killed_is_fresh(
    building: Project, how: str, method: str
) -> None:
    """In a schema, or in a clone where there are clones; so is the SQLite database beside it."""
    building.configure(
        """
        DATABASES["small"] = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "small.sqlite3",
            "TEST": {"MIGRATE": False},
        }
        """
    )
    if how == "clones":
        building.migration("0003_extra", "0002_building", EXTRA)
    building.tests(MEETING + PLACES + KILLING)
    flags = ("--isolation", "database") if how == "isolation" else ()
    result = building.run(*TWO, *flags, env={"START_METHOD": method})
    assert result.code == 1
    assert "Ran 4 tests" in result.stderr
    assert "FAILED (errors=1)" in result.stderr
    before, after = read(building, "places")
    assert after["number"] == before["number"]
    assert after["process"] != before["process"]
    (schema, database), (new_schema, new_database) = (
        line["places"]["default"] for line in (before, after)
    )
    if how == "schemas":
        assert new_schema != schema
        assert new_schema.startswith(f"test_w{after['number']}_")
        assert new_database == database == building.test_name
    else:
        assert (new_schema, new_database) == (schema, database)
        assert schema == "public"
    assert building.databases() == []
