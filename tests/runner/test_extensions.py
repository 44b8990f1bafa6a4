"""Extensions, of which a database has one each, in the hands of several workers."""

import pytest

from ..builds import BUILD
from ..digest import digest
from ..project import STOCK, Project

pytestmark = pytest.mark.oldest

MODES = [("--testrunner", STOCK), (), ("--parallel", "2")]
IDS = ["stock", "serial", "parallel"]
CURRENT = ("--host-database", "current")

MODELS = """
    from django.contrib.postgres.constraints import ExclusionConstraint
    from django.contrib.postgres.fields import DateRangeField, HStoreField, RangeOperators
    from django.contrib.postgres.indexes import GinIndex, OpClass
    from django.db import models
    from django.db.models.functions import Upper


    class CaseInsensitive(models.TextField):
        def db_type(self, connection):
            return "citext"


    class Author(models.Model):
        name = CaseInsensitive(unique=True)
        traits = HStoreField(default=dict)

        class Meta:
            indexes = [GinIndex(fields=["traits"], name="by_traits")]


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
            constraints = [
                ExclusionConstraint(
                    name="lent_once",
                    expressions=[
                        ("title", RangeOperators.EQUAL),
                        ("lent", RangeOperators.OVERLAPS),
                    ],
                )
            ]


    class Trait(models.Model):
        id = models.BigIntegerField(primary_key=True)
        traits = HStoreField()
        name = CaseInsensitive()

        class Meta:
            managed = False
            db_table = "library_trait"
"""
# The state and the columns are those of the models above, made by their own operations.
INITIAL = """
    from django.contrib.postgres import operations as postgres
    from django.db import migrations
    from library import models

    EXTENSIONS = {extensions}


    def created(model):
        fields = [(field.name, field.clone()) for field in model._meta.local_fields]
        options = {{"indexes": model._meta.indexes, "constraints": model._meta.constraints}}
        return migrations.CreateModel(model.__name__, fields, options)


    class Migration(migrations.Migration):
        initial = True
        operations = [
            *EXTENSIONS,
            created(models.Author),
            created(models.Book),
            migrations.RunSQL(
                '''CREATE VIEW library_trait AS SELECT id, traits, name FROM library_author;
                   CREATE MATERIALIZED VIEW all_traits AS
                   SELECT 'a=>1'::hstore AS traits, 'X'::citext AS name;
                   CREATE INDEX on_citext ON all_traits (name);'''
            ),
        ]
"""
# Some by Django's operations, the others by SQL. What HStoreExtension does beside is needed: it
# has connections that are open already learn the type.
BY_DJANGO = """
    postgres.HStoreExtension(), postgres.TrigramExtension(), postgres.BtreeGistExtension(),
    postgres.CreateExtension("intarray"),
"""
BY_SQL = """
    migrations.RunSQL(["CREATE EXTENSION citext", "CREATE EXTENSION IF NOT EXISTS btree_gin"]),
    migrations.RunSQL('create extension "unaccent" with schema public cascade'),
"""
if "pgcrypto" not in BUILD.lacks:
    BY_DJANGO += "    postgres.CryptoExtension(),\n"
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
            author = Author.objects.create(name="Bob")
            day = datetime.date(2030, 1, 1)
            for title in ("One", "Other"):
                Book.objects.create(title=title, author=author, lent=(day, None))
            with self.assertRaisesMessage(IntegrityError, "lent_once"):
                Book.objects.create(title="One", author=author, lent=(day, None))

        def test_sql(self):
            with connection.cursor() as cursor:
                cursor.execute("SELECT traits -> 'a', name = 'x', sort('{2,1}') FROM all_traits")
                self.assertEqual(cursor.fetchone(), ("1", True, [1, 2]))
                cursor.execute(
                    "SELECT extnamespace::regnamespace::text FROM pg_extension"
                    " WHERE extname <> 'plpgsql'"
                )
                found = {schema for (schema,) in cursor.fetchall()}
                self.assertLessEqual(found, {"public", "test_extensions"})
                cursor.execute("SELECT count(*) FROM pg_extension WHERE extname = 'pgcrypto'")
                if cursor.fetchone()[0]:
                    cursor.execute("SELECT crypt('secret', gen_salt('bf', 4)) ^@ '$2a$04$'")
                    self.assertEqual(cursor.fetchone(), (True,))


    class First(Using, TestCase):
        pass


    class Second(Using, TransactionTestCase):
        pass


    class Third(Using, TransactionTestCase):
        pass
"""


def use_extensions(project: Project, *operations: str) -> None:
    project.configure('INSTALLED_APPS.append("django.contrib.postgres")')
    project.write("library/models.py", MODELS)
    extensions = f"[{' '.join(' '.join(operations).split())}]"
    project.write("library/migrations/0001_initial.py", INITIAL.format(extensions=extensions))
    project.tests(USING)


@pytest.mark.parametrize(
    ("mode", "method"),
    [*[(mode, "fork") for mode in MODES], (MODES[2], "spawn")],
    ids=[*IDS, "spawn"],
)
def test_extensions_that_models_use(project: Project, mode: tuple[str, ...], method: str) -> None:
    """Fields, lookups, indexes, constraints and views have them in all workers."""
    use_extensions(project, BY_DJANGO, BY_SQL)
    result = project.run(*mode, env={"START_METHOD": method}).passed()
    assert "Ran 12 tests" in result.stderr
    assert "uses clone databases" not in result.output


_INSTALLED = "SELECT extname, extnamespace::regnamespace::text FROM pg_extension ORDER BY 1"


@pytest.mark.parametrize("mode", MODES[1:], ids=IDS[1:])
def test_extensions_in_the_project_s_own_database(project: Project, mode: tuple[str, ...]) -> None:
    """Those that are there are used, the others are there for the time of the run."""
    use_extensions(project, BY_DJANGO, BY_SQL)
    project.create_database()
    with project.host(project.name) as connection:
        connection.execute("CREATE EXTENSION citext; CREATE EXTENSION pg_trgm")
        connection.execute("CREATE TABLE library_author (name citext, likeness text)")
        before = digest(connection), connection.execute(_INSTALLED).fetchall()
    result = project.run(*mode, *CURRENT).passed()
    assert "Ran 12 tests" in result.stderr
    with project.host(project.name) as connection:
        after = digest(connection), connection.execute(_INSTALLED).fetchall()
    assert after == before
    project.drop_database()


CREATING = """
    import os
    import time
    from pathlib import Path
    from django.db.migrations.state import ProjectState
    from django.contrib.postgres.operations import CreateExtension
    from psycopg import sql


    def meet(place, me):
        '''Wait for the other worker, if there is one.'''
        folder = Path(place)
        folder.mkdir(exist_ok=True)
        (folder / me).touch()
        deadline = time.monotonic() + (10 if os.environ.get("WORKERS") else 0)
        while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)


    class RolledBack:
        def test_creates(self):
            meet("rolled back", type(self).__name__)
            with connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION earthdistance CASCADE")
                cursor.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier("ltree")))
                cursor.execute("SELECT ll_to_earth(0, 0) IS NULL, 'a.b'::ltree ~ 'a.*'::lquery")
                self.assertEqual(cursor.fetchone(), (False, True))


    class A(RolledBack, TestCase):
        pass


    class B(RolledBack, TestCase):
        pass


    class Committed:
        def test_creates(self):
            meet("committed", type(self).__name__)
            with connection.schema_editor() as editor:
                CreateExtension("isn").database_forwards("library", editor, None, ProjectState())
            with connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS seg")
                cursor.execute(
                    sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier("tcn"))
                )
                cursor.execute("CREATE TABLE pieces (piece seg, book isbn)")
                cursor.execute("INSERT INTO pieces VALUES ('1..2', '039304002X')")
                cursor.execute("SELECT count(*) FROM pieces")
                self.assertEqual(cursor.fetchone(), (1,))
                cursor.execute("DROP TABLE pieces")
                cursor.execute("SELECT FROM pg_extension WHERE extname IN ('isn', 'seg', 'tcn')")
                self.assertEqual(cursor.rowcount, 3)
                if os.environ.get("WORKERS"):
                    cursor.execute(
                        "SELECT FROM pg_extension WHERE extnamespace = 'public'::regnamespace"
                    )
                    self.assertEqual(cursor.rowcount, 3)


    class C(Committed, TransactionTestCase):
        pass


    class D(Committed, TransactionTestCase):
        pass
"""


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_tests_that_create_an_extension(project: Project, mode: tuple[str, ...]) -> None:
    """Two workers may do so at once, with and without IF NOT EXISTS, and find it afterwards."""
    project.tests(CREATING)
    project.run(*mode, env={"WORKERS": "2"} if "--parallel" in mode else {}).passed()


DROPPING = """
    from django.core.management import call_command
    from psycopg import sql


    class Unapplying(TransactionTestCase):
        def test_back_and_forth(self):
            call_command("migrate", "library", "0001", verbosity=0)
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_extension WHERE extname = 'hstore'")
                self.assertEqual(cursor.rowcount, 0)
            call_command("migrate", "library", verbosity=0)


    class Dropping(TestCase):
        def test_drop(self):
            statement = sql.SQL("DROP EXTENSION {} CASCADE").format(sql.Identifier("hstore"))
            with connection.cursor() as cursor:
                cursor.execute(statement)

        def test_drop_what_is_not_there(self):
            with connection.cursor() as cursor:
                cursor.execute("DROP EXTENSION IF EXISTS tablefunc, sslinfo")


    class Using(TransactionTestCase):
        def test_use(self):
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM library_book WHERE tags ? 'a'")
                self.assertEqual(cursor.fetchone(), (0,))


    class UsingToo(Using):
        pass
"""


@pytest.mark.parametrize(
    "mode", [*MODES, (*MODES[2], "--isolation", "database")], ids=[*IDS, "clones"]
)
def test_tests_that_drop_an_extension(project: Project, mode: tuple[str, ...]) -> None:
    """One worker may, as under stock; several share it, so there it is an error with a remedy."""
    project.migration(
        "0002_tags",
        "0001_initial",
        """
        __import__("django.contrib.postgres.operations", fromlist=["x"]).HStoreExtension(),
        migrations.RunSQL(
            "ALTER TABLE library_book ADD COLUMN tags hstore",
            "ALTER TABLE library_book DROP COLUMN tags",
        ),
        """,
    )
    project.tests(DROPPING)
    result = project.run(*mode)
    if mode != MODES[2]:
        result.passed()
        return
    assert result.code == 1
    assert "FAILED (errors=2)" in result.stderr
    assert result.stderr.count("An extension would be dropped that other workers use") == 2
    assert "--isolation database" in result.stderr
