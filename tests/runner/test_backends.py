"""Third-party database backends."""

import pytest

from ..project import PARALLEL, WITH_STOCK, Mode, Project, each_runner
from .test_keepdb import count

# Like django-tenants and django-pgschemas: each cursor sets the search_path of the tenant, and the
# instance replaces its introspection.
BACKEND = """
    from django.db.backends.postgresql import base
    from django.db.backends.postgresql.introspection import DatabaseIntrospection

    class Introspection(DatabaseIntrospection):
        is_of_tenants = True

    class DatabaseWrapper(base.DatabaseWrapper):
        tenant = "public"

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.introspection = Introspection(self)

        def _cursor(self, name=None):
            cursor = super()._cursor(name)
            if name is None:
                cursor.execute(f"SET search_path = {self.tenant}, public")
            return cursor
"""
TESTS = """
    class OfTenant(TransactionTestCase):
        '''Stock Django's flush follows the search_path, so it clears the tenant's tables.'''
        def setUp(self):
            with transaction.atomic():
                query("CREATE SCHEMA IF NOT EXISTS tenant")
                query("CREATE TABLE IF NOT EXISTS tenant.library_author"
                      " (LIKE public.library_author INCLUDING ALL)")
            Author.objects.create(name="of all")
            connection.tenant = "tenant"
        def test_rows(self):
            self.assertTrue(connection.introspection.is_of_tenants)
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="of a tenant")
        def _fixture_teardown(self):
            super()._fixture_teardown()
            self.assertEqual(Author.objects.count(), 0)
            connection.tenant = "public"
            self.assertEqual([author.name for author in Author.objects.all()], ["of all"])
            super()._fixture_teardown()
        test_again = test_rows
    class Committing(TransactionTestCase):
        def test_rows(self):
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="committed")
            if worker := schema_runner.current_worker():
                self.assertEqual(worker.schema, "public")
        test_again = test_rows
    class Plain(TestCase):
        def test_rows(self):
            meet()
            self.assertEqual(Author.objects.count(), 0)
            self.assertEqual(connection.introspection.table_names().count("library_author"), 1)
    class Alike(Plain): pass
"""
WHY = "because the database backend tenants sets the search_path itself"


@pytest.fixture
def tenants(project: Project) -> Project:
    project.write("tenants/base.py", BACKEND)
    project.configure('DATABASES["default"]["ENGINE"] = "tenants"')
    project.tests(TESTS)
    return project


@pytest.mark.versions
@each_runner
def test_a_backend_that_sets_the_search_path(tenants: Project, mode: Mode) -> None:
    """Workers get clone databases, one line says why, and all else is as in stock Django."""
    result = tenants.run(*mode, env={"MEET": "2" if mode == PARALLEL else "1"}).passed()
    assert result.stdout.count(WHY) == (mode != WITH_STOCK)


def test_snapshots_of_a_backend_that_sets_the_search_path(tenants: Project) -> None:
    counting = "migrations.RunPython(lambda *_: __import__('helpers').times('migrated'))"
    tenants.migration("0002_counting", "0001_initial", counting)
    for _ in range(2):
        result = tenants.run(*PARALLEL, "--snapshot-dir", "snapshots", env={"MEET": "2"}).passed()
        assert result.stdout.count(WHY) == 1
        assert "Warning" not in result.output
    assert count(tenants) == 1


def test_a_backend_that_sets_the_search_path_in_current_mode(tenants: Project) -> None:
    tenants.create_database()
    result = tenants.run("--host-database", "current")
    tenants.drop_database()
    result.refused(f"{WHY}. Use --host-database test")
