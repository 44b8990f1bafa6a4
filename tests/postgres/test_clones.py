"""The database that is built once and cloned for workers without schemas."""

from collections.abc import Iterator

import pytest
from psycopg import errors

from schema_runner.postgres import databases, locks
from schema_runner.postgres.clones import CloneSource
from schema_runner.postgres.lease import Lease
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.server import Connection, Server

from ..project import connect

RUN = 4714


@pytest.fixture
def clone_source(server: Server, connection: Connection) -> Iterator[CloneSource]:
    """A clone source that has been built; it is dropped after the test."""
    clone_source = CloneSource(server, connection.info.dbname, connection.info.dbname, RUN)
    with clone_source.build_lock() as is_missing:
        assert is_missing
        assert not clone_source.is_ready()
        with server.maintenance() as maintenance, clone_source.creation():
            maintenance.execute(f"CREATE DATABASE {clone_source.name}")
        with connect(server, clone_source.name) as inside:
            inside.execute("CREATE TABLE made AS SELECT 1 AS n")
        clone_source.mark_ready()
    yield clone_source
    with server.maintenance() as maintenance:
        for database in databases.for_request(maintenance, clone_source.request):
            databases.drop(maintenance, database.name)


def marks(server: Server, clone_source: CloneSource) -> dict[str, Marker]:
    with server.maintenance() as maintenance:
        return dict(databases.for_request(maintenance, clone_source.request))


def test_the_source_is_built_once_and_cloned(clone_source: CloneSource, server: Server) -> None:
    """A clone that an earlier process used, and is still connected to, is replaced."""
    with clone_source.build_lock() as is_missing:
        assert not is_missing
    name = clone_source.clone(3)
    assert set(marks(server, clone_source)) == {name, clone_source.name}
    assert set(marks(server, clone_source).values()) == {
        Marker(RUN, MarkerState.READY, clone_source.request)
    }
    left = connect(server, name, f"django-schema-runner {RUN} w3")
    left.execute("BEGIN; DELETE FROM made; COMMIT; BEGIN; LOCK made")
    assert clone_source.clone(3) == name
    with pytest.raises(errors.AdminShutdown):
        left.execute("COMMIT")
    with connect(server, name) as inside:
        assert inside.execute("SELECT n FROM made").fetchall() == [(1,)]
    assert clone_source.template_schema(name) is None


def test_an_unfinished_source_is_built_again(clone_source: CloneSource, server: Server) -> None:
    """A database that was created but not marked is dropped."""
    with server.maintenance() as maintenance:
        creation = clone_source.creation()
        creation.__enter__()
        assert clone_source.name not in marks(server, clone_source)
        maintenance.execute(f"CREATE DATABASE {clone_source.name}")
        assert creation.__exit__(ValueError, ValueError("broken off"), None) is not True
        assert not databases.exists(maintenance, clone_source.name)
        with clone_source.creation():
            maintenance.execute(f"CREATE DATABASE {clone_source.name}")
    assert marks(server, clone_source)[clone_source.name].state is MarkerState.BUILDING
    with clone_source.build_lock() as is_missing:
        assert is_missing


def test_whether_a_run_is_alive(server: Server, connection: Connection) -> None:
    """Its lease is visible from other databases."""
    run = locks.new_run()
    with server.maintenance() as maintenance:
        assert not locks.is_held(maintenance, run)
        lease = Lease(server.connect(connection.info.dbname), run)
        assert locks.is_held(maintenance, run)
        lease.connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
        assert not locks.is_held(maintenance, run)
        lease.close()
