import pytest
from psycopg import errors

from schema_runner import names
from schema_runner.postgres import backends, locks
from schema_runner.postgres.server import Connection, Server

RUN = 4712


def connect_as(server: Server, connection: Connection, application: str) -> Connection:
    opened = server.connect(connection.info.dbname)
    opened.execute("SELECT set_config('application_name', %s, false)", [application])
    return opened


def is_ended(connection: Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except errors.OperationalError:
        return True
    return False


def test_only_the_right_ones_are_ended(server: Server, connection: Connection) -> None:
    """Not those of a run with a lease, however long they have been idle, and never psql's."""
    lease = locks.Lease(server.connect(connection.info.dbname), RUN)
    applications = [names.application(RUN), names.application(RUN + 1), "psql"]
    opened = [connect_as(server, connection, application) for application in applications]
    backends.end_those_of_dead_runs(connection)
    assert [is_ended(one) for one in opened] == [False, True, False]
    opened[1] = connect_as(server, connection, applications[1])
    backends.end(connection, connection.info.dbname, RUN)
    assert [is_ended(one) for one in opened] == [True, False, False]
    for one in [*opened, lease]:
        one.close()


def test_a_statement_under_way_is_ended(server: Server, connection: Connection) -> None:
    """Waiting for its result would take as long as it takes."""
    busy = connect_as(server, connection, names.application(RUN))
    busy.pgconn.send_query(b"SELECT pg_sleep(600)")
    backends.end_those_of_dead_runs(connection)
    with pytest.raises(errors.OperationalError):
        busy.execute("SELECT 1")
    busy.close()
