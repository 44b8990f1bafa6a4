"""Extensions, which exist once in each database, with several workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from schema_runner.postgres.names import Marker, MarkerState

from ..builds import BUILD
from ..project import PARALLEL, SERIAL, Mode, Project, outcome, wait_for
from .decoys import unchanged
from .test_roles import roles

pytestmark = pytest.mark.oldest

MODELS = """
    from django.contrib.postgres.constraints import ExclusionConstraint
    from django.contrib.postgres.fields import DateRangeField, HStoreField, RangeOperators
    from django.contrib.postgres.indexes import GinIndex, OpClass
    from django.db import models
    from django.db.models.functions import Upper

    class CaseInsensitive(models.TextField):
        def db_type(self, connection): return "citext"

    class Author(models.Model):
        name = CaseInsensitive(unique=True)
        traits = HStoreField(default=dict)
        class Meta: indexes = [GinIndex(fields=["traits"], name="by_traits")]

    class Book(models.Model):
        title = models.CharField(max_length=100)
        author = models.ForeignKey(Author, models.CASCADE)
        pages = models.IntegerField(default=1)
        lent = DateRangeField(null=True)

        class Meta:
            indexes = [
                GinIndex(fields=["title"], name="like_title", opclasses=["gin_trgm_ops"]),
                GinIndex(OpClass(Upper("title"), "gin_trgm_ops"), name="like_upper"),
                GinIndex(fields=["pages", "author"], name="by_pages"),
            ]
            constraints = [ExclusionConstraint(name="lent_once", expressions=[
                ("title", RangeOperators.EQUAL), ("lent", RangeOperators.OVERLAPS),
            ])]

    class Trait(models.Model):
        id = models.BigIntegerField(primary_key=True)
        traits = HStoreField()
        name = CaseInsensitive()
        class Meta: managed, db_table = False, "library_trait"
"""
# HStoreExtension also registers the type on open connections, so it must run as an operation.
INITIAL = """
    from django.contrib.postgres import operations as postgres
    from django.db import migrations
    from helpers.migrations import created
    from library import models

    class Migration(migrations.Migration):
        initial = True
        operations = [
            postgres.HStoreExtension(), postgres.TrigramExtension(), postgres.BtreeGistExtension(),
            postgres.CreateExtension("intarray"), *CRYPTO,
            migrations.RunSQL("CREATE EXTENSION citext"),
            migrations.RunSQL(["CREATE EXTENSION IF NOT EXISTS btree_gin"]),
            migrations.RunSQL('create extension "unaccent" with schema public cascade'),
            *created(models.Author, models.Book),
            migrations.RunSQL(
                '''CREATE VIEW library_trait AS SELECT id, traits, name FROM library_author;
                   CREATE MATERIALIZED VIEW all_traits AS
                   SELECT 'a=>1'::hstore AS traits, 'X'::citext AS name;
                   CREATE INDEX on_citext ON all_traits (name);'''
            ),
        ]
"""
CRYPTO = "" if "pgcrypto" in BUILD.lacks else "postgres.CryptoExtension(),"
USING = """
    import datetime
    from django.contrib.postgres.search import TrigramSimilarity
    from django.db import IntegrityError
    from library.models import Trait

    class Using:
        def test_fields(self):
            Author.objects.create(name="Bob", traits={"age": "7", "shoe": None})
            self.assertEqual(Author.objects.get(name="BOB").traits, {"age": "7", "shoe": None})
            self.assertEqual(Author.objects.filter(traits__age="7").count(), 1)
            self.assertEqual(Author.objects.filter(traits__has_key="hat").count(), 0)
            self.assertEqual(Trait.objects.get(name="bOB").traits["age"], "7")

        def test_lookups(self):
            author = Author.objects.create(name="Bob")
            Book.objects.create(title="Café du Nord", author=author)
            books = Book.objects.annotate(like=TrigramSimilarity("title", "Cafe du Nort"))
            self.assertEqual(books.filter(like__gt=0.3).count(), 1)
            for lookup in ("unaccent", "unaccent__icontains", "trigram_similar"):
                found = Book.objects.filter(**{f"title__{lookup}": "Cafe du Nord"})
                self.assertEqual(found.count(), 1, lookup)

        def test_constraint(self):
            given = {"author": Author.objects.create(name="Bob"),
                     "lent": (datetime.date(2030, 1, 1), None)}
            for title in ("One", "Other"):
                Book.objects.create(title=title, **given)
            with self.assertRaisesMessage(IntegrityError, "lent_once"):
                Book.objects.create(title="One", **given)

        def test_sql(self):
            found = query("SELECT traits -> 'a', name = 'x', sort('{2,1}') FROM all_traits")
            self.assertEqual(found, [("1", True, [1, 2])])
            extensions = dict(query("SELECT extname, extnamespace::regnamespace::text"
                                    " FROM pg_extension WHERE extname <> 'plpgsql'"))
            self.assertLessEqual({*extensions.values()}, {"public", "test_extensions"})
            if "pgcrypto" in extensions:
                found = query("SELECT crypt('secret', gen_salt('bf', 4)) ^@ '$2a$04$'")
                self.assertEqual(found, [(True,)])
    class First(Using, TestCase): pass
    class Second(Using, TransactionTestCase): pass
    class Third(Using, TransactionTestCase): pass
"""


@pytest.fixture
def extended(project: Project) -> Project:
    project.configure('INSTALLED_APPS.append("django.contrib.postgres")')
    project.write("library/models.py", MODELS)
    project.write("library/migrations/0001_initial.py", INITIAL.replace("*CRYPTO,", CRYPTO))
    project.tests(USING)
    return project


STARTS = {
    "serial": (SERIAL, "fork", []),
    "fork": (PARALLEL, "fork", []),
    "spawn": (PARALLEL, "spawn", []),
    # Classes in the schema run before and after it.
    "own database": (SERIAL, "fork", ["library.test_generated.Second"]),
}


@pytest.mark.parametrize(("mode", "method", "own"), STARTS.values(), ids=STARTS)
def test_extensions_used_by_models(
    extended: Project, mode: Mode, method: str, own: list[str]
) -> None:
    """Fields, lookups, indexes and constraints use extensions in every schema and database."""
    extended.configure(f'SCHEMA_RUNNER = {{"OWN_DATABASE": {own}}}')
    result = extended.run(*mode, env={"START_METHOD": method}).passed("Ran 12 tests")
    assert "uses clone databases" not in result.output
    assert "runs the migrations" not in result.output


def test_extensions_in_the_own_database_of_the_project(extended: Project) -> None:
    """The run uses existing extensions, and creates the others until it ends."""
    extended.create_database()
    there = (
        "CREATE EXTENSION citext; CREATE EXTENSION pg_trgm; CREATE TABLE library_author (c citext)"
    )
    extended.query(there, database=extended.name)
    for mode in (SERIAL, PARALLEL):
        with unchanged(extended):
            extended.run(*mode, "--host-database", "current").passed("Ran 12 tests")
    extended.drop_database()


NEEDING = """
    class Needing(TestCase):
        def test_it(self):
            if "WAIT" in os.environ:
                record("waits")
                wait_for("go")
            self.assertEqual(Author.objects.get(name="FIRST").traits, {"a": "1"})
    class Alike(Needing): pass
"""
# Columns of these rows have extension types.
ROWS = """
    migrations.RunSQL("INSERT INTO library_author (name, traits) VALUES ('First', 'a=>1')"),
    migrations.RunPython(lambda *args: __import__("helpers").record("migrates")),
"""


@pytest.fixture
def own(extended: Project) -> Iterator[Project]:
    """The same project, with its own database as host, without any of the extensions."""
    extended.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    extended.migration("0002_rows", "0001_initial", ROWS)
    extended.tests(NEEDING)
    extended.create_database()
    yield extended
    extended.end()
    extended.drop_database()


def installed(project: Project) -> list[str]:
    query = """
        SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'
        UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'test_extensions'
    """
    return [name for (name,) in project.query(query, database=project.name)]


def migrate(project: Project) -> None:
    """Run `manage.py migrate` in the project's own database."""
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_pools_are_kept_without_extensions(own: Project) -> None:
    """Pools are kept without their extensions.

    Where the database has them, schemas are kept too.
    """
    for mode in (PARALLEL, SERIAL, PARALLEL):
        result = own.run(*mode, "--keepdb").passed("Ran 2 tests")
        assert "only a template was kept, because schemas need" in result.stdout
        assert installed(own) == []
    migrated = len(own.records("migrates"))
    assert migrated == 1
    # A run without --keepdb leaves the pool alone.
    own.run(*SERIAL).passed("Ran 2 tests")
    assert installed(own) == []
    own.run(*PARALLEL, "--keepdb").passed("Ran 2 tests")
    migrate(own)
    for _ in range(2):
        result = own.run(*PARALLEL, "--keepdb").passed("Ran 2 tests")
        assert "made anew" not in result.stdout
        assert "test_extensions" not in installed(own)
    # Once by the run without --keepdb, once by `migrate`, and once for the new search_path.
    assert len(own.records("migrates")) == migrated + 3
    own.run(*SERIAL, "--clear-pools").passed("Ran 2 tests")


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_extensions_of_a_killed_run_are_dropped_first(own: Project, kept: bool) -> None:
    """The next run drops them first, although another run's pool needs them."""
    keeps = ["--keepdb"] if kept else []
    if kept:
        own.run(*PARALLEL, *keeps).passed("Ran 2 tests")
    killed = own.start(*SERIAL, *keeps, env={"WAIT": "1"})
    wait_for(lambda: own.records("waits"), "a test")
    killed.kill()
    killed.communicate(timeout=60)
    assert "hstore" in installed(own)
    migrated = len(own.records("migrates"))
    result = own.run(*SERIAL, *keeps).passed("Ran 2 tests")
    assert "Removed leftovers of an earlier run in" in result.stdout
    assert "extension citext, extension hstore" in result.stdout
    assert len(own.records("migrates")) == migrated + (not kept)
    assert installed(own) == []
    own.run(*SERIAL, "--clear-pools").passed("Ran 2 tests")
    migrate(own)


# A role with CREATE on the database plants functions that a superuser would call.
PLANTED = """
    SET ROLE {role};
    CREATE SCHEMA test_extensions; GRANT USAGE ON SCHEMA test_extensions TO PUBLIC;
    COMMENT ON SCHEMA test_extensions IS '{marker}';
    CREATE FUNCTION test_extensions.rise(varchar, varchar) RETURNS bool LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN $1::text = $2::text; END $$;
    CREATE OPERATOR test_extensions.= (
        FUNCTION = test_extensions.rise, LEFTARG = varchar, RIGHTARG = varchar)
"""
LOOKING = """
    class Looking(TestCase):
        def test_it(self):
            query("SELECT 1 FROM django_migrations WHERE app = name")
"""


def test_a_planted_schema_for_extensions_is_not_used(project: Project) -> None:
    """The runner never puts a schema on the search_path that other roles own or may write to."""
    project.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    project.tests(LOOKING)
    project.create_database()
    planter, marker = f"{project.name}_planter", Marker(0, MarkerState.READY)

    def execute(statement: str) -> list[tuple[Any, ...]]:
        return project.query(statement, database=project.name)

    execute(f"CREATE ROLE {planter}; GRANT CREATE ON DATABASE {project.name} TO {planter}")
    try:
        execute(PLANTED.format(role=planter, marker=marker))
        for mode in (SERIAL, PARALLEL, (*PARALLEL, "--keepdb"), (*PARALLEL, "--keepdb"), SERIAL):
            project.run(*mode).passed()
        execute(
            f"ALTER SCHEMA test_extensions OWNER TO CURRENT_USER;"
            f"GRANT CREATE ON SCHEMA test_extensions TO {planter}"
        )
        schema = f"Schema test_extensions in the database {project.name!r}"
        project.run(*SERIAL).refused(f"{schema} can be written to by {planter}")
        found = execute(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{planter}'")
        assert found == [(False,)]
        # Fails if the planted operator was dropped.
        execute("DROP OPERATOR test_extensions.= (varchar, varchar)")
    finally:
        execute(f"DROP SCHEMA test_extensions CASCADE; DROP OWNED BY {planter}")
        execute(f"DROP ROLE {planter}")
        project.end()
        project.drop_database()


def test_two_roles_in_the_own_database_of_the_project(project: Project) -> None:
    """Two roles can run concurrently, unless one needs the extensions of the other."""
    project.configure(
        'SCHEMA_RUNNER = {"HOST_DATABASE": "current"}\n'
        'import os\nif os.environ.get("ROLE"): DATABASES["default"]["USER"] = os.environ["ROLE"]'
    )
    project.tests(LOOKING)
    waiting = 'open(os.environ["ROLE"], "w").close(); wait_for("go-" + os.environ["ROLE"])'
    project.tests(f"class Waiting(TestCase):\n    def test_it(self): {waiting}\n", "test_waiting")
    project.create_database()
    first, second = f"{project.name}_first", f"{project.name}_second"
    with roles(project, **{first: "", second: ""}):
        grant = f"GRANT CREATE ON DATABASE {project.name} TO {first}, {second}"
        project.query(grant, database=project.name)
        alive = project.start("library.test_waiting", env={"ROLE": first})
        wait_for((project.folder / first).exists, "the first run to begin with its tests")
        for mode in (SERIAL, (*PARALLEL, "--keepdb"), (*PARALLEL, "--keepdb"), ("--clear-pools",)):
            project.run("library.test_generated", *mode, env={"ROLE": second}).passed()
        sql = "CREATE EXTENSION IF NOT EXISTS citext"
        project.migration("0002_more", "0001_initial", f"migrations.RunSQL({sql!r})")
        owned = f"Schema test_extensions in the database {project.name!r} is owned by '{first}'"
        result = project.run("library.test_generated", env={"ROLE": second}).refused(owned)
        assert "Or create citext in another schema of the database." in result.stderr
        # The first run's migrations might have created this extension.
        extension = "CREATE EXTENSION hstore SCHEMA test_extensions"
        project.query(extension, database=project.name)
        project.run("library.test_generated", env={"ROLE": second}).refused("create hstore in")
        project.query("DROP EXTENSION hstore", database=project.name)
        # If the database has the extension, no run needs to create it.
        project.query(sql, database=project.name)
        project.run("library.test_generated", env={"ROLE": second}).passed()
        project.query("DROP EXTENSION citext", database=project.name)
        # The first run drops its extensions while the second still runs.
        project.migration("0002_more", "0001_initial", "")
        second_run = project.start("library.test_waiting", env={"ROLE": second})
        wait_for((project.folder / second).exists, "the second run to begin with its tests")
        (project.folder / f"go-{first}").touch()
        outcome(alive).passed()
        assert "test_extensions" not in project.schemas(project.name)
        (project.folder / f"go-{second}").touch()
        outcome(second_run).passed()
        (project.folder / f"go-{first}").unlink()
        (project.folder / first).unlink()
        killed = project.start("library.test_waiting", env={"ROLE": first})
        wait_for((project.folder / first).exists, "another run to begin with its tests")
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        project.run("library.test_generated", env={"ROLE": second}).passed()
        project.run("library.test_generated", env={"ROLE": first}).passed()
        assert project.schemas(project.name) == {}
        project.query(f"DROP OWNED BY {first}, {second}", database=project.name)
    project.end()
    project.drop_database()


CREATING = """
    from django.db.migrations.state import ProjectState
    from django.contrib.postgres.operations import CreateExtension
    from psycopg import sql

    class RolledBack:
        def test_creates(self):
            meet("rolled back")
            query("CREATE EXTENSION earthdistance CASCADE")
            query(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier("ltree")))
            found = query("SELECT ll_to_earth(0, 0) IS NULL, 'a.b'::ltree ~ 'a.*'::lquery")
            self.assertEqual(found, [(False, True)])
    class A(RolledBack, TestCase): pass
    class B(RolledBack, TestCase): pass

    class Committed:
        def test_creates(self):
            meet("committed")
            with connection.schema_editor() as editor:
                CreateExtension("isn").database_forwards("library", editor, None, ProjectState())
            query("CREATE EXTENSION IF NOT EXISTS seg")
            query(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier("tcn")))
            query("CREATE TABLE pieces (piece seg, book isbn)")
            query("INSERT INTO pieces VALUES ('1..2', '039304002X')")
            self.assertEqual(query("SELECT count(*) FROM pieces"), [(1,)])
            query("DROP TABLE pieces")
            places = query("SELECT extnamespace = 'public'::regnamespace FROM pg_extension"
                           " WHERE extname IN ('isn', 'seg', 'tcn')")
            self.assertEqual(len(places), 3)
            if os.environ["MEET"] == "2":
                self.assertEqual(places, [(True,)] * 3)
    class C(Committed, TransactionTestCase): pass
    class D(Committed, TransactionTestCase): pass
"""


def test_tests_that_create_an_extension(project: Project) -> None:
    """Two workers may create the same extension concurrently, with or without IF NOT EXISTS."""
    project.tests(CREATING)
    # Without a history, classes start in suite order, so classes of the same kind meet.
    project.run(*PARALLEL, env={"MEET": "2"}).passed()
    project.run(env={"MEET": "0"}).passed()


TAGS = """
    __import__("django.contrib.postgres.operations", fromlist=["x"]).HStoreExtension(),
    migrations.RunSQL(
        "ALTER TABLE library_book ADD COLUMN tags hstore",
        "ALTER TABLE library_book DROP COLUMN tags",
    ),
"""
DROPPING = """
    from django.core.management import call_command
    from psycopg import sql

    class Unapplying(TransactionTestCase):
        def test_back_and_forth(self):
            call_command("migrate", "library", "0001", verbosity=0)
            self.assertEqual(query("SELECT 1 FROM pg_extension WHERE extname = 'hstore'"), [])
            call_command("migrate", "library", verbosity=0)

    class Dropping(TestCase):
        def test_drop(self):
            query(sql.SQL("DROP EXTENSION {} CASCADE").format(sql.Identifier("hstore")))
        def test_drop_what_is_not_there(self):
            query("DROP EXTENSION IF EXISTS tablefunc, sslinfo")

    class Using(TransactionTestCase):
        def test_use(self):
            found = query("SELECT count(*) FROM library_book WHERE tags ? 'a'")
            self.assertEqual(found, [(0,)])
    class UsingToo(Using): pass
"""


def test_tests_that_drop_an_extension(project: Project) -> None:
    """A single worker may drop it, as in stock Django.

    With several, it is an error with a remedy.
    """
    project.migration("0002_tags", "0001_initial", TAGS)
    project.tests(DROPPING)
    project.run().passed()
    project.run(*PARALLEL, "--isolation", "database").passed()
    result = project.run(*PARALLEL).failed("FAILED (errors=2)", "@schema_runner.own_database")
    assert result.stderr.count("Refused to drop an extension that other workers use") == 2
    assert (
        "\nFailed on something that the whole database shares (Refused to drop an extension"
        in result.stdout
    )
    project.configure('SCHEMA_RUNNER = {"OWN_DATABASE": ["library"]}')
    project.run(*PARALLEL).passed()


PASSING = """
    from django.test.utils import CaptureQueriesContext

    def installed():
        return {name for (name,) in query("SELECT extname FROM pg_extension"
            " WHERE extname IN ('seg', 'isn', 'cube', 'earthdistance', 'tablefunc')")}

    class Committed:
        def test_1_others_use_it(self):
            meet("created")
            with CaptureQueriesContext(connection) as captured:
                query("CREATE EXTENSION seg")
                self.assertEqual(connection.execute_wrappers, [])
            (statement,) = captured
            self.assertRegex(statement["sql"], "^CREATE EXTENSION (IF NOT EXISTS )?seg")
            query("CREATE TABLE pieces (piece seg)")
            query("INSERT INTO pieces VALUES ('1..2')")
            meet("used")
            is_last = times("dropped") == int(os.environ["MEET"])
            if is_last:
                wait_for("first")
                # The table still works, although the other worker has dropped the extension.
                self.assertEqual(query("SELECT piece::text FROM pieces"), [("1 .. 2",)])
            query("DROP TABLE pieces")
            query("DROP EXTENSION seg")
            Path("first").touch()
            if is_last: self.assertNotIn("seg", installed())

        def test_2_again(self):
            # One with its dependencies, and one in a DO block.
            for _ in range(2):
                query("CREATE EXTENSION earthdistance CASCADE")
                query("DO $$ BEGIN CREATE EXTENSION isn; END $$")
                query("DROP EXTENSION earthdistance; DROP EXTENSION IF EXISTS isn, cube CASCADE")
            meet("again")
            self.assertEqual(installed(), set())
            meet("seen")
    class A(Committed, TransactionTestCase): pass
    class B(Committed, TransactionTestCase): pass

    class RolledBack(TestCase):
        def test_within_a_transaction(self):
            query("CREATE EXTENSION tablefunc")
            self.assertIn("tablefunc", installed())
            query("DROP EXTENSION tablefunc")
            self.assertNotIn("tablefunc", installed())
            query("CREATE EXTENSION tablefunc")
    class RolledBackToo(RolledBack): pass
"""


def test_an_extension_that_a_test_creates_is_dropped(project: Project) -> None:
    """The last worker that created it drops it. Until then the others can use it."""
    project.tests(PASSING)
    for mode, meeting in ((PARALLEL, "2"), (SERIAL, "1")):
        names = "library.test_generated.A", "library.test_generated.B"
        if mode == SERIAL:
            (project.folder / "first").touch()
        project.run(*mode, *names, env={"MEET": meeting}).passed("Ran 4 tests")
        project.run(*mode, "library.test_generated", "-k", "RolledBack").passed("Ran 2 tests")
        project.forget()
        for path in ("dropped", "first"):
            (project.folder / path).unlink()
