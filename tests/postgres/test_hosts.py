import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres.hosts import HostDatabase, Request
from schema_runner.postgres.server import Server


@pytest.fixture
def request_(server: Server, request: pytest.FixtureRequest) -> Iterator[Request]:
    """A request for a database that is not there, and the messages it leads to."""
    name = f"host_{abs(hash(request.node.nodeid)) % 10**12}"
    told: list[str] = []

    def create() -> None:
        with server.maintenance() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        told.append("created")

    yield Request(
        server=server,
        name=name,
        create=create,
        is_projects_own=False,
        workers=2,
        log=told.append,
    )
    with server.maintenance() as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")


def told(request_: Request) -> list[str]:
    return request_.log.__self__  # type: ignore[attr-defined]


def exists(request_: Request) -> bool:
    with request_.server.maintenance() as connection:
        row = connection.execute("SELECT FROM pg_database WHERE datname = %s", [request_.name])
        return row.fetchone() is not None


def tables(request_: Request) -> list[str]:
    with request_.server.connect(request_.name) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'planted'")
        return [name for (name,) in rows]


def plant(host: HostDatabase) -> None:
    """Leave something by which the database is known again."""
    with host.connect() as connection:
        connection.execute("CREATE SCHEMA planted; CREATE TABLE planted.flag ()")


def test_the_only_run_makes_and_removes_it(request_: Request) -> None:
    """What was not there before is not there afterwards."""
    host = HostDatabase.obtain(request_)
    assert exists(request_)
    host.release(keep=False)
    assert not exists(request_)
    assert told(request_) == ["created"]


def test_a_run_shares_it_with_one_that_lives(request_: Request) -> None:
    """It is made once, and whoever leaves last removes it, though neither has a schema."""
    first = HostDatabase.obtain(request_)
    plant(first)
    second = HostDatabase.obtain(request_)
    first.release(keep=False)
    assert tables(request_) == ["flag"]
    second.release(keep=False)
    assert not exists(request_)
    assert told(request_) == ["created"]


def test_what_nobody_uses_is_replaced(request_: Request) -> None:
    """A run does not begin with what another has left beside its schemas."""
    kept = HostDatabase.obtain(request_)
    plant(kept)
    with kept.building(1) as build:
        kept_schema = build.schema
    kept.release(keep=True)
    host = HostDatabase.obtain(request_)
    assert tables(request_) == []
    assert told(request_) == [
        "created",
        f"Removed what an earlier run left in {request_.name!r}: {kept_schema}.",
        "created",
    ]
    host.release(keep=False)


def test_one_that_somebody_looks_into_is_shared(request_: Request) -> None:
    """It cannot be dropped, and is not."""
    kept = HostDatabase.obtain(request_)
    plant(kept)
    kept.release(keep=True)
    with request_.server.connect(request_.name):
        host = HostDatabase.obtain(request_)
    assert tables(request_) == ["flag"]
    host.release(keep=False)


def test_the_project_s_own_is_refused_unless_it_is_empty(request_: Request) -> None:
    """The marker says that tests made it, not that nobody has used it since."""
    own = replace(request_, is_projects_own=True)
    for _ in range(2):
        HostDatabase.obtain(own).release(keep=True)
    kept = HostDatabase.obtain(own)
    plant(kept)
    kept.release(keep=False)
    assert f"Database {own.name!r} stays: it has schema planted." in told(own)
    with pytest.raises(SchemaRunnerError, match="tests would remove schema planted"):
        HostDatabase.obtain(own)
    assert tables(own) == ["flag"]


def test_the_project_s_own_is_refused_without_a_marker(request_: Request) -> None:
    """However empty it is."""
    request_.create()
    with pytest.raises(SchemaRunnerError, match="tests would remove what is in it"):
        HostDatabase.obtain(replace(request_, is_projects_own=True))
    assert exists(request_)


def test_a_run_without_its_lease_leaves_it(request_: Request) -> None:
    """Others may be where it believes its schemas to be."""
    host = HostDatabase.obtain(request_)
    with host.connect() as connection:
        pid = host.lease._connection.info.backend_pid
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    host.release(keep=False)
    assert exists(request_)
    assert any("was lost" in line for line in told(request_))


def test_many_runs_at_once_on_an_empty_server(request_: Request) -> None:
    """One of them makes it, and the last one to leave removes it."""
    hosts: list[HostDatabase] = []
    everybody_is_in = threading.Barrier(8)

    def run() -> None:
        host = HostDatabase.obtain(request_)
        hosts.append(host)
        everybody_is_in.wait(timeout=60)
        host.release(keep=False)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hosts) == 8
    assert told(request_) == ["created"]
    assert not exists(request_)
