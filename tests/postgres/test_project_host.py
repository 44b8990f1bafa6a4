"""Runs in the project's own database, which do not disturb each other."""

from contextlib import ExitStack

import pytest
from psycopg import sql

from schema_runner.postgres import schemas
from schema_runner.postgres.host_request import HostRequest, PoolCriteria
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.project_host import ProjectDatabase
from schema_runner.postgres.server import Connection, Server


def request_of(server: Server, name: str, fingerprint: str = "f" * 64) -> HostRequest:
    """Return the request of a run that keeps its schemas."""
    wanted = PoolCriteria(
        fingerprint,
        is_unchanged=lambda _: True,
        now=2,
        oldest=1,
        max_others=1,
        report_nearest=lambda *_: None,
    )
    about = {"is_projects_own": True, "workers": 1, "oldest_version": 140000}
    return HostRequest(server=server, name=name, log=[].append, wanted=wanted, **about)


def build(host: ProjectDatabase, column: str = "text") -> str:
    """Build a schema with one table; return its name."""
    schema = str(host.begin_build(1))
    with host.connect() as connection:
        name = sql.Identifier(schema, "author")
        connection.execute(sql.SQL("CREATE TABLE {} (name {})").format(name, sql.SQL(column)))
        host.finish_build(1)
        host.start_dump(schema, PgDump.find(connection.info.server_version))
    return schema


def present(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test%'")
    return {name for (name,) in rows} - {"test_extensions"}


def test_no_run_sweeps_a_new_template(
    server: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to the run until the run has locked the pool."""
    with ExitStack() as build_lock:
        host = ProjectDatabase.open(request_of(server, connection.info.dbname), build_lock)
        schema, acquire = build(host), host.lease.acquire_shared

        def sweep_before(lock: int) -> None:
            schemas.sweep(connection, batch=10)
            acquire(lock)

        monkeypatch.setattr(host.lease, "acquire_shared", sweep_before)
        host.create_template(schema, {}, None)
    assert present(connection) == {schema, host.template}
    host.release(keep=True)
    assert [own.pool for own in schemas.list_own(connection)] == [host.template]
