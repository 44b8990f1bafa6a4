import threading
from collections.abc import Iterator

import pytest

from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres.server import Server

ROLE = "impatient tester"


LIMITS = ("statement_timeout", "lock_timeout", "idle_session_timeout")


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """A role that has limits of time for everything."""
    with server.maintenance() as connection:
        connection.execute(f'CREATE ROLE "{ROLE}" LOGIN SUPERUSER')
        for limit in LIMITS:
            connection.execute(f'ALTER ROLE "{ROLE}" SET {limit} = "1h"')
    yield ROLE
    with server.maintenance() as connection:
        connection.execute(f'DROP ROLE "{ROLE}"')


def test_time_limits_of_a_role_do_not_hold(server: Server, role: str) -> None:
    """A lease is idle for as long as the tests run, and a build is waited for."""
    limited = server._replace(params={**server.params, "user": role})
    with limited.connect("postgres") as connection:
        row = connection.execute(
            "SELECT current_setting(x) FROM unnest(%s::text[]) x", [list(LIMITS)]
        )
        assert row.fetchall() == [("0",)] * 3


def test_a_role_is_taken_on(server: Server, role: str) -> None:
    """What is made belongs to it, as with OPTIONS["assume_role"]."""
    with server._replace(role=role).connect("postgres") as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)


def test_a_role_that_does_not_exist_is_one_error(server: Server) -> None:
    """And leaves no connection behind."""
    with pytest.raises(SchemaRunnerError, match='role "nobody here" does not exist'):
        server._replace(role="nobody here").connect("postgres")


def test_a_missing_database_is_one_error(server: Server) -> None:
    """It names the database and the setting."""
    with pytest.raises(SchemaRunnerError, match="database 'nowhere'; check DATABASES"):
        server.connect("nowhere")


def test_maintenance_falls_back_on_the_project_s_database(server: Server, database: str) -> None:
    """Where there is no database `postgres`, or it is closed to the role."""
    with server.connect(database) as connection:
        connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
    try:
        elsewhere = server._replace(params={**server.params, "dbname": database})
        with elsewhere.maintenance() as connection:
            assert connection.info.dbname == database
    finally:
        with server.connect(database) as connection:
            connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")


@pytest.fixture
def single(server: Server) -> Iterator[Server]:
    """The server as a role knows it that may have one connection."""
    with server.maintenance() as connection:
        connection.execute("CREATE ROLE single LOGIN CONNECTION LIMIT 1")
    yield server._replace(params={**server.params, "user": "single"})
    with server.maintenance() as connection:
        connection.execute("DROP ROLE single")


def test_a_connection_that_is_being_closed_is_waited_for(single: Server) -> None:
    """It counts against a limit for a moment."""
    first = single.connect("postgres")
    closing = threading.Timer(0.2, first.close)
    closing.start()
    with single.connect("postgres") as second:
        assert second.execute("SELECT 1").fetchone() == (1,)
    closing.join()


def test_a_limit_that_is_reached_is_told(single: Server) -> None:
    """One that nobody closes is not waited for for ever."""
    with (
        single.connect("postgres"),
        pytest.raises(SchemaRunnerError, match="too many connections"),
    ):
        single.connect("postgres")
