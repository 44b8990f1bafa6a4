"""Each worker creates its schema or database when it starts, and drops it when it ends."""

import pytest

from ..project import PARALLEL, Project
from .test_aliases import use_several

each_method = pytest.mark.parametrize("method", ["fork", "spawn"])

# A migration that records which worker builds, tests that record their schema, and a runner that
# records the schemas that are left after the workers have ended.
BUILDING = """
    from helpers import *

    def build(apps, editor):
        record("built")
        if schema_runner.current_worker() and Path("waits").exists():
            wait_for("begun")

    def need(apps, editor):
        if editor.connection.alias == "default":
            assert query("SELECT name FROM shop_item", using="other") == [("migrated",)]
            record("needed")

    def places(*aliases):
        where = "SELECT current_schema(), current_database()"
        found = {alias: query(where, using=alias)[0] for alias in aliases}
        record("places", schemas=schema_runner.current_worker().schemas, places=found)

    class Runner(schema_runner.SchemaDiscoverRunner):
        def teardown_databases(self, old_config, **kwargs):
            rows = query("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_w'")
            record("left", names=[name for (name,) in rows])
            super().teardown_databases(old_config, **kwargs)
"""
THREE = """
    from building import places

    class First(TestCase):
        def test_it(self):
            Path("begun").touch()
            places("default")
            meet(number=3)
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="same everywhere")
    class Second(First): pass
    class Third(First): pass
"""


@pytest.fixture
def building(project: Project) -> Project:
    """A project whose workers run the migrations, including the one above."""
    project.write("building.py", BUILDING)
    project.configure('TEST_RUNNER = "building.Runner"')
    project.configure('SCHEMA_RUNNER = {"STRATEGY": "migrate"}')
    build = 'migrations.RunPython(__import__("building").build)'
    project.migration("0002_building", "0001_initial", build)
    return project


@each_method
def test_workers_create_their_schemas_concurrently(building: Project, method: str) -> None:
    """Worker 1 runs tests while the others, whose builds wait for it, still migrate.

    --keepdb keeps all schemas.
    """
    (building.folder / "waits").touch()
    building.tests(THREE)
    env = {"START_METHOD": method}
    building.run("--parallel", "3", env=env).passed("Ran 3 tests")
    found = {line["worker"]: line for line in building.records("places")}
    assert set(found) == {1, 2, 3}
    for number, line in found.items():
        assert line["schema"].startswith(f"test_w{number}_")
        assert line["schemas"] == {"default": line["schema"]}
        assert line["places"] == {"default": [line["schema"], building.test_name]}
    assert len({line["process"] for line in found.values()}) == 3
    built = [line["worker"] for line in building.records("built")]
    assert built[0] is None
    assert sorted(built[1:]) == [2, 3]
    # Worker 1 uses the schema of the run's own build.
    assert [line["names"] for line in building.records("left")] == [[found[1]["schema"]]]
    assert building.databases() == []

    building.forget()
    result = building.run("--parallel", "3", "--keepdb", "-v", "2", env=env).passed()
    assert kept(building) == sorted(line["schema"] for line in building.records("places"))
    for name in kept(building):
        assert f"Kept schema {name} in database '{building.test_name}'." in result.stderr
    building.drop_database(building.test_name)


def kept(project: Project) -> list[str]:
    """Return the workers' schemas; check that all are marked as kept."""
    found = {name: mark for name, mark in project.schemas().items() if name.startswith("test_w")}
    assert {mark and mark.state for mark in found.values()} == {"kept"}
    return sorted(found)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_worker_that_is_not_needed(building: Project, keeps: bool) -> None:
    """Its build is aborted and dropped. With --keepdb, the run waits for it."""
    (building.folder / "waits").touch()
    tests = f"""
        from building import places

        class First(TransactionTestCase):
            def test_it(self):
                places("default")
                if {keeps}:
                    Path("begun").touch()
        class Second(First): pass
    """
    building.tests(tests)
    building.run(*PARALLEL, *(["--keepdb"] if keeps else [])).passed("Ran 2 tests")
    if keeps:
        assert [name.split("_")[1] for name in kept(building)] == ["w1", "w2"]
        building.run("--clear-pools").passed()
    else:
        assert {line["worker"] for line in building.records("places")} == {1}
        (left,) = building.records("left")
        assert {name.split("_")[1] for name in left["names"]} <= {"w1", "w2"}
    assert building.databases() == []


@each_method
def test_workers_create_a_schema_in_each_database(building: Project, method: str) -> None:
    """In the order of DEPENDENCIES. Mirrors and second aliases use the schema of the first."""
    use_several(building)
    # A migration of `default` reads rows of `other`.
    need = 'migrations.RunPython(__import__("building").need)'
    building.migration("0003_needing", "0002_building", need)
    tests = """
        from building import places
        from shop.models import Item

        ALIASES = ("default", "again", "other", "mirror", "third")

        class First(TransactionTestCase):
            databases = {*ALIASES, "small"}
            def test_it(self):
                places(*ALIASES)
                meet(number=2)
                for alias in ("default", "third", "small"):
                    self.assertEqual(Author.objects.using(alias).count(), 0)
                    Author.objects.using(alias).create(name=alias)
                Item.objects.create(name="bought")
                self.assertEqual(Author.objects.using("again").get().name, "default")
                self.assertTrue(Item.objects.using("mirror").filter(name="bought").exists())
                self.assertEqual(Author.objects.using("small").get().name, "small")
        class Second(First): pass
    """
    building.tests(tests)
    building.run(*PARALLEL, env={"START_METHOD": method}).passed()
    assert [line["worker"] for line in building.records("needed")] == [1, 2]
    found = {line["worker"]: line["places"] for line in building.records("places")}
    assert set(found) == {1, 2}
    databases = [building.test_name + suffix for suffix in ("", "_other", "_third")]
    for number, places in found.items():
        assert places["again"] == places["default"]
        assert places["mirror"] == places["other"]
        assert all(schema.startswith(f"test_w{number}_") for schema, _ in places.values())
        assert [places[alias][1] for alias in ("default", "other", "third")] == databases
    assert not {*map(tuple, found[1].values())} & {*map(tuple, found[2].values())}
    assert building.databases() == []


KILLING = """
    from building import places

    class Killing(TransactionTestCase):
        databases = {"default", "small"}
        def setUp(self):
            for alias in self.databases:
                self.assertEqual(Author.objects.using(alias).count(), 0)
                Author.objects.using(alias).create(name="left")
                tables = connections[alias].introspection.table_names()
                self.assertNotIn("left_behind", tables)
            places("default")

        def test_a(self): pass
        def test_b_dies(self):
            query("CREATE TABLE left_behind (n int)")
            os._exit(3)
        def test_c(self):
            Path("done").touch()

    class Beside(TransactionTestCase):
        databases = {"default", "small"}
        def test_d_keeps_the_other_worker_busy(self):
            wait_for("done")
"""
SMALL = """
    small = {"ENGINE": "django.db.backends.sqlite3", "NAME": "small.sqlite3"}
    DATABASES["small"] = {**small, "TEST": {"MIGRATE": False}}
"""
EXTRA = 'migrations.RunSQL("CREATE SCHEMA extra")'


@pytest.mark.parametrize(
    ("how", "method"),
    [("schemas", "fork"), ("schemas", "spawn"), ("clones", "spawn"), ("isolation", "fork")],
)
def test_the_replacement_of_a_worker_starts_clean(
    building: Project, how: str, method: str
) -> None:
    """The replacement has a new schema or clone, and a new SQLite database."""
    building.configure(SMALL)
    if how == "clones":
        building.migration("0003_extra", "0002_building", EXTRA)
    building.tests(KILLING)
    flags = ("--isolation", "database") if how == "isolation" else ()
    result = building.run(*PARALLEL, *flags, env={"START_METHOD": method})
    result.failed("Ran 4 tests", "FAILED (errors=1)")
    before, _, after = building.records("places")
    assert after["worker"] == before["worker"]
    assert after["process"] != before["process"]
    schema, database = before["places"]["default"]
    new_schema, new_database = after["places"]["default"]
    if how == "schemas":
        assert new_schema != schema
        assert new_schema.startswith(f"test_w{after['worker']}_")
        assert new_database == database == building.test_name
    else:
        assert (new_schema, new_database) == (schema, database)
        assert schema == "public"
    assert building.databases() == []
