"""The hint at the end of a run for tests that need their own database."""

import pytest

from ..project import PARALLEL, SERIAL, Mode, Project

# Each kind of failure has one class, or two that meet.
TESTS = """
    from helpers import FOLDER

    class CreatesSchema(TransactionTestCase):
        def test_it(self):
            meet()
            query("CREATE SCHEMA drafts")
            if "CLEANS" in os.environ: query("DROP SCHEMA drafts")
    class CreatesSchemaToo(CreatesSchema): pass

    class Publishes(TransactionTestCase):
        def test_it(self):
            meet()
            query("CREATE PUBLICATION news")
            if "CLEANS" in os.environ: query("DROP PUBLICATION news")
    class PublishesToo(Publishes): pass

    class Indexes(TransactionTestCase):
        def test_it(self):
            meet()
            wait_for("held")
            self.addCleanup((FOLDER / "built").touch)
            query("SET lock_timeout = '50ms'")
            self.addCleanup(query, "RESET lock_timeout")
            query("CREATE INDEX CONCURRENTLY by_title ON library_book (title)")
    class IndexesBeside(TransactionTestCase):
        def test_it(self):
            meet()
            with transaction.atomic():
                query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                query("SELECT count(*) FROM library_author")
                (FOLDER / "held").touch()
                wait_for("built")

    class Counts(TestCase):
        def test_it(self):
            meet()
            found = query("SELECT count(*) FROM pg_class WHERE relname = 'library_book'")
            self.assertEqual(found, [(1,)])
    class CountsToo(Counts): pass

    class NamesPublic(TestCase):
        def test_it(self): query("SELECT * FROM public.library_book")

    class LooksInPublic(TestCase):
        def test_it(self):
            tables = query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            self.assertIn(("library_book",), tables)

    class Plain(TestCase):
        def test_it(self):
            meet()
            with self.subTest(): self.assertEqual(Author.objects.count(), 1)
            query("SELECT 1 FROM other.nothing")
        def test_of_the_schema(self):
            self.assertEqual(query("SELECT 1 FROM pg_class WHERE relnamespace = 0"), [(1,)])
    @schema_runner.own_database
    class PlainToo(TransactionTestCase):
        def test_it(self):
            meet()
            query("CREATE SCHEMA drafts; CREATE SCHEMA drafts")
"""
# The error if both statements run at the same moment.
DUPLICATE = 'duplicate key value violates unique constraint "pg_{}_index"'
# Class, mode, and the possible errors.
CASES: dict[str, tuple[Mode, list[str]]] = {
    "CreatesSchema": (
        PARALLEL,
        ['schema "drafts" already exists', DUPLICATE.format("namespace_nspname")],
    ),
    "Publishes": (
        PARALLEL,
        ['publication "news" already exists', DUPLICATE.format("publication_pubname")],
    ),
    "Indexes": (PARALLEL, ["canceling statement due to lock timeout"]),
    "Counts": (PARALLEL, ["a query of pg_class without a schema"]),
    "NamesPublic": (SERIAL, ['relation "public.library_book" does not exist']),
    "LooksInPublic": (SERIAL, ["a query of pg_tables for schema public"]),
}
SAID = "Failed on something that belongs to the whole database "
WAY_OUT = (
    ". Give each of these classes its own database: put @schema_runner.own_database on it, or "
    'list it in SCHEMA_RUNNER["OWN_DATABASE"].\n'
)


@pytest.fixture
def failing(shared_project: Project) -> Project:
    shared_project.tests(TESTS)
    shared_project.forget()
    for file in ("held", "built"):
        (shared_project.folder / file).unlink(missing_ok=True)
    return shared_project


@pytest.mark.parametrize("name", CASES)
def test_the_hint_is_the_last_line(failing: Project, name: str) -> None:
    """The last line names the errors and the classes."""
    (mode, reasons), env = CASES[name], {"MEET": "2" if CASES[name][0] else "0"}
    said = failing.run(*mode, "-k", name, env=env).failed().stdout
    classes = f"library.test_generated.{name}"
    assert any(f"\n{SAID}({reason}): {classes}" in said for reason in reasons), said
    assert said.endswith(WAY_OUT)


def test_the_hint_helps(failing: Project) -> None:
    """With their own databases, all these classes pass together."""
    labels = [f"library.test_generated.{one}" for name in CASES for one in (name, f"{name}Too")]
    own = f"SCHEMA_RUNNER = {{'OWN_DATABASE': {labels}}}"
    failing.write("own.py", f"from settings import *\n{own}\n")
    names = [argument for name in CASES for argument in ("-k", name)]
    failing.run(*PARALLEL, *names, "--settings", "own", env={"MEET": "2", "CLEANS": "1"}).passed(
        "Ran 10 tests"
    )


@pytest.mark.parametrize("mode", [PARALLEL, (*PARALLEL, "--isolation", "database")])
def test_no_hint_if_it_would_not_help(failing: Project, mode: Mode) -> None:
    """Not for other failures, for classes with their own database, or for clone databases."""
    names = ["-k", "Plain"] if mode == PARALLEL else ["-k", "Plain", "-k", "LooksInPublic"]
    said = failing.run(*mode, *names, env={"MEET": "2"}).failed("already exists").stdout
    assert SAID not in said


def test_the_hint_in_the_own_database_of_the_project(failing: Project) -> None:
    """With `current`, no database may be created, so the line suggests something else."""
    failing.create_database()
    arguments = (*PARALLEL, "--host-database", "current", "-k", "CreatesSchema")
    said = failing.run(*arguments, env={"MEET": "2"}).failed().stdout
    assert "Run these classes alone with @schema_runner.serial, or give each its own " in said
    failing.drop_database()
