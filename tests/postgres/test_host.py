from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from schema_runner.errors import LeaseLostError, SchemaRunnerError
from schema_runner.postgres import databases, locks, names, schemas, sessions
from schema_runner.postgres.host_request import HostRequest
from schema_runner.postgres.host_reservation import Reservation
from schema_runner.postgres.lease import Lease
from schema_runner.postgres.names import Marker, MarkerState
from schema_runner.postgres.server import Server
from schema_runner.postgres.test_host import HostDatabase


@pytest.fixture
def request_(server: Server, request: pytest.FixtureRequest) -> Iterator[HostRequest]:
    """A request for a database that does not exist, and the messages that it leads to."""
    name = f"host_{abs(hash(request.node.nodeid)) % 10**12}"
    about = {"is_projects_own": False, "workers": 2, "oldest_version": 140000}
    made = HostRequest(server=server, name=name, log=[].append, **about)
    yield made
    with server.maintenance() as connection:
        for name in existing_databases(made):
            connection.execute(f"DROP DATABASE {name}")


def existing_databases(request_: HostRequest) -> list[str]:
    """List the databases with the requested name, and those named after it."""
    query = "SELECT datname FROM pg_database WHERE datname LIKE %s ORDER BY 1"
    with request_.server.maintenance() as connection:
        return [name for (name,) in connection.execute(query, [f"{request_.name}%"])]


def messages(request_: HostRequest) -> list[str]:
    return request_.log.__self__  # type: ignore[attr-defined]


def create(request_: HostRequest, name: str) -> None:
    with request_.server.maintenance() as connection:
        connection.execute(f"CREATE DATABASE {name}")


def acquire(request_: HostRequest) -> HostDatabase:
    reservation = Reservation(request_, ExitStack())
    return reservation.create_host(lambda: create(request_, reservation.name))


def plant(host: HostDatabase) -> None:
    """Create a table by which the database can be recognised."""
    with host.connect() as connection:
        connection.execute("CREATE SCHEMA planted")


def is_planted(request_: HostRequest, name: str) -> bool:
    with request_.server.connect(name) as connection:
        return connection.execute("SELECT to_regnamespace('planted')").fetchone() != (None,)


def test_a_single_run_creates_and_drops_it(request_: HostRequest) -> None:
    """Nothing is left after the run, nor under a name that is no longer used."""
    Reservation(request_, ExitStack()).close()
    assert existing_databases(request_) == []
    host = acquire(request_)
    assert existing_databases(request_) == [request_.name]
    host.release(keep=False)
    assert existing_databases(request_) == []
    assert messages(request_) == []


def test_concurrent_runs_have_a_database_each(request_: HostRequest) -> None:
    """Neither run sees the other's database, and each drops its own."""
    first = acquire(request_)
    plant(first)
    second = acquire(request_)
    assert existing_databases(request_) == [first.name, second.name]
    assert first.name == request_.name
    assert not is_planted(request_, second.name)
    first.release(keep=False)
    assert existing_databases(request_) == [second.name]
    third = acquire(request_)
    assert third.name == request_.name
    second.release(keep=False)
    third.release(keep=False)
    assert existing_databases(request_) == []


def test_an_unused_database_is_replaced(request_: HostRequest) -> None:
    """A run does not start with objects that another run left next to its schemas."""
    kept, second_host = acquire(request_), acquire(request_)
    plant(kept)
    schema = kept.finish_build(1)
    kept.release(keep=True)
    second_host.release(keep=True)
    host = acquire(request_)
    assert existing_databases(request_) == [request_.name]
    assert not is_planted(request_, host.name)
    assert messages(request_) == [
        f"Removed leftovers of an earlier run: database {request_.name}, schema {schema}.",
        f"Removed leftovers of an earlier run: database {second_host.name}.",
    ]
    host.release(keep=False)


@pytest.fixture
def closed(request_: HostRequest) -> Iterator[HostRequest]:
    """The request of a role that may not connect to the existing database."""
    acquire(request_).release(keep=True)
    with request_.server.maintenance() as connection:
        connection.execute(f"REVOKE CONNECT ON DATABASE {request_.name} FROM PUBLIC")
        connection.execute(f"CREATE ROLE {request_.name} LOGIN CREATEDB")
        params = {**request_.server.params, "user": request_.name}
        yield request_._replace(server=request_.server._replace(params=params))
        connection.execute(f"DROP ROLE {request_.name}")


def test_a_database_closed_by_another_role_stays(closed: HostRequest) -> None:
    """The run uses another name."""
    host = acquire(closed)
    assert host.name != closed.name
    host.release(keep=False)
    assert existing_databases(closed) == [closed.name]


def leave_unused(request_: HostRequest) -> HostDatabase:
    """Leave what a killed run leaves, or one that keeps its schemas."""
    host = acquire(request_)
    host.finish_build(1)
    host.start_tests()
    host.release(keep=True)
    return host


def check_database_stays(request_: HostRequest, name: str, why: str) -> None:
    """Run twice: both leave the database, print why, and leave nothing else."""
    before = existing_databases(request_)
    for _ in range(2):
        messages(request_).clear()
        host = acquire(request_)
        assert host.name not in before
        host.release(keep=False)
        assert existing_databases(request_) == before
        (line,) = messages(request_)
        assert line.startswith(f"Database {name!r} is left alone: ")
        assert why in line
        assert line.endswith(f"If you do not need it, drop it: dropdb {name}")


# Names that a person may give to a database created by runs.
RENAMED = {
    "to anything": "{}_app_demo",
    "to a clone's name": "{}_1",
    "to that of a run": "{}_0123456789abcdef",
}


@pytest.mark.parametrize("form", RENAMED.values(), ids=RENAMED.keys())
def test_a_renamed_database_stays(request_: HostRequest, form: str) -> None:
    """A renamed database is in use, even if it is marked, and clones do not replace it."""
    name = form.format(leave_unused(request_).name)
    with request_.server.maintenance() as connection:
        connection.execute(f"ALTER DATABASE {request_.name} RENAME TO {name}")
    check_database_stays(request_, name, f"but the comment is for the name {request_.name!r}")
    host = acquire(request_)
    with host.clones.creation(1):
        create(request_, f"{host.clones.names[1]} TEMPLATE template1")
    assert host.clones.names[1] != name
    host.clones.drop(host.clones.names[1])
    host.release(keep=False)
    assert existing_databases(request_) == [name]


def test_a_database_renamed_to_the_requested_name_stays(request_: HostRequest) -> None:
    """The run uses another name, as if a live run used the requested one."""
    own = request_._replace(name=f"{request_.name}_own")
    leave_unused(own)
    with request_.server.maintenance() as connection:
        connection.execute(f"ALTER DATABASE {own.name} RENAME TO {request_.name}")
    check_database_stays(request_, request_.name, f"but the comment is for the name {own.name!r}")
    with pytest.raises(SchemaRunnerError, match="tests would remove its contents"):
        Reservation(request_._replace(is_projects_own=True), ExitStack())
    # A comment that a person edited proves nothing either.
    with request_.server.maintenance() as connection:
        connection.execute(
            f"COMMENT ON DATABASE {request_.name} IS"
            f""" '{{"schema_runner": 1, "run": 3, "state": "ready"}}'"""
        )
    check_database_stays(request_, request_.name, "but the comment has no database name")


@pytest.mark.parametrize(
    "what", ["TABLE public.precious (n int)", "SCHEMA app CREATE TABLE t (n int)"]
)
def test_a_database_in_use_stays(request_: HostRequest, what: str) -> None:
    """With its contents; objects that tests created do not count as use."""
    host = acquire(request_)
    host.finish_build(1)
    host.start_tests()
    host.release(keep=True)
    with request_.server.connect(host.name) as connection:
        connection.execute(f"CREATE {what}")
    found = "table public.precious" if "precious" in what else "schema app"
    check_database_stays(request_, host.name, f"it contains {found}, which no run created")


def test_an_unmarked_database_of_a_killed_run_is_dropped(request_: HostRequest) -> None:
    """If it is as CREATE DATABASE made it, by a dead run, and has no connections."""
    alive = acquire(request_)
    run, living = 0x1234, alive.lease.run
    host = names.database_of_run(request_.name, run)
    made = [host, names.own_database(host, run, 3), names.clone_database(request_.name, 0)]
    made.append(names.database_of_fingerprint(request_.name, "ab" * 32))
    others = [names.own_database(request_.name, living, 1), f"{request_.name}_1", f"{host}_x"]
    used = names.database_of_run(request_.name, run + 1)
    for name in (*made, *others, used):
        create(request_, name)
    with request_.server.connect(used) as connection:
        connection.execute(
            "CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)"
        )
    with request_.server.connect(made[0]):
        acquire(request_).release(keep=False)
        assert set(existing_databases(request_)) == {alive.name, made[0], *others, used}
    acquire(request_).release(keep=False)
    assert set(existing_databases(request_)) == {alive.name, *others, used}
    assert sorted(messages(request_)) == [
        "Removed leftovers of an earlier run: database "
        + ", database ".join(sorted(made[1:]))
        + ".",
        f"Removed leftovers of an earlier run: database {made[0]}.",
    ]
    alive.release(keep=False)


def test_clones_of_a_killed_run_are_dropped(request_: HostRequest) -> None:
    """Unless they are in use, because they differ from the database they were cloned from."""
    host = acquire(request_)
    plant(host)
    host.prepare_clones({})
    clones = [f"{request_.name}_1", names.database_of_run(f"{request_.name}_2", 0x1234)]
    used = f"{request_.name}_3"
    for name in (*clones, used):
        create(request_, f"{name} TEMPLATE {host.name}")
    with request_.server.connect(used) as connection:
        connection.execute("CREATE TABLE planted.precious ()")
    host.lease.close()
    acquire(request_).release(keep=False)
    assert existing_databases(request_) == [used]


@pytest.fixture
def roles(request_: HostRequest) -> Iterator[dict[str, HostRequest]]:
    """The requests of two roles, and of one that is a member of the first."""
    created = {name: f"{request_.name}_{name}" for name in ("one", "other", "member")}
    server = request_.server
    with server.maintenance() as connection:
        for name in created.values():
            connection.execute(f"CREATE ROLE {name} LOGIN CREATEDB")
        connection.execute(f"GRANT {created['one']} TO {created['member']}")
        yield {
            role: request_._replace(server=server._replace(params={**server.params, "user": name}))
            for role, name in created.items()
        }
        for name in reversed(created.values()):
            connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_only_databases_of_our_roles_are_dropped(
    request_: HostRequest, roles: dict[str, HostRequest]
) -> None:
    """Any role that can create databases can mark one; a superuser counts as every role."""
    name = leave_unused(roles["one"]).name
    for request in (roles["other"], request_):
        check_database_stays(request, name, f"it belongs to the role '{name}_one'")
    acquire(roles["member"]).release(keep=False)
    assert existing_databases(request_) == []
    leave_unused(request_)
    check_database_stays(roles["other"], name, "it belongs to the role 'postgres'")


def test_a_database_with_other_connections_stays(request_: HostRequest) -> None:
    """It cannot be dropped: the run uses another name, and a later run drops it."""
    acquire(request_).release(keep=True)
    with request_.server.connect(request_.name):
        host = acquire(request_)
        assert host.name != request_.name
        host.release(keep=False)
        assert existing_databases(request_) == [request_.name]
    acquire(request_).release(keep=False)
    assert existing_databases(request_) == []


def test_clones_are_dropped(request_: HostRequest) -> None:
    """They are in use while the run is alive, and dropped with the host or by the next run."""
    host = acquire(request_)
    plant(host)
    host.prepare_clones({})
    clones = {number: f"{request_.name}_{number}" for number in (1, 7)}
    for number, clone in clones.items():
        with host.clones.creation(number):
            create(request_, f"{clone} TEMPLATE {host.name}")
        assert is_planted(request_, clone)
    other = acquire(request_)
    assert set(existing_databases(request_)) == {host.name, *clones.values(), other.name}
    host.clones.drop(clones[7])
    host.release(keep=False)
    assert existing_databases(request_) == [other.name]
    other.prepare_clones({})
    with other.clones.creation(1):
        create(request_, f"{other.clones.names[1]} TEMPLATE {other.name}")
    other.lease.close()
    acquire(request_).release(keep=False)
    assert existing_databases(request_) == []


def test_the_project_s_own_is_refused_unless_it_is_empty(request_: HostRequest) -> None:
    """The marker proves that tests created it, not that it has not been used since."""
    own = request_._replace(is_projects_own=True)
    for _ in range(2):
        acquire(own).release(keep=True)
    kept = acquire(own)
    kept.add_shims(kept.finish_build(1))
    plant(kept)
    kept.release(keep=False)
    with own.server.connect(own.name) as connection:
        assert schemas.list_own(connection) == []
    assert f"Database {own.name!r} is not dropped: it contains schema planted." in messages(own)
    with pytest.raises(SchemaRunnerError, match="tests would remove schema planted"):
        Reservation(own, ExitStack())
    assert is_planted(own, own.name)


def test_refusals(request_: HostRequest) -> None:
    """The project's own database without a marker, even if empty, and a server that is too old."""
    with pytest.raises(SchemaRunnerError, match="needs 99 or later"):
        Reservation(request_._replace(oldest_version=990000), ExitStack())
    assert existing_databases(request_) == []
    create(request_, request_.name)
    with pytest.raises(SchemaRunnerError, match="tests would remove its contents"):
        Reservation(request_._replace(is_projects_own=True), ExitStack())
    assert existing_databases(request_) == [request_.name]


def lose_lease(host: HostDatabase) -> None:
    with host.connect() as connection:
        pid = host.lease.connection.info.backend_pid
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def test_a_lost_lease_is_taken_again_before_each_step(request_: HostRequest) -> None:
    """With the same identity, so that others see the run as alive; it drops what it created."""
    host = acquire(request_)
    lose_lease(host)
    host.connection.execute("SELECT 1")
    with host.connect() as connection:
        assert locks.is_held(connection, host.lease.run)
        assert Lease.is_host_in_use(connection)
    lose_lease(host)
    host.release(keep=False)
    assert existing_databases(request_) == []
    assert sum("nothing is missing" in line for line in messages(request_)) == 2


@pytest.mark.parametrize("others", ["nothing", "a database of another run"])
def test_a_database_dropped_in_the_meantime(request_: HostRequest, others: str) -> None:
    """Other schemas may now have the names that the run used: it leaves them alone."""
    host = acquire(request_)
    lose_lease(host)
    with request_.server.maintenance() as maintenance:
        databases.drop(maintenance, host.name)
    other = acquire(request_) if others != "nothing" else None
    if other:
        # Only its marker identifies the owner.
        other.lease.close()
    with pytest.raises(LeaseLostError, match="was lost, and the database was dropped"):
        host.connection.execute("SELECT 1")
    host.release(keep=False)
    assert existing_databases(request_) == [request_.name] * (other is not None)


def test_a_lease_taken_again_during_a_sweep_counts(
    request_: HostRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloned database has no connections, and no lease is held in it."""
    first = acquire(request_)
    first.prepare_clones({})
    with request_.server.maintenance() as maintenance:
        pid = first.lease.connection.info.backend_pid
        maintenance.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    find = sessions.live_runs_without_lease

    def find_later(*args: Any) -> dict[int, str]:
        first.recovery.wait()
        return find(*args)

    monkeypatch.setattr(sessions, "live_runs_without_lease", find_later)
    second = acquire(request_)
    assert existing_databases(request_) == [first.name, second.name]
    second.release(keep=False)
    first.release(keep=False)


def test_many_runs_at_once_on_an_empty_server(request_: HostRequest) -> None:
    """One of them gets the name, each has a database, and none is left."""
    with ThreadPoolExecutor(8) as pool:
        hosts = list(pool.map(acquire, [request_] * 8))
        found = {host.name for host in hosts}
        list(pool.map(lambda host: host.release(keep=False), hosts))
    assert len(found) == 8
    assert request_.name in found
    assert existing_databases(request_) == []


# In a database that a role with CREATEDB made and marked, first on every path.
PLANTED = """
    CREATE SCHEMA ahead; GRANT USAGE ON SCHEMA ahead TO PUBLIC;
    CREATE FUNCTION ahead.rise(name, name) RETURNS bool LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN false; END $$;
    CREATE FUNCTION ahead.rise(oid, oid) RETURNS bool LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN false; END $$;
    CREATE OPERATOR ahead.= (FUNCTION = ahead.rise, LEFTARG = name, RIGHTARG = name);
    CREATE OPERATOR ahead.= (FUNCTION = ahead.rise, LEFTARG = oid, RIGHTARG = oid);
    ALTER DATABASE {name} SET search_path = ahead, pg_catalog
"""


def test_a_planted_database_gives_no_privileges(request_: HostRequest) -> None:
    """Its operators are never called by another role, whether it is dropped or left."""
    server, name, role = request_.server, request_.name, f"{request_.name}_planter"
    with server.maintenance() as maintenance:
        maintenance.execute(f"CREATE ROLE {role} LOGIN CREATEDB")
        try:
            planter = server._replace(params={**server.params, "user": role})
            with planter.maintenance() as connection:
                connection.execute(f"CREATE DATABASE {name}")
                databases.mark(connection, name, Marker(1, MarkerState.READY, name))
            with planter.connect(name) as connection:
                connection.execute(PLANTED.format(role=role, name=name))
            for is_projects_own in (False, True):
                request = request_._replace(is_projects_own=is_projects_own)
                with suppress(SchemaRunnerError):
                    acquire(request).release(keep=False)
            query = "SELECT rolsuper FROM pg_roles WHERE rolname = %s"
            assert maintenance.execute(query, [role]).fetchall() == [(False,)]
        finally:
            for name in existing_databases(request_):
                maintenance.execute(f"DROP DATABASE {name}")
            maintenance.execute(f"DROP ROLE {role}")
