"""Runs whose lease connection is lost."""

import os
import subprocess
from pathlib import Path

import pytest

from schema_runner import embedded

from ..project import PARALLEL, SERIAL, Mode, Project, address, each_mode, outcome, wait_for
from .waiting import WAITING, end, waiting

# These tests have no open transaction, so that nothing waits for them.
IDLE = """
    class Waiting(SimpleTestCase):
        databases = {"default"}
        def test_waits(self):
            record("waits", schema=query("SELECT current_schema()")[0][0])
            connection.close()
            wait_for("go")
    class A(Waiting): pass
    class B(Waiting): pass
    del Waiting
"""
_LEASES = """
    SELECT l.pid FROM pg_locks l JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND application_name =
          format('django-schema-runner %s run', (classid::bigint << 32) + objid::bigint)
"""
RECOVERED = "It was reopened, and nothing is missing."


def leases(project: Project) -> set[int]:
    """Return the ids of the sessions that hold a run's lease."""
    with project.maintenance() as maintenance:
        return {pid for (pid,) in maintenance.execute(_LEASES)}


def end_lease(project: Project) -> int:
    with project.maintenance() as maintenance:
        (pid,) = leases(project)
        maintenance.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    return pid


@pytest.mark.parametrize(
    ("mode", "place"),
    [
        (SERIAL, "test"),
        (PARALLEL, "test"),
        (SERIAL, "current"),
        (PARALLEL, "current"),
        (PARALLEL, "clones"),
        ((*PARALLEL, "--keepdb"), "test"),
    ],
)
def test_a_lost_lease_is_taken_again(project: Project, mode: Mode, place: str) -> None:
    """A concurrent run leaves everything alone, and no test of either run is lost."""
    project.tests(WAITING)
    if place == "clones":
        project.migration("0002_more", "0001_initial", 'migrations.RunSQL("CREATE SCHEMA extra")')
    elif place == "current":
        project.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
        project.create_database()
    process = project.start(*mode)
    waiting(project, 2 if "--parallel" in mode else 1)
    pid = end_lease(project)
    if mode != SERIAL:
        # Workers take the lease again whatever the tests do.
        wait_for(lambda: leases(project) - {pid}, "the lease to be taken again")
    (project.folder / "other").touch()
    result = project.run(*mode, env={"GO": "other"}).passed()
    assert "Removed" not in result.stdout
    result = end(project, process).passed("Ran 2 tests")
    assert result.stdout.count(RECOVERED) == 1
    if place == "current":
        assert project.schemas(project.name) == {}
        project.drop_database(project.name)
    if "--keepdb" in mode:
        project.run("--clear-pools").passed()


SEEDING = """
    from helpers import *

    def seed(using):
        record("seeds")
        wait_for(os.environ.get("GO", "go"))
"""


@each_mode
def test_a_lease_that_is_lost_during_set_up(project: Project, mode: Mode) -> None:
    """The next step of the set-up takes it again, for example after the template was dumped."""
    project.write("seeding.py", SEEDING)
    project.configure('SCHEMA_RUNNER = {"SEEDERS": ["seeding.seed"]}')
    project.tests("class A(TestCase):\n    def test_passes(self): pass")
    process = project.start(*mode)
    wait_for(lambda: project.records("seeds"), "the seeder")
    end_lease(project)
    (project.folder / "other").touch()
    assert "Removed" not in project.run(*mode, env={"GO": "other"}).passed().stdout
    assert end(project, process).passed().stdout.count(RECOVERED) == 1


@each_mode
@pytest.mark.parametrize("what", ["schema", "database"])
def test_a_lost_schema_or_database_ends_the_run(project: Project, mode: Mode, what: str) -> None:
    """The run ends with one error message, does not wait for running tests, and leaves nothing."""
    project.tests(IDLE)
    process = project.start(*mode)
    waiting(project, 2 if mode else 1)
    if what == "schema":
        # The schema of worker 1 is the first one.
        schema = min(project.schemas(), key=lambda name: ("_w1_" not in name, name))
        project.query(f"DROP SCHEMA {schema} CASCADE")
        end_lease(project)
    else:
        with project.maintenance() as maintenance:
            maintenance.execute(f"DROP DATABASE {project.test_name} WITH (FORCE)")
    if not mode:
        # Without workers, the runner checks the lease between tests.
        (project.folder / "go").touch()
    result = outcome(process)
    assert result.code == 1, result.output
    told = "The connection that holds this run's lease on the database"
    assert result.output.count(told) == 1
    removed = f"schema {schema}" if what == "schema" else "the database"
    assert f"{removed} was dropped" in result.stderr
    assert "ERROR: the run" in result.stderr
    assert "stays" not in result.stdout
    assert project.databases() == []


@each_mode
def test_a_server_that_restarts(
    postgresql: embedded.EmbeddedServer, tmp_path: Path, mode: Mode
) -> None:
    """Only connections are lost."""
    settings, cache = {"work_mem": "6MB", "fsync": False}, postgresql.data_dir.parent
    other = embedded.start(bin_dir=postgresql.bin_dir, settings=settings, cache_dir=cache)
    try:
        project = Project(tmp_path, address(other), "restarted")
        project.tests(IDLE)
        process = project.start(*mode)
        waiting(project, 2 if mode else 1)
        before = leases(project)
        restart(other)
        if mode:
            wait_for(lambda: leases(project) - before, "the lease to be taken again")
        result = end(project, process).passed("Ran 2 tests")
        assert result.stdout.count(RECOVERED) == 1
        assert project.databases() == []
    finally:
        embedded.stop(other)


def restart(server: embedded.EmbeddedServer) -> None:
    """Restart a server in fast mode, which ends all connections."""
    owner = server.data_dir.stat().st_uid
    subprocess.run(
        [server.bin_dir / "pg_ctl", "restart", "-D", server.data_dir, "-m", "fast", "-w"],
        user=owner if os.getuid() == 0 else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
