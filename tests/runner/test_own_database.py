"""Classes with their own database, next to classes in schemas."""

import re

import pytest

from ..faults.waiting import kill, wait_for_end, waiting
from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project, each_mode
from .recording import run

# Tests that cannot run concurrently in one database, or that expect what stock Django provides.
TESTS = """
    by_decorator = os.environ.get("BY") != "settings"
    marked = schema_runner.own_database if by_decorator else tag("whole")

    class Finds:
        def finds(self):
            ((database, schema),) = query("SELECT current_database(), current_schema()")
            record("finds", case=type(self).__name__, place=[database, schema == "public"])
            names = list(Author.objects.values_list("name", flat=True))
            self.assertEqual(names, ["of a seeder"] if "SEEDS" in os.environ else [])
            Author.objects.create(name="of a test")

    class Shared(Finds):
        def test_a(self): self.finds()
        def test_b(self): self.finds()

    class Whole(Finds):
        def test_a(self):
            self.finds()
            query("CREATE SCHEMA drafts")
            self.addCleanup(query, "DROP SCHEMA drafts CASCADE")
            query("CREATE TABLE drafts.library_draft ()")
            query("CREATE EXTENSION citext")
            meet()
            query("DROP EXTENSION citext")
            found = query("SELECT relnamespace::regnamespace::text FROM pg_class"
                          " WHERE relname IN ('library_author', 'library_draft') ORDER BY 1")
            self.assertEqual(found, [("drafts",), ("public",)])
            columns = query("SELECT count(*) FROM information_schema.columns"
                            " WHERE column_name = 'title'")
            self.assertEqual(columns, [(1,)])
            # Rows of seeders are restored from a template schema.
            if "SEEDS" not in os.environ:
                schemas = query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test%'")
                self.assertEqual(schemas, [])
        def test_b(self): self.finds()

    class A(Shared, TransactionTestCase): pass
    @marked
    class B(Whole, TransactionTestCase): pass
    class C(Shared, TransactionTestCase): pass
    @marked
    class D(Whole, TransactionTestCase): pass
    class E(Shared, TransactionTestCase): pass
    class F(Whole, TestCase): pass
"""
SETTINGS = """
    import os
    SCHEMA_RUNNER = {"OWN_DATABASE": ["library.test_generated.F", "whole", "library.nothing"]}
    SCHEMA_RUNNER["SEEDERS"] = ["helpers.counting.seed_again"] if "SEEDS" in os.environ else []
    SCHEMA_RUNNER["STRATEGY"] = os.environ.get("STRATEGY", "template")
    SCHEMA_RUNNER["RESET"] = os.environ.get("RESET", "selective")
"""
RUNS: dict[str, tuple[Mode, dict[str, str]]] = {
    "serial": (SERIAL, {"SEEDS": "1"}),
    "fork": (PARALLEL, {"MEET": "2"}),
    "spawn": (PARALLEL, {"START_METHOD": "spawn", "BY": "settings", "SEEDS": "1"}),
    "reference": (PARALLEL, {"RESET": "reference", "SEEDS": "1"}),
    "migrated": (PARALLEL, {"STRATEGY": "migrate"}),
    "migrated serially": (SERIAL, {"STRATEGY": "migrate", "BY": "settings", "SEEDS": "1"}),
    "cloned": ((*PARALLEL, "--isolation", "database"), {}),
    "stock": ((*PARALLEL, *WITH_STOCK), {}),
}


@pytest.fixture(scope="module")
def whole(shared_project: Project) -> Project:
    """A project with classes of both kinds."""
    shared_project.configure(SETTINGS)
    counting = 'lambda apps, editor: __import__("helpers").times("migrated")'
    shared_project.migration("0002_more", "0001_initial", f"migrations.RunPython({counting})")
    shared_project.tests(TESTS)
    return shared_project


def places(project: Project, cases: str) -> set[tuple[str, bool]]:
    """Return the databases of these classes' tests, and whether tables are in `public`."""
    return {tuple(one["place"]) for one in project.records("finds") if one["case"] in cases}


@pytest.mark.parametrize(("mode", "env"), RUNS.values(), ids=RUNS)
def test_a_database_for_marked_classes(whole: Project, mode: Mode, env: dict[str, str]) -> None:
    """It has the contents of the host database, each class finds it clean, and it is dropped."""
    whole.forget()
    (whole.folder / "migrated").unlink(missing_ok=True)
    whole.run(*mode, env=env).passed("Ran 12 tests")
    assert whole.databases() == []
    shared, own = places(whole, "ACE"), places(whole, "BDF")
    assert all(is_public for _, is_public in own)
    clones = {(f"{whole.test_name}_{worker}", True) for worker in (1, 2)}
    if len(mode) > len(PARALLEL):
        assert shared | own <= clones
    else:
        assert shared == {(whole.test_name, False)}
        assert not own & {*clones, *shared}
        if "STRATEGY" not in env:
            assert (whole.folder / "migrated").read_text() == "."
        assert len(own) == (2 if "MEET" in env else 1 if mode == SERIAL else len(own))


CREATING = """
    class Beside(Recording, TestCase):
        def test_a(self): time.sleep(0.1)
    class BesideToo(Beside): pass

    @schema_runner.own_database
    class Whole(Recording, TransactionTestCase):
        def test_a(self):
            query("CREATE SCHEMA drafts")
            time.sleep(0.1)
            query("DROP SCHEMA drafts")
    class WholeToo(Whole): pass
"""
REFUSED = """
    import re
    from django.db.backends.postgresql.base import DatabaseWrapper
    from django.db.backends.postgresql.creation import DatabaseCreation

    class Refused(DatabaseCreation):
        def _execute_create_test_db(self, cursor, parameters, keepdb=False):
            if re.search('_[0-9a-f]{16}_[0-9]+"$', parameters["dbname"]):
                parameters["suffix"] = "TEMPLATE nothing"
            super()._execute_create_test_db(cursor, parameters, keepdb)

    DatabaseWrapper.creation_class = Refused
"""


def test_marked_classes_run_alone_in_current_mode(occupied: Project) -> None:
    """In `current` mode no database may be created, so the classes run alone, as a line says."""
    occupied.tests(CREATING)
    done = run(occupied, *PARALLEL, "--host-database", "current", env={"MEET": "2"}).passed()
    assert (
        "Running 2 own_database classes alone, because --host-database current "
        in done.result.stdout
    )
    assert [done.met[f"{name}.test_a"] for name in ("Whole", "WholeToo")] == [set(), set()]


@each_mode
def test_a_database_that_cannot_be_created(project: Project, mode: Mode) -> None:
    """The set-up of the class fails, and other classes run."""
    project.configure(REFUSED)
    project.tests(CREATING)
    done = run(project, *mode).failed("Ran 2 tests", "FAILED (errors=2)")
    reasons = re.findall(r"Error: Cannot create database '.*': (.*)", done.result.stderr)
    assert reasons == ['template database "nothing" does not exist'] * 2
    assert done.result.stderr.count("ERROR: setUpClass (library.test_generated.Whole") == 2
    assert {*done.classes} == {"Beside", "BesideToo"}


OWN_WAITING = """
    from helpers import FOLDER

    class Waiting(TransactionTestCase):
        def test_a(self):
            Author.objects.create(name="of a test")
            if "DIES" in os.environ:
                os._exit(7)
        def test_b(self):
            ((database,),) = query("SELECT current_database()")
            record("waits", database=database, authors=Author.objects.count())
            while not (FOLDER / "go").exists():
                time.sleep(0.02)
    @schema_runner.own_database
    class First(Waiting): pass
    class Second(First): pass
    del Waiting
"""


@pytest.mark.parametrize("flags", [(), ("--keepdb",)], ids=["test", "kept"])
def test_databases_of_dead_processes(project: Project, flags: Mode) -> None:
    """A dead worker's database is replaced, and a killed run's is dropped by the next run."""
    project.configure('SCHEMA_RUNNER = {"SEEDERS": ["helpers.counting.seed"]}')
    project.tests(OWN_WAITING)
    process = project.start(*PARALLEL, *flags, env={"DIES": "1"})
    waiting(project, 2)
    used = {line["database"] for line in project.records("waits")}
    assert [line["authors"] for line in project.records("waits")] == [1, 1]
    assert used < {*project.databases()}
    assert len(used) == 2
    kill(process)
    wait_for_end([line["process"] for line in project.records("waits")])
    assert used < {*project.databases()}
    (project.folder / "go").touch()
    result = project.run(*PARALLEL, *flags).passed("Ran 4 tests")
    assert all(
        f"Removed leftovers of an earlier run: database {name}" in result.stdout for name in used
    )
    assert project.databases() == ([project.test_name] if flags else [])
    if flags:
        assert "2 databases created" in result.stdout
        project.drop_database(project.test_name)


ALIASES = """
    DATABASES["again"] = DATABASES["default"]
    for alias in ("other", "mirror"):
        name = DATABASES["default"]["NAME"] + "_other"
        DATABASES[alias] = {**DATABASES["default"], "NAME": name}
    DATABASES["mirror"]["TEST"] = {"MIRROR": "other"}
"""
BY_ALIAS = """
    def places(*aliases):
        return [query("SELECT current_database(), current_schema()", using=alias)[0]
                for alias in aliases]

    class Whole:
        def test_a(self):
            used = places(*self.databases)
            self.assertEqual({schema for _, schema in used}, {"public"})
            schemas = schema_runner.current_worker().schemas
            self.assertNotIn("public", {schemas[alias] for alias in self.left_alone})
            self.assertEqual(schemas[self.comes_along], "public")
            for alias in self.databases:
                self.assertEqual(Author.objects.using(alias).count(), 0)
            # As in stock Django, mirrors are not flushed.
            if self.databases == {"default"}:
                Author.objects.create(name="new")
        test_b = test_a

    @schema_runner.own_database
    class A(Whole, TransactionTestCase):
        databases, comes_along, left_alone = {"default"}, "again", ("other", "mirror")
    @schema_runner.own_database
    class B(Whole, TransactionTestCase):
        databases, comes_along, left_alone = {"mirror"}, "other", ("default", "again")
    class C(TransactionTestCase):
        databases = {"default", "again", "other", "mirror"}
        def test_a(self):
            first, again, other, mirror = places("default", "again", "other", "mirror")
            self.assertEqual((first, other), (again, mirror))
            self.assertNotIn("public", {first[1], other[1]})
            self.assertEqual(Author.objects.count() + Author.objects.using("other").count(), 0)
    @schema_runner.own_database
    class D(TransactionTestCase):
        databases = "__all__"
        def test_a(self):
            first, again, other, mirror = places("default", "again", "other", "mirror")
            self.assertEqual((first, other), (again, mirror))
            self.assertEqual({first[1], other[1]}, {"public"})
"""


@pytest.mark.parametrize("method", ["serial", "fork", "spawn"])
def test_only_the_databases_of_the_class(project: Project, method: str) -> None:
    """Other aliases of the same database move with it, and the rest stay in their schemas."""
    project.configure(ALIASES)
    project.tests(BY_ALIAS)
    mode, env = (SERIAL, {}) if method == "serial" else (PARALLEL, {"START_METHOD": method})
    project.run(*mode, env=env).passed("Ran 6 tests")
    assert project.databases() == []


ALTERING = """
    def columns():
        return query("SELECT count(*) FROM pg_attribute WHERE attname = 'extra'"
                     " AND attrelid = 'library_book'::regclass")

    class A(TransactionTestCase):
        def test_a(self): query("ALTER TABLE library_book ADD COLUMN extra int")
    @schema_runner.own_database
    class B(TransactionTestCase):
        def test_a(self): self.assertEqual(columns(), [(0,)])
    class C(TransactionTestCase):
        def test_a(self): self.assertEqual(columns(), [(0,)])
"""


def test_a_schema_that_was_altered_before(project: Project) -> None:
    """The next class in the schema gets a new one."""
    project.tests(ALTERING)
    project.run().passed("Ran 3 tests")
