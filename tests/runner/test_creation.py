"""Tests that create test databases with `connection.creation`, as in stock Django."""

from ..project import Mode, Project, each_runner

TESTS = """
    from unittest import mock

    class Creating(TransactionTestCase):
        def test_a_creates(self):
            Author.objects.create(name="outer")
            creation, name = connection.creation, connection.settings_dict["NAME"]
            made = creation.create_test_db(verbosity=0, autoclobber=True)
            try:
                record("made", name=made)
                self.assertEqual(made, f"test_{name}" if "--parallel" not in sys.argv else made)
                (found,) = query("SELECT current_database(), to_regclass('public.library_author'),"
                                 " current_schemas(false)")
                self.assertEqual(found, (made, "library_author", ["public"]))
                self.assertEqual(Author.objects.count(), 0)
                Author.objects.create(name="inner")
            finally:
                creation.destroy_test_db(name, verbosity=0)
            self.assertEqual(connection.settings_dict["NAME"], name)
            self.assertEqual(Author.objects.get().name, "outer")

        def test_b_is_reset(self): self.assertEqual(Author.objects.count(), 0)

        def test_c_mocked(self):
            # Stock Django's calls to the server are mocked, so nothing is left to do.
            name = connection.settings_dict["NAME"]
            with (
                mock.patch.object(connection, "ensure_connection"),
                mock.patch.object(connection.creation, "_create_test_db"),
                mock.patch.object(connection.creation, "_destroy_test_db"),
                mock.patch("django.core.management.call_command"),
                mock.patch("psycopg.connect", side_effect=AssertionError("connects")),
            ):
                connection.creation.create_test_db(verbosity=0, autoclobber=True)
                connection.creation.destroy_test_db(name, verbosity=0)
            self.assertEqual(Author.objects.count(), 0)
    class CreatingToo(Creating): pass
"""


@each_runner
def test_a_test_that_creates_a_database(project: Project, mode: Mode) -> None:
    """The test gets a plain database, and its own schema again afterwards."""
    project.tests(TESTS)
    project.run(*mode).passed("Ran 6 tests")
    made = {line["name"] for line in project.records("made")}
    assert len(made) == (2 if "--parallel" in mode else 1)
