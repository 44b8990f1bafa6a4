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
def spare(server: Server, connection: Connection) -> Iterator[CloneSource]:
    """One that is built; nothing is left of it afterwards."""
    spare = CloneSource(server, connection.info.dbname, connection.info.dbname, RUN)
    with spare.turn() as is_missing:
        assert is_missing
        assert not spare.is_ready()
        with server.maintenance() as maintenance, spare.creation():
            maintenance.execute(f"CREATE DATABASE {spare.name}")
        with connect(server, spare.name) as inside:
            inside.execute("CREATE TABLE made AS SELECT 1 AS n")
        spare.complete()
    yield spare
    with server.maintenance() as maintenance:
        for database in databases.requested_as(maintenance, spare.request):
            databases.drop(maintenance, database.name)


def marks(server: Server, spare: CloneSource) -> dict[str, Marker]:
    with server.maintenance() as maintenance:
        return dict(databases.requested_as(maintenance, spare.request))


def test_it_is_built_once_and_cloned(spare: CloneSource, server: Server) -> None:
    """A clone that an earlier process has used, and is connected to, is replaced."""
    with spare.turn() as is_missing:
        assert not is_missing
    name = spare.clone(3)
    assert set(marks(server, spare)) == {name, spare.name}
    assert set(marks(server, spare).values()) == {Marker(RUN, MarkerState.READY, spare.request)}
    left = connect(server, name, f"django-schema-runner {RUN} w3")
    left.execute("BEGIN; DELETE FROM made; COMMIT; BEGIN; LOCK made")
    assert spare.clone(3) == name
    with pytest.raises(errors.AdminShutdown):
        left.execute("COMMIT")
    with connect(server, name) as inside:
        assert inside.execute("SELECT n FROM made").fetchall() == [(1,)]
    assert spare.template_in(name) is None


def test_what_is_not_finished_is_built_again(spare: CloneSource, server: Server) -> None:
    """A database that was created but not marked is dropped."""
    with server.maintenance() as maintenance:
        creation = spare.creation()
        creation.__enter__()
        assert spare.name not in marks(server, spare)
        maintenance.execute(f"CREATE DATABASE {spare.name}")
        assert creation.__exit__(ValueError, ValueError("broken off"), None) is not True
        assert not databases.exists(maintenance, spare.name)
        with spare.creation():
            maintenance.execute(f"CREATE DATABASE {spare.name}")
    assert marks(server, spare)[spare.name].state is MarkerState.BUILDING
    with spare.turn() as is_missing:
        assert is_missing


def test_whether_a_run_is_alive(server: Server, connection: Connection) -> None:
    """Its lease is seen from other databases."""
    run = locks.new_run()
    with server.maintenance() as maintenance:
        assert not locks.is_held(maintenance, run)
        lease = Lease(server.connect(connection.info.dbname), run)
        assert locks.is_held(maintenance, run)
        lease.connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
        assert not locks.is_held(maintenance, run)
        lease.close()
