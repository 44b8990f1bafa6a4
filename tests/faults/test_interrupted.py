"""Runs that are broken off, and what the next one does about it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from schema_runner import embedded
from schema_runner.postgres import locks
from schema_runner.postgres.server import Server

from ..project import Project, wait_for

# Tests that tell where they are and stay there until a file appears, or for ever.
WAITING = """
    import os
    import time
    from pathlib import Path


    class Waiting:
        def test_waits(self):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT current_schema(), pg_backend_pid(), current_database()"
                )
                line = " ".join(map(str, cursor.fetchone()))
            Author.objects.create(name="here")
            here = Path("waiting")
            here.mkdir(exist_ok=True)
            part = here / f".{os.getpid()}"
            part.write_text(line)
            part.rename(here / str(os.getpid()))
            while not Path(os.environ.get("GO", "go")).exists():
                time.sleep(0.02)


    class A(Waiting, TestCase):
        pass


    class B(Waiting, TransactionTestCase):
        pass
"""
PARALLEL = ("--parallel", "2")


def waiting(project: Project, number: int) -> dict[int, str]:
    """Wait until so many processes are in a test; map them to their schemas."""
    folder = project.folder / "waiting"

    def ready() -> list[Path]:
        files = list(folder.glob("[0-9]*")) if folder.exists() else []
        return files if len(files) >= number else []

    files = wait_for(ready, f"{number} processes in a test")
    return {int(file.name): file.read_text().split()[0] for file in files}


def databases_of(files: Path) -> dict[str, str]:
    """Map the schemas in which processes wait to their databases."""
    words = [file.read_text().split() for file in files.glob("[0-9]*")]
    return {schema: database for schema, _, database in words}


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def end(project: Project, process: subprocess.Popen[str]) -> tuple[str, str]:
    """Let the tests go on and return the outputs of the run."""
    (project.folder / "go").touch()
    return process.communicate(timeout=60)


def interrupt_twice(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C twice, and once more only if nothing comes of it: two at once may be one."""
    for pause in (1, 30, 30):
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=pause)
        except subprocess.TimeoutExpired:
            continue
        break
    process.communicate(timeout=1)


@pytest.fixture
def suite(project: Project) -> Project:
    project.tests(WAITING)
    return project


@pytest.mark.parametrize("mode", [(), PARALLEL], ids=["serial", "parallel"])
def test_ctrl_c_ends_the_run_as_in_stock_django(suite: Project, mode: tuple[str, ...]) -> None:
    """The first finishes the tests under way, prints what has been run, and cleans up."""
    suite.tests(
        """
        class C(TransactionTestCase):
            def test_c(self):
                pass
        """,
        "test_more",
    )
    process = suite.start(*mode)
    workers = waiting(suite, 2 if mode else 1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = end(suite, process)
    assert process.returncode == 0, stderr
    assert f"Ran {len(workers)} test" in stderr
    assert suite.databases() == []
    wait_for(lambda: not any(map(is_alive, workers)), "the workers to end")


@pytest.mark.parametrize("mode", [(), PARALLEL], ids=["serial", "parallel"])
def test_ctrl_c_twice_ends_the_run_at_once(suite: Project, mode: tuple[str, ...]) -> None:
    """Though tests never end, the run does, and cleans up."""
    process = suite.start(*mode)
    workers = waiting(suite, 2 if mode else 1)
    interrupt_twice(process)
    assert suite.databases() == []
    wait_for(lambda: not any(map(is_alive, workers)), "the workers to end")


def test_ctrl_c_while_migrating_cleans_up(suite: Project) -> None:
    """The build is broken off, and what it had made is dropped."""
    suite.migration(
        "0002_slow",
        "0001_initial",
        "migrations.RunSQL('SELECT pg_sleep(600) /* migrating */')",
    )
    process = suite.start()
    with suite.maintenance() as connection:

        def migrating() -> bool:
            rows = connection.execute(
                "SELECT FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%migrating%%'",
                [suite.test_name],
            )
            return bool(rows.fetchall())

        wait_for(migrating, "the migration")
    # unittest's handler swallows the first one, as it does in stock Django.
    interrupt_twice(process)
    assert process.returncode != 0
    assert suite.databases() == []


@pytest.mark.parametrize("suffix", ["", "_2"], ids=["host", "clone"])
def test_ctrl_c_while_creating_a_database_cleans_up(suite: Project, suffix: str) -> None:
    """Though it comes once the database is there and before that has its marker."""
    suite.migration("0002_more", "0001_initial", 'migrations.RunSQL("CREATE SCHEMA extra")')
    suite.configure(
        f"""
        from django.db.backends.postgresql.creation import DatabaseCreation


        class Interrupted(DatabaseCreation):
            def _execute_create_test_db(self, cursor, parameters, keepdb=False):
                super()._execute_create_test_db(cursor, parameters, keepdb)
                if parameters["dbname"] == '"{suite.test_name}{suffix}"':
                    raise KeyboardInterrupt


        from django.db.backends.postgresql.base import DatabaseWrapper
        DatabaseWrapper.creation_class = Interrupted
        """
    )
    result = suite.run(*PARALLEL)
    assert result.code != 0
    assert "KeyboardInterrupt" in result.stderr
    assert "lost" not in result.output
    assert suite.databases() == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_end_when_the_run_is_killed(suite: Project, method: str) -> None:
    """kill -9 of the run leaves no process."""
    process = suite.start(*PARALLEL, env={"START_METHOD": method})
    workers = waiting(suite, 2)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not any(map(is_alive, workers)), "the workers to end")
    suite.drop_database(suite.test_name)


def test_the_next_run_removes_what_a_killed_one_left(suite: Project) -> None:
    """Its schemas are found by their marker, dead by their lease, and named."""
    process = suite.start(*PARALLEL)
    left = set(waiting(suite, 2).values())
    process.kill()
    process.communicate(timeout=60)
    assert left < set(suite.schemas())
    (suite.folder / "go").touch()
    result = suite.run(*PARALLEL).passed()
    assert all(schema in result.stdout for schema in left)
    assert suite.databases() == []


def test_a_run_killed_while_migrating_leaves_a_host_that_can_be_built_in(suite: Project) -> None:
    """The next build finds half a migration in `public`, and removes it."""
    suite.migration(
        "0002_slow",
        "0001_initial",
        """
        migrations.RunSQL("CREATE TABLE half_made ()"),
        migrations.RunPython(
            lambda apps, editor: __import__("os").environ.get("DIE")
            and (editor.connection.connection.commit(), __import__("os").kill(0, 9))
        ),
        """,
    )
    process = suite.start(env={"DIE": "1"})
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert suite.databases() == [suite.test_name]
    with suite.host() as connection:
        connection.execute("SELECT FROM library_author")
    (suite.folder / "go").touch()
    suite.run(*PARALLEL).passed()
    assert suite.databases() == []


def test_what_a_killed_run_was_doing_is_not_waited_for(suite: Project) -> None:
    """The server goes on with a statement whose client was killed; the next run ends it."""
    # The first is committed, and would be refused as a second worker's if it were still there.
    suite.migration("0002_audit", "0001_initial", "migrations.RunSQL('CREATE SCHEMA audit')")
    suite.migration(
        "0003_slow",
        "0002_audit",
        "migrations.RunSQL('ALTER TABLE library_book ADD n int; SELECT pg_sleep(600) /* busy */')",
    )
    process = suite.start()
    with suite.maintenance() as connection:
        busy = "SELECT FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%busy%%'"
        wait_for(lambda: connection.execute(busy, [suite.test_name]).fetchall(), "the migration")
        process.kill()
        process.communicate(timeout=60)
        assert connection.execute(busy, [suite.test_name]).fetchall()
    for name in ("0002_audit", "0003_slow"):
        (suite.folder / f"library/migrations/{name}.py").unlink()
    (suite.folder / "go").touch()
    suite.run(*PARALLEL).passed()
    assert suite.databases() == []


def test_a_live_run_keeps_its_database(suite: Project) -> None:
    """Of two runs at once one is killed; the next removes its database, and that alone."""
    live = suite.start(*PARALLEL)
    waiting(suite, 2)
    killed = suite.start(*PARALLEL)
    waiting(suite, 4)
    both = suite.databases()
    assert len(both) == 2
    assert set(databases_of(suite.folder / "waiting").values()) == set(both)
    killed.kill()
    killed.communicate(timeout=60)
    assert suite.databases() == both
    (suite.folder / "other").touch()
    result = suite.run(*PARALLEL, env={"GO": "other"}).passed()
    assert f"Removed what an earlier run left: database {both[1]}, " in result.stdout
    assert suite.databases() == [suite.test_name]
    stdout, stderr = end(suite, live)
    assert live.returncode == 0, stdout + stderr
    assert suite.databases() == []


def test_four_first_runs_at_once(suite: Project) -> None:
    """On a server that has never seen the project: all pass, and nothing is left."""
    (suite.folder / "go").touch()
    runs = [suite.start(*PARALLEL, "--noinput") for _ in range(4)]
    for run in runs:
        stdout, stderr = run.communicate(timeout=120)
        assert run.returncode == 0, stdout + stderr
        assert "OK" in stderr
        assert "stays, for the next run" not in stdout
    assert suite.databases() == []


def test_a_lost_lease_destroys_nothing_of_others(suite: Project) -> None:
    """A run whose connection was ended goes on, and leaves the database to the next."""
    process = suite.start(*PARALLEL)
    waiting(suite, 2)
    with suite.host() as connection:
        (run,) = {marker.run for marker in suite.schemas().values() if marker}
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'"
            " AND (classid::bigint << 32 | objid::bigint) = %s",
            [run],
        )
        with locks.held_if_free(connection, run) as free:
            assert free
    stdout, stderr = end(suite, process)
    assert process.returncode == 0, stdout + stderr
    assert "was lost" in stdout
    assert suite.databases() == [suite.test_name]
    suite.run().passed()
    assert suite.databases() == []


def test_a_session_of_somebody_else_does_not_fail_the_run(suite: Project) -> None:
    """Whoever looks into the host database keeps it; the next run removes it."""
    process = suite.start()
    waiting(suite, 1)
    with suite.host() as onlooker:
        stdout, stderr = end(suite, process)
        assert process.returncode == 0, stdout + stderr
        assert "stays, for the next run to remove" in stdout
        assert suite.schemas() == {}
        onlooker.execute("SELECT 1")
    suite.run().passed()
    assert suite.databases() == []


def test_a_transaction_left_open_by_a_test_does_not_hang_the_run(project: Project) -> None:
    """Its backend is one of the run's own, and is ended."""
    project.tests(
        """
        import psycopg
        left_open = []


        class Leaves(TransactionTestCase):
            def test_leaves(self):
                other = connection.copy()
                other.ensure_connection()
                raw = other.connection
                raw.autocommit = False
                raw.execute("LOCK TABLE library_book IN ACCESS SHARE MODE")
                left_open.append(other)

            def _fixture_teardown(self):
                pass
        """
    )
    project.run().passed()
    assert project.databases() == []


def test_connections_ended_by_a_test_do_not_hide_its_failure(project: Project) -> None:
    """What goes wrong while cleaning up is told, after what the tests found."""
    project.tests(
        """
        class Severs(TransactionTestCase):
            def test_fails_after_all_connections_were_ended(self):
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                self.fail("as planned")
        """
    )
    result = project.run()
    assert result.code == 1
    assert "FAILED (failures=1)" in result.stderr
    assert "as planned" in result.stderr
    project.drop_database(project.test_name)


@pytest.mark.parametrize(
    "mode", [(), PARALLEL, ("--keepdb",)], ids=["serial", "parallel", "keepdb"]
)
def test_a_server_that_stops_does_not_hide_the_failures(
    postgresql: embedded.Server, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    """The run ends as the tests have ended, and says what it had to leave."""
    other = embedded.start(
        bin_dir=postgresql.bin_dir,
        settings={"work_mem": "5MB", "fsync": False},
        cache_dir=postgresql.data_dir.parent,
    )
    try:
        server = Server(
            {"host": str(other.socket_dir), "port": other.port, "user": other.user, "dbname": "x"}
        )
        project = Project(tmp_path, server, "stopped")
        project.tests(
            f"""
            import os
            import signal
            from pathlib import Path


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

                def test_passes(self):
                    pass
            """
        )
        result = project.run(*mode)
    finally:
        embedded.stop(other)
    assert result.code == 1
    # A worker may be building its schema when the server goes.
    assert "FAILED (failures=1" in result.stderr
    assert "for the next run to remove" in result.stdout
    assert "Traceback (most recent call last)" not in result.stderr.partition("FAILED")[2]
