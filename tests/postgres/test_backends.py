from psycopg import errors

from schema_runner import names
from schema_runner.postgres import backends, locks
from schema_runner.postgres.server import Connection, Server

RUN = 4712


def is_ended(connection: Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except errors.OperationalError:
        return True
    return False


def test_only_the_right_ones_are_ended(server: Server, connection: Connection) -> None:
    """Not those of a run with a lease, however long they have been idle, and never psql's."""
    database = connection.info.dbname
    lease = locks.Lease(server.connect(database), RUN)
    applications = [names.application(RUN), names.application(RUN + 1), "psql"]
    opened = [server.connect(database, application) for application in applications]
    backends.end_those_of_dead_runs(connection)
    assert [is_ended(one) for one in opened] == [False, True, False]
    opened[1] = server.connect(database, applications[1])
    backends.end(connection, database, RUN)
    assert [is_ended(one) for one in opened] == [True, False, False]
    for one in [*opened, lease]:
        one.close()


def test_a_statement_under_way_is_ended(server: Server, connection: Connection) -> None:
    """Waiting for its result would take as long as it takes."""
    busy = server.connect(connection.info.dbname, names.application(RUN))
    busy.pgconn.send_query(b"SELECT pg_sleep(600)")
    backends.end_those_of_dead_runs(connection)
    assert is_ended(busy)
    busy.close()
