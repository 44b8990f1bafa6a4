"""Advisory locks keep apart what one worker does, and leave the other workers alone."""

import pytest

from ..project import STOCK, Project

pytestmark = pytest.mark.oldest

MODES = [("--testrunner", STOCK), (), ("--parallel", "2")]
IDS = ["stock", "serial", "parallel"]
STOCK_PARALLEL = ("--testrunner", STOCK, "--parallel", "2")

FUNCTION = """
    migrations.RunSQL(
        '''CREATE FUNCTION take(key bigint) RETURNS boolean LANGUAGE plpgsql AS $$
           BEGIN
               PERFORM pg_advisory_lock(key);
               RETURN pg_try_advisory_xact_lock(key);
           END $$'''
    ),
"""
# In --parallel 2 each of the two workers has one of the two classes, and waits in the middle
# of each test until the other one has come as far.
MEETING = """
    import os
    import threading
    import time
    from pathlib import Path
    from django.db import transaction

    GIVING_UP = "30s"


    class Meeting(TransactionTestCase):
        databases = {"default"}

        def meet(self):
            if not os.environ.get("MEET"):
                return
            here = f"{self._testMethodName}.met."
            Path(here + type(self).__name__).touch()
            deadline = time.monotonic() + 30
            while len(list(Path().glob(here + "*"))) < 2:
                assert time.monotonic() < deadline, "the other worker did not come"
                time.sleep(0.005)

        def value(self, cursor, query, params=None):
            cursor.execute(query, params)
            return cursor.fetchone()[0]

        def excluded(self, call):
            '''Ask in a connection of another thread, which is a worker's own as well.'''
            found = []

            def ask():
                with connection.cursor() as cursor:
                    found.append(self.value(cursor, f"SELECT {call}"))
                connection.close()

            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            return found == [False]

        def setUp(self):
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{GIVING_UP}'")
            self.addCleanup(connection.close)


    class Base:
        def test_session(self):
            with connection.cursor() as cursor:
                for keys in ("1", "-1", "9223372036854775807", "1, 2", "-1, 2147483647"):
                    cursor.execute(f"SELECT pg_advisory_lock({keys})")
                cursor.execute("SELECT pg_advisory_lock_shared(4), pg_advisory_lock_shared(4, 5)")
                self.meet()
                for keys in ("1", "-1", "9223372036854775807", "1, 2", "-1, 2147483647"):
                    self.assertTrue(self.excluded(f"pg_try_advisory_lock({keys})"))
                    self.assertTrue(self.value(cursor, f"SELECT pg_advisory_unlock({keys})"))
                self.assertFalse(self.excluded("pg_try_advisory_lock_shared(4)"))
                self.assertTrue(self.excluded("pg_try_advisory_lock(4)"))
                self.assertTrue(self.excluded("pg_try_advisory_lock(4, 5)"))
                self.assertTrue(self.value(cursor, "SELECT pg_advisory_unlock_shared(4)"))
                cursor.execute("SELECT pg_advisory_unlock_all()")
                self.assertFalse(self.excluded("pg_try_advisory_lock(4, 5)"))

        def test_try(self):
            with connection.cursor() as cursor:
                self.assertTrue(self.value(cursor, "SELECT pg_try_advisory_lock(%s)", [1]))
                self.assertTrue(self.value(cursor, "SELECT pg_try_advisory_lock(%s, %s)", [1, 2]))
                self.assertTrue(self.value(cursor, "SELECT pg_try_advisory_lock_shared(3)"))
                self.meet()
                self.assertTrue(self.excluded("pg_try_advisory_lock(1)"))
                self.assertTrue(self.excluded("pg_try_advisory_lock_shared(1, 2)"))
                self.assertTrue(self.excluded("pg_try_advisory_xact_lock(3)"))

        def test_transaction(self):
            with connection.cursor() as cursor:
                with transaction.atomic():
                    cursor.execute("SELECT pg_advisory_xact_lock(1), pg_advisory_xact_lock(1, 2)")
                    cursor.execute("SELECT pg_try_advisory_xact_lock_shared(3)")
                    self.meet()
                    self.assertTrue(self.excluded("pg_try_advisory_lock(1)"))
                    self.assertTrue(self.excluded("pg_try_advisory_lock(1, 2)"))
                    self.assertTrue(self.excluded("pg_try_advisory_lock(3)"))
                self.assertFalse(self.excluded("pg_try_advisory_lock(1)"))

        def test_function_of_a_migration(self):
            with connection.cursor() as cursor:
                self.assertTrue(self.value(cursor, "SELECT take(%s)", [7]))
                self.meet()
                self.assertTrue(self.excluded("pg_try_advisory_lock(7)"))
                self.assertTrue(self.value(cursor, "SELECT pg_advisory_unlock(7)"))

        def test_raw_query_and_copy(self):
            author = Author.objects.create(name="a")
            other = connection.copy()
            self.addCleanup(other.close)
            with other.cursor() as cursor:
                query = "SELECT id, pg_advisory_lock(%s) FROM library_author"
                list(Author.objects.raw(query, [8]))
                self.meet()
                self.assertFalse(self.value(cursor, "SELECT pg_try_advisory_lock(8)"))
                extra = Author.objects.extra(select={"free": "pg_advisory_unlock(8)"})
                self.assertTrue(extra.get(pk=author.pk).free)
                self.assertTrue(self.value(cursor, "SELECT pg_try_advisory_lock(8)"))

        def test_queries_are_counted_as_ever(self):
            with self.assertNumQueries(2), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(1)")
                cursor.execute("SELECT pg_advisory_unlock(1)")


    class First(Base, Meeting):
        pass


    class Second(Base, Meeting):
        pass
"""


def outcome(project: Project, mode: tuple[str, ...], **env: str) -> None:
    if "--parallel" in mode:
        env["MEET"] = "1"
    project.run(*mode, env=env).passed()
    for met in project.folder.glob("*.met.*"):
        met.unlink()


@pytest.mark.parametrize("mode", [*MODES, STOCK_PARALLEL], ids=[*IDS, "stock-parallel"])
def test_the_same_keys_at_the_same_time(project: Project, mode: tuple[str, ...]) -> None:
    """Workers hold them side by side; within a worker, they exclude as they do in PostgreSQL."""
    project.migration("0002_take", "0001_initial", FUNCTION)
    project.tests(MEETING)
    outcome(project, mode)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_methods(project: Project, method: str) -> None:
    """Workers that were not forked have the same locks."""
    project.migration("0002_take", "0001_initial", FUNCTION)
    project.tests(MEETING)
    outcome(project, MODES[2], START_METHOD=method)


# Tries the same lock in both workers, neither of which lets go before both have tried.
SHARING = (
    MEETING.partition("    class Base:")[0]
    + """
    class Sharing(Meeting):
        def test_one_key(self):
            with connection.cursor() as cursor:
                path = self.value(cursor, "SHOW search_path")
                got = self.value(cursor, "SELECT pg_try_advisory_lock(9)")
                self.meet()
                Path(f"{type(self).__name__}.told").write_text(f"{got} {path}")

        def test_names(self):
            with connection.cursor() as cursor:
                query = "SELECT CAST('2026-01-31' AS date)::text || ',' || lower('A')"
                self.assertEqual(self.value(cursor, query), "2026-01-31,a")
                if self.value(cursor, "SELECT to_regclass('date') IS NOT NULL"):
                    self.assertEqual(self.value(cursor, "SELECT day FROM date"), "first")


    class First(Sharing):
        pass


    class Second(Sharing):
        pass


    del Meeting, Sharing
"""
)
COLLIDING = """
    migrations.RunSQL(
        '''CREATE TABLE date (day text, point point);
           CREATE FUNCTION lower(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
           INSERT INTO date (day) VALUES ('first')'''
    ),
"""


def told(project: Project) -> tuple[list[str], str]:
    """Return which workers got the lock, and what follows the schema on their search_path."""
    lines = [path.read_text().partition(" ") for path in sorted(project.folder.glob("*.told"))]
    (rest,) = {path.partition(",")[2].strip() for _, _, path in lines}
    return sorted(got for got, _, _ in lines), rest


def test_switched_off(project: Project) -> None:
    """Workers exclude each other then, and nothing of ours is on the search_path."""
    project.configure('SCHEMA_RUNNER = {"ISOLATE_ADVISORY_LOCKS": False}')
    project.tests(SHARING)
    outcome(project, MODES[2])
    assert told(project) == (["False", "True"], "public")


def test_names_that_are_postgresql_s_own(project: Project) -> None:
    """`date` stays the server's type and the project's table; one line says what this costs."""
    project.migration("0002_date", "0001_initial", COLLIDING)
    project.tests(SHARING)
    for mode in MODES:
        outcome(project, mode)
    assert told(project) == (["False", "True"], "public")
    result = project.run("--parallel", "2").passed()
    (line,) = [line for line in result.stdout.splitlines() if "share advisory locks" in line]
    assert "function lower(text), type date" in line
