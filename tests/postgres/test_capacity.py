from collections.abc import Iterator

import pytest

from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres.capacity import connections_left, refuse_beyond_connections
from schema_runner.postgres.server import Connection, Server

from ..project import wait_for


@pytest.fixture
def limited(server: Server, database: str) -> Iterator[Server]:
    """The server as a role that may have no more than four connections sees it."""
    with server.maintenance() as maintenance:
        maintenance.execute(f"CREATE ROLE {database} LOGIN CONNECTION LIMIT 4")
    yield server._replace(params={**server.params, "user": database})
    with server.maintenance() as maintenance:
        maintenance.execute(f"DROP ROLE {database}")


def test_the_server_s_limit_less_what_is_in_use(server: Server, connection: Connection) -> None:
    """Each open connection is one less."""
    row = connection.execute("SELECT current_setting('max_connections')::int").fetchone()
    before = connections_left(connection)
    assert 0 < before < row[0]
    with server.connect(connection.info.dbname):
        assert connections_left(connection) == before - 1


def test_the_lowest_limit_holds(limited: Server, connection: Connection) -> None:
    """The role's, the database's, neither of which binds superusers, or the server's."""
    database = connection.info.dbname
    with limited.connect(database) as ordinary:
        with limited.connect(database):
            assert connections_left(ordinary) == 2
        # What is being closed counts for a moment.
        wait_for(lambda: connections_left(ordinary) == 3, "a connection to be closed")
        before = connections_left(connection)
        connection.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 3")
        assert (connections_left(ordinary), connections_left(connection)) == (1, before)
        connection.execute(
            f"ALTER DATABASE {database} CONNECTION LIMIT -1;"
            f"ALTER ROLE {database} CONNECTION LIMIT -1"
        )
        (reserved,) = connection.execute(
            "SELECT sum(setting::int) FROM pg_settings"
            " WHERE name IN ('superuser_reserved_connections', 'reserved_connections')"
        ).fetchone()
        assert connections_left(ordinary) == connections_left(connection) - reserved


def test_too_many_workers_are_refused(limited: Server, database: str) -> None:
    """With how many there can be."""
    with limited.connect(database) as connection:
        refuse_beyond_connections(connection, workers=3, each=1)
        for workers, each, most in ((4, 1, 3), (2, 2, 1)):
            advice = rf"at least 4\. Run with --parallel {most}"
            with pytest.raises(SchemaRunnerError, match=advice):
                refuse_beyond_connections(connection, workers=workers, each=each)
