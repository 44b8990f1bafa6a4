"""Advisory locks of different workers do not exclude each other."""

import pytest

from ..project import METHODS, PARALLEL, SERIAL, WITH_STOCK, Mode, Project
from .recording import TOGETHER

pytestmark = pytest.mark.oldest

FUNCTION = """
    migrations.RunSQL(
        '''CREATE FUNCTION take(key bigint) RETURNS boolean LANGUAGE plpgsql AS $$
           BEGIN
               PERFORM pg_advisory_lock(key);
               RETURN pg_try_advisory_xact_lock(key);
           END $$'''
    ),
"""
KEYS = """
    from contextlib import closing
    from helpers.elsewhere import in_a_thread

    class Keys:
        def setUp(self):
            query("SET lock_timeout = '30s'")
            self.addCleanup(connection.close)
            # The server releases the locks of a session a moment after it is closed.
            self.addCleanup(query, "SELECT pg_advisory_unlock_all()")
        def meet(self): meet(self._testMethodName)
        def assert_true(self, call, *parameters):
            self.assertTrue(query(f"SELECT {call}", *parameters)[0][0], call)
        def assert_excluded(self, *calls, expected=True):
            # On another thread's connection, which belongs to the same worker.
            def try_each():
                try:
                    return [query(f"SELECT {call}")[0][0] for call in calls]
                finally:
                    query("SELECT pg_advisory_unlock_all()")
            found = in_a_thread(try_each)
            self.assertEqual(found, [not expected] * len(calls))
        def test_session(self):
            all_keys = ("1", "-1", "9223372036854775807", "1, 2", "-1, 2147483647")
            for keys in all_keys:
                query(f"SELECT pg_advisory_lock({keys})")
            query("SELECT pg_advisory_lock_shared(4), pg_advisory_lock_shared(4, 5)")
            self.meet()
            for keys in all_keys:
                self.assert_excluded(f"pg_try_advisory_lock({keys})")
                self.assert_true(f"pg_advisory_unlock({keys})")
            self.assert_excluded("pg_try_advisory_lock_shared(4)", expected=False)
            self.assert_excluded("pg_try_advisory_lock(4)", "pg_try_advisory_lock(4, 5)")
            self.assert_true("pg_advisory_unlock_shared(4)")
            query("SELECT pg_advisory_unlock_all()")
            self.assert_excluded("pg_try_advisory_lock(4, 5)", expected=False)

        def test_try(self):
            self.assert_true("pg_try_advisory_lock(%s)", 1)
            self.assert_true("pg_try_advisory_lock(%s, %s)", 1, 2)
            self.assert_true("pg_try_advisory_lock_shared(3)")
            self.meet()
            self.assert_excluded(
                "pg_try_advisory_lock(1)",
                "pg_try_advisory_lock_shared(1, 2)",
                "pg_try_advisory_xact_lock(3)",
            )

        def test_transaction(self):
            with transaction.atomic():
                query("SELECT pg_advisory_xact_lock(1), pg_advisory_xact_lock(1, 2)")
                query("SELECT pg_try_advisory_xact_lock_shared(3)")
                self.meet()
                for keys in ("1", "1, 2", "3"):
                    self.assert_excluded(f"pg_try_advisory_lock({keys})")
            self.assert_excluded("pg_try_advisory_lock(1)", expected=False)

        def test_function_of_a_migration(self):
            self.assert_true("take(%s)", 7)
            self.meet()
            self.assert_excluded("pg_try_advisory_lock(7)")
            self.assert_true("pg_advisory_unlock(7)")

        def test_raw_query_and_copy(self):
            author = Author.objects.create(name="a")
            with closing(connection.copy()) as other, other.cursor() as cursor:
                locking = "SELECT id, pg_advisory_lock(%s) FROM library_author"
                list(Author.objects.raw(locking, [8]))
                self.meet()
                cursor.execute("SELECT pg_try_advisory_lock(8)")
                self.assertEqual(cursor.fetchone(), (False,))
                extra = Author.objects.extra(select={"free": "pg_advisory_unlock(8)"})
                self.assertTrue(extra.get(pk=author.pk).free)
                cursor.execute("SELECT pg_try_advisory_lock(8)")
                self.assertEqual(cursor.fetchone(), (True,))

        def test_query_counts_do_not_change(self):
            with self.assertNumQueries(2):
                query("SELECT pg_advisory_lock(1)")
                query("SELECT pg_advisory_unlock(1)")
    class First(Keys, TransactionTestCase): pass
    class Second(Keys, TransactionTestCase): pass
"""


# Two workers run one class each, and wait for each other in the middle of each test.
RUNS = {
    "stock": (WITH_STOCK, {}),
    "stock-parallel": ((*WITH_STOCK, *PARALLEL), TOGETHER),
    "serial": (SERIAL, {}),
    **{method: (PARALLEL, {"START_METHOD": method, **TOGETHER}) for method in METHODS},
}


@pytest.mark.parametrize(("mode", "env"), RUNS.values(), ids=RUNS)
def test_the_same_keys_at_the_same_time(project: Project, mode: Mode, env: dict[str, str]) -> None:
    """Workers hold the same keys concurrently. Within a worker, locks exclude as usual."""
    project.migration("0002_take", "0001_initial", FUNCTION)
    project.tests(KEYS)
    project.run(*mode, env=env).passed()


# Both workers try the same lock, and keep it until both have tried.
SHARING = """
    class First(TransactionTestCase):
        def test_one_key(self):
            lock = "SELECT pg_try_advisory_lock(9), current_setting('search_path')"
            ((got, path),) = query(lock)
            self.addCleanup(connection.close)
            meet()
            record("told", got=got, rest=path.partition(",")[2].strip())

        def test_names(self):
            found = query("SELECT CAST('2026-01-31' AS date)::text, lower('A')")
            self.assertEqual(found, [("2026-01-31", "a")])
            if query("SELECT to_regclass('date')") != [(None,)]:
                self.assertEqual(query("SELECT day FROM date"), [("first",)])
    class Second(First): pass
"""
COLLIDING = """
    migrations.RunSQL(
        '''CREATE TABLE date (day text, point point);
           CREATE FUNCTION lower(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
           INSERT INTO date (day) VALUES ('first')'''
    ),
"""


def assert_shared(project: Project) -> None:
    """Check that only one worker got the lock, and that shims are not on the search_path."""
    told = [(line["got"], line["rest"]) for line in project.records("told")]
    assert sorted(told) == [(False, "public"), (True, "public")]


def test_switched_off(project: Project) -> None:
    """Without ISOLATE_ADVISORY_LOCKS, workers exclude each other."""
    project.configure('SCHEMA_RUNNER = {"ISOLATE_ADVISORY_LOCKS": False}')
    project.tests(SHARING)
    project.run(*PARALLEL, env=TOGETHER).passed()
    assert_shared(project)


def test_names_of_catalog_types_and_functions(project: Project) -> None:
    """`date` remains both the type and the project's table.

    One line says that locks are shared.
    """
    project.migration("0002_date", "0001_initial", COLLIDING)
    project.tests(SHARING)
    for mode in (WITH_STOCK, SERIAL):
        project.run(*mode).passed()
    project.forget()
    result = project.run(*PARALLEL, env=TOGETHER).passed()
    assert_shared(project)
    (line,) = [line for line in result.stdout.splitlines() if "share advisory locks" in line]
    assert "function lower(text), type date" in line
