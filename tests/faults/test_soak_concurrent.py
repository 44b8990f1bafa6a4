"""Concurrent runs of all kinds on a server with few connections: each passes, or says why not."""

import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schema_runner import embedded
from schema_runner.embedded.cluster import DEFAULT_SETTINGS
from schema_runner.postgres.names import Marker, MarkerState

from ..builds import BUILD
from ..fork_server import ForkServer
from ..observed import finish
from ..project import Process, Project, address
from . import soak
from .soak import IS_SOAK, OUTCOMES, ROUNDS, seeded

RUNS, CONNECTIONS = (10, 60) if IS_SOAK else (5, 30)
ROLES = ("postgres", "crowd_role")
NO_CONNECTION = re.compile("connections left|too many connections|connection slots")
_COMMENTS = """
    SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
    UNION ALL SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace
"""


@pytest.fixture(scope="module")
def small_server() -> Iterator[embedded.EmbeddedServer]:
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        Path(folder).chmod(0o755)
        settings = {**DEFAULT_SETTINGS, "max_connections": CONNECTIONS}
        server = embedded.start(bin_dir=BUILD.bin_dir, settings=settings, cache_dir=folder)
        yield server
        embedded.stop(server)


@pytest.mark.parametrize("number", range(max(1, ROUNDS // 5)))
def test_concurrent_runs(
    small_server: embedded.EmbeddedServer,
    tmp_path: Path,
    fork_server: ForkServer,
    number: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Runs of two roles and two projects with the same NAME leave pools only."""
    chance = seeded()
    name = f"crowd{number}"
    projects = [
        Project(tmp_path / folder, address(small_server), name, fork_server) for folder in "ab"
    ]
    for project in projects:
        project.configure(
            'import os; DATABASES["default"]["USER"] = os.environ.get("ROLE", "postgres")'
        )
    first, second = projects
    soak.write(second)
    second.migration("0002_index", "0001_initial", 'migrations.RunSQL("CREATE TYPE t AS ()")')
    with first.maintenance() as maintenance:
        maintenance.execute(f"CREATE ROLE {ROLES[1]} LOGIN CREATEDB")
    try:
        with soak.unchanged(first, f"GRANT CREATE ON DATABASE {name} TO {ROLES[1]}"):
            crowd(projects, chance, record_property)
            assert not [state for state in states(first) if state is not MarkerState.KEPT]
            for mode in ((), ("--host-database", "current")):
                for role in ROLES:
                    soak.run(first, "--clear-pools", *mode, env={"ROLE": role})
    finally:
        second.end()
        with first.maintenance() as maintenance:
            maintenance.execute(f"DROP ROLE {ROLES[1]}")


def crowd(
    projects: list[Project], chance: random.Random, record: Callable[[str, object], None]
) -> None:
    started: list[tuple[Project, Process, str]] = []
    for number in range(RUNS):
        project, role = chance.choice(projects), chance.choice(ROLES)
        flags = [
            *chance.choice([[], ["--parallel", "2"], ["--parallel", "4"]]),
            *chance.choice([[], ["--keepdb"]]),
            *chance.choice([[], [], ["--host-database", "current"]]),
        ]
        print(number, project.folder.name, role, *flags)
        env = {"ROLE": role, "RECORDED": f"recorded-{number}"}
        started.append((project, soak.start(project, *flags, env=env), env["RECORDED"]))
    for project, process, name in started:
        reported = finish(project, process, name=name)
        output = reported.result.output
        soak.check_fragment(reported)
        if reported.result.code == 0:
            assert reported.outcomes == OUTCOMES, output
        else:
            assert reported.result.code == 1, output
            assert NO_CONNECTION.search(reported.result.stderr), output
        record("soak", ("crowd", "runs", "passed" if reported.result.code == 0 else "no room"))


def states(project: Project) -> list[MarkerState]:
    """List the states of all markers in each database of this name."""
    rows = [row for name in project.databases() for row in project.query(_COMMENTS, database=name)]
    # Markers of run 1 are those of the renamed database, and of the schema of extensions.
    return [marker.state for _, text in rows if (marker := Marker.parse(text)) and marker.run > 1]
