"""Tests that commit cost what they have dirtied, and leave what stock Django's flush leaves."""

import pytest

from ..project import STOCK, Project

MODES = [(), ("--parallel", "2")]


@pytest.mark.parametrize("mode", MODES)
def test_committed_rows_are_gone(project: Project, mode: tuple[str, ...]) -> None:
    """After each test, as after stock's flush; what post_migrate makes is there."""
    project.tests(
        """
        from django.contrib.contenttypes.models import ContentType
        from django.contrib.auth.models import Permission


        class Committed(TransactionTestCase):
            def check(self):
                self.assertEqual(Author.objects.count(), 0)
                self.assertEqual(ContentType.objects.get_for_model(Author).pk,
                                 ContentType.objects.get(model="author").pk)
                self.assertEqual(ContentType.objects.count(), 6)
                self.assertEqual(Permission.objects.count(), 24)
                Book.objects.create(title="x", author=Author.objects.create(name="same"))
                Permission.objects.first().delete()

            def test_a(self):
                self.check()

            def test_b(self):
                self.check()

            def test_c(self):
                self.check()


        class Other(Committed):
            pass
        """
    )
    project.run(*mode, "--testrunner", STOCK).passed()
    project.run(*mode).passed()


SEEDED = """
    SCHEMA_RUNNER = {{"FIXTURES": ["authors"], "SEEDERS": ["library.seeds.seed"], "RESET": {!r}}}
"""


@pytest.fixture
def seeded(project: Project) -> Project:
    """A project with rows of a migration, of a fixture and of a seeder; one refers to another."""
    project.migration(
        "0002_rows",
        "0001_initial",
        """
        migrations.RunPython(
            lambda apps, editor: [
                apps.get_model("library", "Author").objects.create(name=name)
                for name in ("migrated", "needed")
            ]
        )
        """,
    )
    project.write(
        "library/fixtures/authors.json",
        '[{"model": "library.author", "pk": 70, "fields": {"name": "from a fixture"}}]',
    )
    project.write(
        "library/seeds.py",
        """
        from library.models import Author, Book


        def seed(using):
            author = Author.objects.using(using).get(name="needed")
            Book.objects.using(using).create(id=20, title="from a seeder", author=author)
        """,
    )
    return project


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("reset", "left"),
    [
        ("selective", ["from a fixture", "needed"]),
        ("reference", ["from a fixture", "migrated", "needed"]),
        ("django", []),
    ],
)
def test_reference_data_survives(
    seeded: Project, mode: tuple[str, ...], reset: str, left: list[str]
) -> None:
    """Rows of FIXTURES and SEEDERS, and those they refer to; with "reference" all there were."""
    seeded.configure(SEEDED.format(reset))
    seeded.tests(
        f"""
        class Committed(TransactionTestCase):
            def check(self):
                if hasattr(type(self), "is_second"):
                    names = sorted(Author.objects.values_list("name", flat=True))
                    self.assertEqual(names, {left!r})
                    titles = list(Book.objects.values_list("title", "author__name"))
                    self.assertEqual(titles, [("from a seeder", "needed")] if names else [])
                type(self).is_second = True
                Author.objects.all().delete()
                Author.objects.create(id=70, name="same key")

            def test_a(self):
                self.check()

            def test_b(self):
                self.check()

            def test_c(self):
                self.check()
        """
    )
    seeded.run(*mode).passed()


def test_an_altered_structure_is_replaced(project: Project) -> None:
    """Before the next class, by a fresh schema of the same name in the state after a flush."""
    project.tests(
        """
        import schema_runner


        class A(TransactionTestCase):
            def test_alter(self):
                Author.objects.create(name="x")
                with connection.schema_editor() as editor:
                    editor.execute("ALTER TABLE library_book RENAME title TO heading")
                type(self).schema = schema_runner.current_worker().schema

            def test_it_stays_within_the_class(self):
                with self.assertRaises(Exception):
                    Book.objects.create(title="x", author=Author.objects.create(name="x"))


        class B(TransactionTestCase):
            def test_fresh(self):
                self.assertEqual(Author.objects.count(), 0)
                Book.objects.create(title="x", author=Author.objects.create(name="x"))
        """
    )
    project.run("--parallel", "2", "--keepdb").passed()
    project.run("--keepdb").passed()
    project.run().passed if False else None
    project.drop_database(project.test_name)


def test_a_connection_left_in_a_transaction_is_ended(project: Project) -> None:
    """And the test that left it is named; the run goes on."""
    project.tests(
        """
        import threading
        from library.models import Author

        class A(TransactionTestCase):
            def test_leave(self):
                def insert():
                    connection.set_autocommit(False)
                    Author.objects.create(name="left")
                    kept.append(connection.connection)
                    connection.connection = None

                kept = type(self).kept = []
                thread = threading.Thread(target=insert)
                thread.start()
                thread.join()
                Author.objects.create(name="x")

            def test_next(self):
                self.assertEqual(Author.objects.count(), 0)
                Author.objects.create(name="left")
        """
    )
    for mode in MODES:
        result = project.run(*mode, "library.test_generated.A").passed()
        assert "library.test_generated.A.test_leave left a connection idle" in result.output
