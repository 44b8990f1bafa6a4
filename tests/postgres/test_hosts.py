from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from schema_runner.errors import LeaseLostError, SchemaRunnerError
from schema_runner.postgres import databases, locks
from schema_runner.postgres.created import HostDatabase
from schema_runner.postgres.hosts import Request
from schema_runner.postgres.reservation import Reservation
from schema_runner.postgres.server import Server


@pytest.fixture
def request_(server: Server, request: pytest.FixtureRequest) -> Iterator[Request]:
    """A request for a database that is not there, and the messages it leads to."""
    name = f"host_{abs(hash(request.node.nodeid)) % 10**12}"
    about = {"is_projects_own": False, "workers": 2, "oldest_version": 140000}
    made = Request(server=server, name=name, log=[].append, **about)
    yield made
    with server.maintenance() as connection:
        for left in there(made):
            connection.execute(f"DROP DATABASE {left}")


def there(request_: Request) -> list[str]:
    """List the databases of the request's name, and those named after it."""
    query = "SELECT datname FROM pg_database WHERE datname LIKE %s ORDER BY 1"
    with request_.server.maintenance() as connection:
        return [name for (name,) in connection.execute(query, [f"{request_.name}%"])]


def told(request_: Request) -> list[str]:
    return request_.log.__self__  # type: ignore[attr-defined]


def create(request_: Request, name: str) -> None:
    with request_.server.maintenance() as connection:
        connection.execute(f"CREATE DATABASE {name}")


def obtain(request_: Request) -> HostDatabase:
    reservation = Reservation(request_, ExitStack())
    return reservation.claim(lambda: create(request_, reservation.name))


def plant(host: HostDatabase) -> None:
    """Leave something by which the database is known again."""
    with host.connect() as connection:
        connection.execute("CREATE SCHEMA planted")


def is_planted(request_: Request, name: str) -> bool:
    with request_.server.connect(name) as connection:
        return connection.execute("SELECT to_regnamespace('planted')").fetchone() != (None,)


def test_the_only_run_makes_and_removes_it(request_: Request) -> None:
    """What was not there before is not there afterwards, nor after a name that is given up."""
    Reservation(request_, ExitStack()).close()
    assert there(request_) == []
    host = obtain(request_)
    assert there(request_) == [request_.name]
    host.release(keep=False)
    assert there(request_) == []
    assert told(request_) == []


def test_a_run_beside_one_that_lives_has_its_own(request_: Request) -> None:
    """Neither sees what the other builds, and each removes what is its own."""
    first = obtain(request_)
    plant(first)
    second = obtain(request_)
    assert there(request_) == [first.name, second.name]
    assert first.name == request_.name
    assert not is_planted(request_, second.name)
    first.release(keep=False)
    assert there(request_) == [second.name]
    third = obtain(request_)
    assert third.name == request_.name
    second.release(keep=False)
    third.release(keep=False)
    assert there(request_) == []


def test_what_is_not_in_use_is_replaced(request_: Request) -> None:
    """A run does not begin with what another has left beside its schemas."""
    kept, beside = obtain(request_), obtain(request_)
    plant(kept)
    schema = kept.finish(1)
    kept.release(keep=True)
    beside.release(keep=True)
    host = obtain(request_)
    assert there(request_) == [request_.name]
    assert not is_planted(request_, host.name)
    assert told(request_) == [
        f"Removed what an earlier run left: database {request_.name}, {schema}.",
        f"Removed what an earlier run left: database {beside.name}.",
    ]
    host.release(keep=False)


@pytest.fixture
def closed(request_: Request) -> Iterator[Request]:
    """The request of a role which may not connect to what is left under the name."""
    obtain(request_).release(keep=True)
    with request_.server.maintenance() as connection:
        connection.execute(f"REVOKE CONNECT ON DATABASE {request_.name} FROM PUBLIC")
        connection.execute(f"CREATE ROLE {request_.name} LOGIN CREATEDB")
        params = {**request_.server.params, "user": request_.name}
        yield request_._replace(server=request_.server._replace(params=params))
        connection.execute(f"DROP ROLE {request_.name}")


def test_one_that_another_role_closes_to_us_stays(closed: Request) -> None:
    """The run takes another name."""
    host = obtain(closed)
    assert host.name != closed.name
    host.release(keep=False)
    assert there(closed) == [closed.name]


def test_one_that_another_session_is_in_stays(request_: Request) -> None:
    """It cannot be dropped, and is not: the run takes another name, and a later one drops it."""
    obtain(request_).release(keep=True)
    with request_.server.connect(request_.name):
        host = obtain(request_)
        assert host.name != request_.name
        host.release(keep=False)
        assert there(request_) == [request_.name]
    obtain(request_).release(keep=False)
    assert there(request_) == []


def test_clones_are_removed(request_: Request) -> None:
    """They are as the host, in use as long as the run lives, and go with it or by the next."""
    host = obtain(request_)
    plant(host)
    host.prepare_clones({})
    clones = {number: f"{request_.name}_{number}" for number in (1, 7)}
    for number, clone in clones.items():
        with host.clones.creation(number):
            create(request_, f"{clone} TEMPLATE {host.name}")
        assert is_planted(request_, clone)
    other = obtain(request_)
    assert set(there(request_)) == {host.name, *clones.values(), other.name}
    other.release(keep=False)
    host.clones.drop(clones[7])
    host.release(keep=False)
    assert there(request_) == [clones[1]]
    obtain(request_).release(keep=False)
    assert there(request_) == []


def test_the_project_s_own_is_refused_unless_it_is_empty(request_: Request) -> None:
    """The marker says that tests made it, not that it has not been used since."""
    own = request_._replace(is_projects_own=True)
    for _ in range(2):
        obtain(own).release(keep=True)
    kept = obtain(own)
    plant(kept)
    kept.release(keep=False)
    assert f"Database {own.name!r} stays: it has schema planted." in told(own)
    with pytest.raises(SchemaRunnerError, match="tests would remove schema planted"):
        Reservation(own, ExitStack())
    assert is_planted(own, own.name)


def test_refusals(request_: Request) -> None:
    """The project's own database without a marker, however empty, and a server too old."""
    with pytest.raises(SchemaRunnerError, match="needs 99 or later"):
        Reservation(request_._replace(oldest_version=990000), ExitStack())
    assert there(request_) == []
    create(request_, request_.name)
    with pytest.raises(SchemaRunnerError, match="tests would remove what is in it"):
        Reservation(request_._replace(is_projects_own=True), ExitStack())
    assert there(request_) == [request_.name]


def lose_lease(host: HostDatabase) -> None:
    with host.connect() as connection:
        pid = host.lease.connection.info.backend_pid
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def test_a_lost_lease_is_taken_again_before_each_step(request_: Request) -> None:
    """Under the same identity, so that others see the run alive, and it removes what it made."""
    host = obtain(request_)
    lose_lease(host)
    host.connection.execute("SELECT 1")
    with host.connect() as connection:
        assert locks.is_held(connection, host.lease.run)
        assert locks.Lease.is_host_in_use(connection)
    lose_lease(host)
    host.release(keep=False)
    assert there(request_) == []
    assert sum("nothing is missing" in line for line in told(request_)) == 2


@pytest.mark.parametrize("others", ["nothing", "a database of another run"])
def test_a_database_that_was_removed_in_the_meantime(request_: Request, others: str) -> None:
    """Others may be where the run believes its schemas to be: it leaves them alone."""
    host = obtain(request_)
    lose_lease(host)
    with request_.server.maintenance() as maintenance:
        databases.drop(maintenance, host.name)
    other = obtain(request_) if others != "nothing" else None
    if other:
        # Nothing but its marker says whose it is.
        other.lease.close()
    with pytest.raises(LeaseLostError, match="was lost, and in the meantime that was removed"):
        host.connection.execute("SELECT 1")
    host.release(keep=False)
    assert there(request_) == [request_.name] * (other is not None)


def test_many_runs_at_once_on_an_empty_server(request_: Request) -> None:
    """One of them has the name, each has a database, and none is left."""
    with ThreadPoolExecutor(8) as pool:
        hosts = list(pool.map(obtain, [request_] * 8))
        found = {host.name for host in hosts}
        list(pool.map(lambda host: host.release(keep=False), hosts))
    assert len(found) == 8
    assert request_.name in found
    assert there(request_) == []
