"""Runs that need a lock held by a stopped run, or by any other session."""

import os
import signal
from pathlib import Path

import pytest

from schema_runner.postgres import locks

from ..project import PARALLEL, Mode, Project, outcome, wait_for

TESTS = """
    class A(TestCase):
        def test_passes(self): Author.objects.create(name="here")
    class B(A): pass
"""
# Stops this process once, as Ctrl-Z does.
STOPPING = """
    import os, signal
    from pathlib import Path

    def stop(*_):
        if os.environ.get("STOPS") and not Path("stopped").exists():
            Path("stopped").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def suite(project: Project) -> Project:
    project.tests(TESTS)
    project.write("stopping.py", STOPPING)
    project.configure('SCHEMA_RUNNER = {"LOCK_TIMEOUT": 3}')
    return project


def is_stopped(project: Project) -> bool:
    file = project.folder / "stopped"
    process = file.read_text() if file.exists() else ""
    return bool(process) and ") T " in Path(f"/proc/{process}/stat").read_text()


def test_a_run_that_stops_while_it_creates_the_database(suite: Project) -> None:
    """The next run names the lock holder and gives up.

    The stopped run passes once it continues.
    """
    suite.configure(
        """
        from django.db.backends.postgresql.base import DatabaseWrapper
        from django.db.backends.postgresql.creation import DatabaseCreation
        from stopping import stop

        class Stopping(DatabaseCreation):
            def _execute_create_test_db(self, cursor, parameters, keepdb=False):
                super()._execute_create_test_db(cursor, parameters, keepdb)
                stop()

        DatabaseWrapper.creation_class = Stopping
        """
    )
    stopped = suite.start(env={"STOPS": "1"})
    wait_for(lambda: is_stopped(suite), "the run to be stopped")
    result = suite.run(*PARALLEL)
    os.kill(stopped.pid, signal.SIGCONT)
    name = f"the lock 'host database {suite.test_name}'"
    result.refused(f"Gave up waiting for {name} after 3 s: it is held by process ")
    assert f"Waiting for {name}, which is held by process " in result.stdout
    assert " run', connected since " in result.stdout
    outcome(stopped).passed()


@pytest.mark.parametrize("place", ["test", "current"])
def test_a_run_that_stops_while_it_builds_a_pool(suite: Project, place: str) -> None:
    """The next run waits until the builder makes no progress, then builds its own schemas."""
    operation = "migrations.RunPython(__import__('stopping').stop)"
    suite.migration("0002_stopping", "0001_initial", operation)
    if place == "current":
        suite.create_database()
    flags = ["--keepdb", "--host-database", place]
    stopped = suite.start(*flags, env={"STOPS": "1"})
    wait_for(lambda: is_stopped(suite), "the run to be stopped")
    result = suite.run(*flags)
    os.kill(stopped.pid, signal.SIGCONT)
    result.passed()
    assert "which is held by process " in result.stdout
    assert "This run builds the same schemas itself." in result.stdout
    outcome(stopped).passed()
    # A later run removes the pools of both.
    suite.run("--host-database", place, "--clear-pools").passed()
    if place == "current":
        assert suite.schemas(suite.name) == {}
        suite.drop_database(suite.name)


EXTENDING = """
    from schema_runner.postgres import locks
    from schema_runner.errors import LockTimeoutError

    class C(TestCase):
        def test_waits_for_extensions(self):
            with self.assertRaisesMessage(LockTimeoutError, "the lock 'extensions'"):
                query("CREATE EXTENSION IF NOT EXISTS plpgsql")
            Author.objects.create(name="after")
    class D(TestCase):
        def test_passes(self): pass
"""


@pytest.mark.parametrize("mode", [(), PARALLEL])
def test_a_session_that_holds_the_lock_of_extensions(suite: Project, mode: Mode) -> None:
    """Set-up waits for it, and so does a test, whose transaction remains usable."""
    suite.create_database()
    current = ("--host-database", "current")
    with suite.host(suite.name) as other:
        with locks.hold(other, locks.EXTENSIONS):
            result = suite.run(*mode, *current)
            result.refused("Gave up waiting for the lock 'extensions' after 3 s")
        suite.tests(
            EXTENDING.replace(
                "test_waits_for_extensions(self):",
                f"""test_waits_for_extensions(self):
            import psycopg
            other = psycopg.connect({other.info.dsn!r})
            self.addCleanup(other.close)
            other.execute("SELECT pg_advisory_lock({locks.EXTENSIONS})")""",
            )
        )
        result = suite.run(*mode, *current).passed()
    assert result.stdout.count("Waiting for the lock 'extensions', which is held by") == 1
    suite.drop_database(suite.name)
