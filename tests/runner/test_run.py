"""One run from start to end, and what it leaves."""

import re

import pytest

from ..digest import digest
from ..project import PARALLEL, STOCK, Mode, Project, each_mode, each_start

pytestmark = pytest.mark.versions

# Each test records its schema, database and search_path.
REPORTING = """
    WHERE = '''SELECT current_schema(), current_database(), current_setting('search_path'),
                      to_regclass('public.library_book') IS NULL'''

    class Reporting:
        def test_one(self):
            ((place, database, path, is_public_empty),) = query(WHERE)
            record("test", place=place, database=database, path=path,
                   is_public_empty=is_public_empty, schemas=schema_runner.current_worker().schemas)
            self.assertEqual(Author.objects.count(), 0)
            Book.objects.create(title="t", author=Author.objects.create(name="same everywhere"))

        test_two = test_one
    class First(Reporting, TestCase): pass
    class Second(Reporting, TestCase): pass
    class Third(Reporting, TransactionTestCase): pass
    class Fourth(Reporting, TransactionTestCase): pass
"""


@pytest.mark.server
@each_start
def test_each_worker_has_its_own_schema(occupied: Project, mode: Mode, method: str) -> None:
    """Schemas are named by worker and time, in one host database.

    The project's own is unchanged.
    """
    occupied.tests(REPORTING)
    occupied.run(*mode, env={"START_METHOD": method}).passed()
    lines = occupied.records("test")
    assert len(lines) == 8
    for line in lines:
        schema = line["schema"]
        assert (line["place"], line["database"]) == (schema, occupied.test_name)
        assert line["is_public_empty"]
        assert line["schemas"] == {"default": schema}
        assert schema.startswith(f"test_w{line['worker']}_1")
        rest = r",test_shims_\d+,pg_catalog,public" if mode else ",public"
        assert re.fullmatch(f"{schema}{rest}", line["path"])
    pairs = {(line["process"], line["schema"]) for line in lines}
    assert len({process for process, _ in pairs}) == len({schema for _, schema in pairs})
    assert len(pairs) <= (2 if mode else 1)


@pytest.mark.server
def test_public_of_the_host_database_is_unchanged(project: Project) -> None:
    """With a run's schemas in the database, its `public` is that of a new database."""
    project.tests(REPORTING)
    project.create_database()
    with project.host(project.name) as connection:
        pristine = digest(connection)
    project.run(*PARALLEL, "--keepdb").passed()
    with project.host() as connection:
        assert digest(connection) == pristine
    project.drop_database()
    project.drop_database(project.test_name)


COLLECTING = """
    import atexit
    import gc

    def see(what):
        record(what, is_seen=any(one is Author for one in gc.get_objects()))

    atexit.register(see, "ended")

    class Collecting(TestCase):
        def test_one(self): see("tested")
        def test_two(self): pass
    class Other(Collecting): pass
"""


@each_mode
def test_workers_do_not_collect_what_the_run_has_imported(project: Project, mode: Mode) -> None:
    """Garbage collection in workers leaves out what existed before them."""
    project.tests(COLLECTING)
    project.run(*mode).passed()
    tested, ended = project.records("tested"), project.records("ended")
    assert [line["is_seen"] for line in tested] == [not mode] * 2
    assert [line["is_seen"] for line in ended] == [True]


FAILING = """
    class Failing(TransactionTestCase):
        def test_failure(self):
            Author.objects.create(name="left behind")
            self.fail("as planned")

    class Breaking(TestCase):
        def test_error(self): 1 / 0
"""


@each_mode
def test_a_failing_run_leaves_nothing(project: Project, mode: Mode) -> None:
    """Failures and errors are reported as in stock Django, and everything is dropped."""
    project.tests(FAILING)
    project.run(*mode).failed("FAILED (failures=1, errors=1)")
    assert project.databases() == []
    if mode:
        project.migration("0002_broken", "0001_initial", "migrations.RunSQL('SELECT 1/0')")
        project.run(*mode).failed("division by zero")


def test_runs_with_stock_django_before_and_after(project: Project) -> None:
    """Both pass. A failed CREATE EXTENSION affects its own connection and savepoint only."""
    tests = """
        from django.db import DatabaseError

        class Creating(TestCase):
            def create(self, using):
                with self.assertRaises(DatabaseError), using.cursor() as cursor:
                    cursor.execute("CREATE EXTENSION no_such_extension")
            def test_on_a_copy(self):
                other = connection.copy()
                self.addCleanup(other.close)
                self.create(other)
                self.assertTrue(other.get_autocommit())
                self.assertEqual(Author.objects.count(), 0)

            def test_within_a_savepoint(self):
                before = transaction.savepoint()
                self.create(connection)
                transaction.savepoint_rollback(before)
                self.assertEqual(Author.objects.count(), 0)
        class InAnotherWorker(Creating): pass
    """
    project.tests(tests)
    for runner in (STOCK, "schema_runner.SchemaDiscoverRunner", STOCK):
        project.run(*PARALLEL, "--testrunner", runner).passed()
        assert project.databases() == []


RUNNER = """
    from django.test.runner import DiscoverRunner
    from schema_runner import SchemaRunnerMixin

    class Own(DiscoverRunner):
        @classmethod
        def add_arguments(cls, parser):
            super().add_arguments(parser)
            parser.add_argument("--greet")
            parser.add_argument("--shard", help="is its own")
        def __init__(self, greet=None, **kwargs):
            super().__init__(**kwargs)
            print("Hello", greet)
    class OwnWithSchemas(SchemaRunnerMixin, Own): pass
"""


def test_a_custom_runner_with_the_mixin(project: Project) -> None:
    """SchemaRunnerMixin comes before the existing runner class."""
    project.write("runner.py", RUNNER)
    project.configure('TEST_RUNNER = "runner.OwnWithSchemas"')
    project.tests(REPORTING)
    result = project.run(*PARALLEL, "--greet", "there").passed()
    assert "Hello there" in result.stdout
    # --help lists the runner's options separately, without those that the project defines.
    theirs, ours = (
        project.run("--help").passed().stdout.split("\noptions of django-schema-runner:\n")
    )
    assert re.search("^  --shard SHARD +is its own$", theirs, re.MULTILINE)
    flags = re.findall("^  (--[a-z-]+)", ours, re.MULTILINE)
    assert "--diagnose" in flags
    assert "--shard" not in flags
    assert all(line["schema"] == line["place"] for line in project.records("test"))
