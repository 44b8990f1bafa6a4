"""Interrupted and killed runs, and how the next run removes what they left."""

import signal
from pathlib import Path

import pytest

from schema_runner import embedded

from ..project import PARALLEL, SERIAL, Mode, Project, address, outcome, wait_for
from .waiting import WAITING, end, is_running, kill, wait_for_end, waiting


@pytest.fixture
def suite(project: Project) -> Project:
    project.tests(WAITING)
    return project


@pytest.mark.parametrize("suffix", ["", "_2"], ids=["host", "clone"])
def test_ctrl_c_while_creating_a_database_cleans_up(suite: Project, suffix: str) -> None:
    """Ctrl-C arrives after CREATE DATABASE and before the database has its marker."""
    suite.migration("0002_more", "0001_initial", 'migrations.RunSQL("CREATE SCHEMA extra")')
    settings = f"""
        from django.db.backends.postgresql.base import DatabaseWrapper
        from django.db.backends.postgresql.creation import DatabaseCreation

        class Interrupted(DatabaseCreation):
            def _execute_create_test_db(self, cursor, parameters, keepdb=False):
                super()._execute_create_test_db(cursor, parameters, keepdb)
                if parameters["dbname"] == '"{suite.test_name}{suffix}"':
                    raise KeyboardInterrupt

        DatabaseWrapper.creation_class = Interrupted
    """
    suite.configure(settings)
    result = suite.run(*PARALLEL)
    assert result.code != 0
    assert "KeyboardInterrupt" in result.stderr
    assert "lost" not in result.output


def test_the_next_run_removes_what_a_killed_one_left(suite: Project) -> None:
    """SIGKILL leaves no workers.

    The next run finds the schemas by marker, without a lease, and names them.
    """
    process = suite.start(*PARALLEL, env={"START_METHOD": "spawn"})
    workers = waiting(suite, 2)
    kill(process)
    wait_for_end([*workers])
    left = set(workers.values())
    assert left < set(suite.schemas())
    (suite.folder / "go").touch()
    result = suite.run(*PARALLEL).passed()
    assert all(schema in result.stdout for schema in left)


def test_a_run_killed_during_migrations_does_not_block_the_next(suite: Project) -> None:
    """The next run drops the half-built database, and ends the session that still works in it."""
    suite.write(
        "half.py",
        """
        from helpers import *

        def migrate(apps, editor):
            editor.execute("CREATE TABLE half_made ()")
            if os.environ.get("DIES"):
                # If it were left, the workers of the next run could not use schemas.
                editor.execute("CREATE SCHEMA audit")
                connection.connection.commit()
                editor.execute("ALTER TABLE library_book ADD n int")
                editor.execute("SELECT pg_sleep(600) /* busy */")
        """,
    )
    half = "migrations.RunPython(__import__('half').migrate)"
    suite.migration("0002_half", "0001_initial", half)
    process = suite.start(env={"DIES": "1"})
    with suite.maintenance() as maintenance:
        wait_for(lambda: is_running(maintenance, suite, "busy"), "the migration")
        kill(process)
        assert is_running(maintenance, suite, "busy")
    assert process.returncode == -signal.SIGKILL
    assert suite.databases() == [suite.test_name]
    with suite.host() as connection:
        connection.execute("SELECT FROM library_author; SELECT FROM half_made")
    (suite.folder / "go").touch()
    suite.run(*PARALLEL).passed()


def test_a_live_run_keeps_its_database(suite: Project) -> None:
    """Of two concurrent runs one is killed. The next run removes its database only."""
    live = suite.start(*PARALLEL)
    of_live = waiting(suite, 2)
    killed = suite.start(*PARALLEL)
    workers = waiting(suite, 4)
    both = suite.databases()
    assert len(both) == 2
    assert {line["database"] for line in suite.records("waits")} == {*both}
    kill(killed)
    wait_for_end([*workers.keys() - of_live.keys()])
    assert suite.databases() == both
    (suite.folder / "other").touch()
    result = suite.run(*PARALLEL, env={"GO": "other"}).passed()
    assert f"Removed leftovers of an earlier run: database {both[1]}, " in result.stdout
    assert suite.databases() == [suite.test_name]
    end(suite, live).passed()


def test_four_first_runs_at_once(suite: Project) -> None:
    """Four concurrent first runs of a project pass and leave nothing."""
    (suite.folder / "go").touch()
    for run in [suite.start(*PARALLEL, "--noinput") for _ in range(4)]:
        result = outcome(run).passed()
        assert "OK" in result.stderr
        assert "stays, for the next run" not in result.stdout


def test_a_session_of_another_user_does_not_fail_the_run(suite: Project) -> None:
    """The host database stays while another user is connected, and the next run removes it."""
    process = suite.start()
    waiting(suite, 1)
    with suite.host() as onlooker:
        assert "for the next run to remove" in end(suite, process).passed().stdout
        assert suite.schemas() == {}
        onlooker.execute("SELECT 1")
    suite.run().passed()


def test_a_transaction_left_open_by_a_test_does_not_hang_the_run(project: Project) -> None:
    """The session belongs to the run, so the runner ends it."""
    tests = """
        left_open = []

        class Leaves(TransactionTestCase):
            def test_leaves(self):
                other = connection.copy()
                other.ensure_connection()
                other.connection.autocommit = False
                other.connection.execute("LOCK TABLE library_book IN ACCESS SHARE MODE")
                left_open.append(other)

            def _fixture_teardown(self): pass
    """
    project.tests(tests)
    project.run().passed()


def test_connections_ended_by_a_test_do_not_hide_its_failure(project: Project) -> None:
    """Errors during tear-down are reported after the failures of the tests."""
    tests = """
        class Severs(TransactionTestCase):
            def test_fails_after_all_connections_were_ended(self):
                query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                self.fail("as planned")
    """
    project.tests(tests)
    project.run().failed("FAILED (failures=1)", "as planned")


@pytest.mark.parametrize("mode", [SERIAL, PARALLEL, ("--keepdb",)])
def test_a_server_that_stops_does_not_hide_the_failures(
    postgresql: embedded.EmbeddedServer, tmp_path: Path, mode: Mode
) -> None:
    """The exit code is that of the tests, and the output names what could not be dropped."""
    settings, cache = {"work_mem": "5MB", "fsync": False}, postgresql.data_dir.parent
    other = embedded.start(bin_dir=postgresql.bin_dir, settings=settings, cache_dir=cache)
    try:
        project = Project(tmp_path, address(other), "stopped")
        tests = f"""
            class Stops(SimpleTestCase):
                databases = {{"default"}}
                def test_fails_after_the_server_was_stopped(self):
                    pid = Path({str(other.data_dir / "postmaster.pid")!r})
                    os.kill(int(pid.read_text().split()[0]), signal.SIGINT)
                    while pid.exists():
                        pass
                    self.fail("as planned")

            class Another(SimpleTestCase):
                databases = {{"default"}}
                def test_passes(self): pass
        """
        project.tests(tests)
        result = project.run(*mode)
    finally:
        embedded.stop(other)
    # A worker may be creating its schema when the server stops.
    result.failed("FAILED (failures=1")
    assert "for the next run to remove" in result.stdout
    assert "Traceback (most recent call last)" not in result.stderr.partition("FAILED")[2]
