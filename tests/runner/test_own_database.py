"""Classes with a database of their own, beside others in schemas."""

import pytest

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project

# What two workers cannot do at once in one database, nor find there what stock Django has.
TESTS = """
    by_decorator = os.environ.get("BY") != "settings"
    marked = schema_runner.own_database if by_decorator else tag("whole")

    class Finds:
        def finds(self):
            ((database, schema),) = query("SELECT current_database(), current_schema()")
            record("finds", case=type(self).__name__, place=[database, schema == "public"])
            names = list(Author.objects.values_list("name", flat=True))
            self.assertEqual(names, [] if "STOCK" in os.environ else ["of a seeder"])
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
            query("NOTIFY news")
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
    SCHEMA_RUNNER |= {} if "STOCK" in os.environ else {"SEEDERS": ["helpers.counting.seed_again"]}
    SCHEMA_RUNNER["STRATEGY"] = os.environ.get("STRATEGY", "template")
    SCHEMA_RUNNER["RESET"] = os.environ.get("RESET", "selective")
"""
WAYS: dict[str, tuple[Mode, dict[str, str]]] = {
    "serial": (SERIAL, {}),
    "fork": (PARALLEL, {"MEET": "2"}),
    "spawn": (PARALLEL, {"START_METHOD": "spawn", "BY": "settings"}),
    "reference": (PARALLEL, {"RESET": "reference"}),
    "migrated": (PARALLEL, {"STRATEGY": "migrate"}),
    "migrated serially": (SERIAL, {"STRATEGY": "migrate", "BY": "settings"}),
    "cloned": ((*PARALLEL, "--isolation", "database"), {"STOCK": "1"}),
    "stock": ((*PARALLEL, *WITH_STOCK), {"STOCK": "1"}),
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
    """Return the databases of classes' tests, and whether their tables are in `public`."""
    return {tuple(one["place"]) for one in project.records("finds") if one["case"] in cases}


@pytest.mark.parametrize(("mode", "env"), WAYS.values(), ids=WAYS)
def test_a_database_for_marked_classes(whole: Project, mode: Mode, env: dict[str, str]) -> None:
    """It has what the host database has, each class finds it as it should, and it is dropped."""
    whole.forget()
    (whole.folder / "migrated").unlink(missing_ok=True)
    whole.run(*mode, env=env).passed("Ran 12 tests")
    assert whole.databases() == []
    shared, own = places(whole, "ACE"), places(whole, "BDF")
    assert all(is_public for _, is_public in own)
    clones = {(f"{whole.test_name}_{worker}", True) for worker in (1, 2)}
    if "STOCK" in env:
        assert shared | own <= clones
    else:
        assert shared == {(whole.test_name, False)}
        assert not own & {*clones, *shared}
        if "STRATEGY" not in env:
            assert (whole.folder / "migrated").read_text() == "."
        assert len(own) == (2 if "MEET" in env else 1 if mode == SERIAL else len(own))
