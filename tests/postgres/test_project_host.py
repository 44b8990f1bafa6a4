"""Runs in the project's own database, which do not disturb each other."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from psycopg import sql

from schema_runner.postgres import schemas
from schema_runner.postgres.host_request import HostRequest, PoolCriteria
from schema_runner.postgres.pg_dump import PgDump
from schema_runner.postgres.project_host import ProjectDatabase
from schema_runner.postgres.server import Connection, Server

EXTENSION = "CREATE EXTENSION citext SCHEMA test_extensions"


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


@pytest.fixture
def roles(server: Server, connection: Connection) -> Iterator[dict[str, Server]]:
    """Two roles that may create schemas; `admin` is a member of `app`."""
    connection.execute("CREATE ROLE app LOGIN; CREATE ROLE admin LOGIN; GRANT app TO admin")
    database = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO app, admin").format(database))
    yield {
        role: server._replace(params={**server.params, "user": role}) for role in ("app", "admin")
    }
    connection.execute("DROP OWNED BY app, admin CASCADE; DROP ROLE app, admin")


def test_dropping_extensions_spares_schemas_of_live_runs(
    roles: dict[str, Server], connection: Connection
) -> None:
    """The run of another role does not use the extensions, but this role may drop its schema."""
    name = connection.info.dbname
    with ExitStack() as build_lock:
        admins = ProjectDatabase.open(request_of(roles["admin"], name), build_lock)
        apps = ProjectDatabase.open(
            request_of(roles["app"], name)._replace(wanted=None), build_lock
        )
        with admins.connect() as session:
            session.execute(EXTENSION)
        kept, used = build(admins, "test_extensions.citext"), str(apps.begin_build(1))
        admins.create_template(kept, {}, None)
    admins.keep_schema(kept, admins.schema_source(kept))
    admins.release(keep=True)
    assert present(connection) == {used, admins.template}
    apps.release(keep=False)


def test_extensions_of_a_rejected_snapshot_stay(server: Server, connection: Connection) -> None:
    """Other runs may use them by then; the last one drops them."""
    request = request_of(server, connection.info.dbname)._replace(wanted=None)
    with ExitStack() as build_lock:
        first = ProjectDatabase.open(request, build_lock)
        connection.execute(EXTENSION)
        first.create_template(build(first, "test_extensions.citext"), {}, None)
        snapshot = first.snapshot("f", 1)
        first.release(keep=False)
        second, third = (ProjectDatabase.open(request, build_lock) for _ in range(2))
        undo = second.restore(snapshot)
        build(third, "test_extensions.citext")
        undo()
    second.release(keep=False)
    assert len(present(connection)) == 1
    third.release(keep=False)
    assert present(connection) == set()
    assert connection.execute("SELECT extname FROM pg_extension").fetchall() == [("plpgsql",)]
