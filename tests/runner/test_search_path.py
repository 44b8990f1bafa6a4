"""Session settings that a test leaves behind do not affect later tests."""

import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db.backends.postgresql.base import DatabaseWrapper

from schema_runner import search_path_restore

from ..project import SERIAL, WITH_STOCK, Mode, Project, each_runner
from .decoys import DECOYS, unchanged
from .test_current import execute

pytestmark = pytest.mark.oldest

RESETS = ["selective", "reference", "django"]
# Tests change the connection's session, with and without commit, and in a thread that stays alive.
# Later tests need their tables and rows.
LEAVING = """
    from concurrent.futures import ThreadPoolExecutor

    from django.contrib.auth.models import Permission

    pool = ThreadPoolExecutor(1)
    made = 24

    def tearDownModule():
        pool.submit(lambda: connection.close()).result()

    class Committing(TransactionTestCase):
        serialized_rollback = True

        def test_1_path(self):
            Author.objects.create(name="a")
            query("SET search_path = public")
        def test_2_by_function(self):
            Author.objects.create(name="a")
            query("SELECT set_config('search_path', 'public', false)")
        @tag("session")
        def test_3_all_else(self):
            Author.objects.create(name="a")
            for setting in ("default_transaction_read_only = on", "row_security = off",
                            "ROLE pg_monitor"):
                query(f"SET {setting}")
        @tag("session")
        def test_4_session(self):
            query("CREATE TEMP TABLE auth_permission (id int)")
            query("SET SESSION AUTHORIZATION pg_monitor")
        def test_5_finds_its_rows(self):
            self.assertEqual(Author.objects.count(), 0)
            self.assertEqual(Permission.objects.count(), made)

    class InThread(TransactionTestCase):
        def test_it(self):
            pool.submit(query, "SET search_path = public").result()

    class Looking(SimpleTestCase):
        databases = {"default"}

        def test_1_leaves(self):
            query("SET search_path = public")
        def test_2_looks(self):
            self.assertEqual(Author.objects.count(), 0)

    class Setting(Looking):
        def test_3_sets(self):
            query("SET search_path = public")

        @classmethod
        def tearDownClass(cls):
            super().tearDownClass()
            query("SET search_path = public")

    class Thereafter(TransactionTestCase):
        def test_it(self):
            self.assertEqual(Author.objects.count(), 0)
            self.assertEqual(Permission.objects.count(), made)
            self.assertEqual(pool.submit(Author.objects.count).result(), 0)
"""


@pytest.mark.parametrize(
    ("mode", "reset"),
    [(WITH_STOCK, "django"), *((SERIAL, reset) for reset in RESETS)],
    ids=["stock", *RESETS],
)
def test_changed_sessions(project: Project, mode: Mode, reset: str) -> None:
    """Later tests pass although the search_path was left at `public`, and nothing is printed."""
    project.configure(f'SCHEMA_RUNNER = {{"RESET": "{reset}"}}')
    project.tests(LEAVING)
    # Stock Django's flush would fail.
    excluded = () if mode == SERIAL and reset != "django" else ("--exclude-tag", "session")
    result = project.run(*mode, *excluded).passed("Ran 1")
    assert "search_path" not in result.output


def test_a_pool_of_connections(project: Project) -> None:
    """A connection that a test returns to the pool may be used by the next one."""
    project.configure('DATABASES["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 3}}')
    project.tests(LEAVING)
    project.run("--exclude-tag", "session").passed("Ran 10 tests")


@pytest.mark.parametrize("reset", RESETS)
def test_changed_sessions_in_current_mode(project: Project, reset: str) -> None:
    """Rows of the project do not change, and a line names the tests."""
    project.configure(f'SCHEMA_RUNNER = {{"HOST_DATABASE": "current", "RESET": "{reset}"}}')
    project.tests(LEAVING)
    project.create_database()
    execute(project, DECOYS)
    table = "auth_permission (id serial, name text, codename text, content_type_id int)"
    execute(project, f"CREATE TABLE {table}; INSERT INTO auth_permission VALUES (1, 'mine')")
    excluded = ("--exclude-tag", "session") if reset == "django" else ()
    with unchanged(project):
        said = project.run(*excluded).passed().stdout
    told = re.findall(r"(\S+) changed the search_path", said)
    names = "Committing.test_1_path", "Committing.test_2_by_function", "InThread.test_it"
    more = "Looking.test_1_leaves", "Setting.test_1_leaves", "Setting.test_3_sets", "Setting"
    assert [name.removeprefix("library.test_generated.") for name in told] == [*names, *more]
    project.drop_database()


SETTINGS = """
    changed = {}
    def setUpModule():
        changed["test"] = dict(connection.settings_dict)

    class Changing(TransactionTestCase):
        def test_path(self):
            Author.objects.create(name="a")
            connection.settings_dict["OPTIONS"] = {"options": "-c search_path=public"}
            connection.close()
        def test_there_again(self):
            found = connection.settings_dict["OPTIONS"]["options"]
            self.assertEqual(found, "-c search_path=public")
            connection.settings_dict["OPTIONS"] = {}
            connection.close()

    class Thereafter(TransactionTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            connection.close()
            connection.settings_dict.update(changed["test"])
        def test_it(self):
            self.assertEqual(Author.objects.count(), 0)
"""


@pytest.mark.parametrize("reset", RESETS)
def test_changed_connection_settings(project: Project, reset: str) -> None:
    """Resets and flushes do not follow changed settings to the project's own tables."""
    project.configure(f'SCHEMA_RUNNER = {{"HOST_DATABASE": "current", "RESET": "{reset}"}}')
    project.tests(SETTINGS)
    project.create_database()
    execute(project, DECOYS)
    with unchanged(project):
        project.run("--order", "suite").passed("Ran 3 tests")
    project.drop_database()


DOUBLES = """
    from unittest import mock

    class Double(SimpleTestCase):
        databases = {"default"}
        double = object()

        @classmethod
        def tearDownClass(cls):
            connection.connection = cls.real
            connection.close()
            super().tearDownClass()
        def test_it(self):
            connection.ensure_connection()
            type(self).real = connection.connection
            connection.connection = self.double
    class Mock(Double):
        double = mock.MagicMock()

    class Thereafter(TransactionTestCase):
        def test_it(self):
            Author.objects.create(name="a")
"""


@each_runner
def test_mocked_connections(project: Project, mode: Mode) -> None:
    """A mock that a test put in place of psycopg's connection is left alone."""
    project.tests(DOUBLES)
    project.run(*mode).passed("Ran 3 tests")


def test_threads_that_connect_concurrently() -> None:
    """Threads that open connections do not disturb a thread that lists them all."""
    is_over = threading.Event()

    def connect() -> None:
        while not is_over.is_set():
            kept = [DatabaseWrapper({}) for _ in range(50)]
            for one in kept:
                search_path_restore.watch_connection(one)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as threads:
            ended = [threads.submit(connect) for _ in range(2)]
            try:
                for _ in range(300):
                    search_path_restore.open_backend_pids()
            finally:
                is_over.set()
    finally:
        sys.setswitchinterval(interval)
    assert [one.result() for one in ended] == [None, None]
