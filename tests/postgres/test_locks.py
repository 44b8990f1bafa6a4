import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from schema_runner.errors import LockTimeoutError
from schema_runner.postgres import locks, names, sessions
from schema_runner.postgres.lease import Lease
from schema_runner.postgres.server import Connection, Server

from ..project import wait_for

RUN = locks.key("a run of the tests")
SHORT = 3  # seconds; less than the wait for connections of dead runs


def is_free(connection: Connection, lock: int) -> bool:
    with locks.try_hold(connection, lock) as free:
        return free


@pytest.fixture
def lease(server: Server, database: str) -> Lease:
    lease = Lease(server.connect(database), RUN)
    yield lease
    lease.close()


def test_lease_lasts_until_it_is_closed(lease: Lease, connection: Connection) -> None:
    """Others see it as long as the run is alive, and no longer."""
    assert not is_free(connection, RUN)
    lease.close()
    with locks.hold(connection, RUN):  # The server may take a moment to notice.
        pass


def test_lease_outlives_a_child_that_closes_it(lease: Lease, connection: Connection) -> None:
    """A forked child that closes its connections does not end its parent's session."""
    number = lease.connection.fileno()
    child = os.fork()
    if child == 0:  # pragma: no cover
        # Otherwise libpq would write to whichever file gets the same descriptor next.
        is_taken = os.stat(number).st_rdev == os.stat(os.devnull).st_rdev
        lease.connection.pgconn.finish()
        os._exit(0 if is_taken else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not lease.is_lost
    assert not is_free(connection, RUN)


def test_lease_ends_with_the_parent_though_a_child_lives(
    server: Server, database: str, connection: Connection
) -> None:
    """A child does not keep the lease of a dead run alive."""
    told, tell = os.pipe()
    parent = os.fork()
    if parent == 0:  # pragma: no cover
        lease = Lease(server.connect(database), RUN + 1)
        child = os.fork()
        if child == 0:
            signal.pause()
        os.write(tell, str(child).encode().ljust(20) + (b"" if lease.is_lost else b"leased"))
        signal.pause()
    report = os.read(told, 100).decode()
    child = int(report[:20])
    try:
        assert report.endswith("leased")
        assert not is_free(connection, RUN + 1)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        os.kill(child, 0)
        connection.execute("SET lock_timeout = '30s'")
        with locks.hold(connection, RUN + 1):
            os.kill(child, 0)  # Raises an error if the process had ended.
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(told)
        os.close(tell)


def test_a_lost_lease_is_noticed(lease: Lease, connection: Connection) -> None:
    """An administrator, or a restart of the server, can end any connection."""
    assert not lease.is_lost
    pid = lease.connection.info.backend_pid
    connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    assert lease.is_lost


def test_the_last_user_of_extensions_drops_them(
    lease: Lease, server: Server, database: str
) -> None:
    """The last run drops them, whichever other leases exist in the database."""
    bystander = Lease(server.connect(database), RUN + 1)
    other = Lease(server.connect(database), RUN + 2)
    for one in (lease, bystander, other):
        one.acquire_shared(locks.EXTENSIONS_IN_USE)
    bystander.release_shared(locks.EXTENSIONS_IN_USE)
    with lease.last_use(locks.EXTENSIONS_IN_USE) as is_last:
        assert not is_last
    with other.last_use(locks.EXTENSIONS_IN_USE) as is_last:
        assert is_last
    assert Lease.is_host_in_use(bystander.connection)
    other.close()
    bystander.close()


def test_a_lock_is_released_if_the_body_fails(connection: Connection, server: Server) -> None:
    """Errors in SQL and other exceptions release it."""
    with pytest.raises(errors.DivisionByZero), locks.hold(connection, RUN):
        connection.execute("SELECT 1/0")
    with server.connect(connection.info.dbname) as other:
        assert is_free(other, RUN)


def test_keys_are_distinct_and_stable() -> None:
    """Runs of different processes and Python versions must agree on a key."""
    assert locks.key("build") == locks.key("build") != locks.key("host in use")
    assert -(2**63) <= locks.key("build") < 2**63


def test_locks_are_within_the_budget(connection: Connection) -> None:
    """What all workers drop at once takes less than half of the server's lock table."""
    (limit,) = (
        connection.execute(
            "SELECT current_setting('max_locks_per_transaction')::int"
            " * current_setting('max_connections')::int"
        ).fetchone()
        or ()
    )
    for workers in (1, 8, 32):
        tables = locks.tables_per_transaction(connection, workers)
        assert 1 <= tables <= max(1, limit // 2 / workers / 35)


def is_ended(connection: Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except errors.OperationalError:
        return True
    return False


def test_only_connections_of_the_run_are_ended(server: Server, connection: Connection) -> None:
    """Not those of other runs or workers, psql's, or any that holds a lease."""
    database = connection.info.dbname
    # Named like a test's connection, as for a run that a test has started.
    lease = Lease(server.connect(database, names.application_name(RUN, 1)), RUN + 2)
    applications = [
        names.application_name(RUN),
        names.application_name(RUN, 1),
        names.application_name(RUN, 11),
        names.application_name(RUN + 1),
        names.main_application_name(RUN),
        "psql",
    ]
    opened = [server.connect(database, application) for application in applications]
    sessions.end_test_sessions(connection, database, RUN, 1)
    assert [is_ended(one) for one in opened] == [True, True, False, False, False, False]
    sessions.end_test_sessions(connection, database, RUN)
    assert [is_ended(one) for one in opened] == [True, True, True, False, False, False]
    assert not lease.is_lost
    for one in [*opened, lease]:
        one.close()


def test_a_run_that_is_connected_is_alive(server: Server, connection: Connection) -> None:
    """Even without a lease, which it may take again; one in another database counts too."""
    database = connection.info.dbname
    lease = Lease(server.connect("postgres"), RUN, is_in_host=False)
    opened = [server.connect(database, names.application_name(run, 1)) for run in (RUN, RUN + 1)]
    (pid,) = [one.info.backend_pid for one in opened[1:]]
    found = sessions.live_runs_without_lease(connection)
    assert found == {RUN + 1: f"run {RUN + 1} (server process {pid})"}
    # The sweep does not wait at every step for what a test has left running.
    since = time.monotonic()
    assert sessions.live_runs_without_lease(connection) == found
    assert time.monotonic() - since < SHORT
    opened[1].close()
    wait_for(lambda: not sessions.live_runs_without_lease(connection), "the connection to end")
    for one in [*opened, lease]:
        one.close()


def test_a_statement_of_a_dead_run_is_ended(server: Server, connection: Connection) -> None:
    """The server detects that the client is gone, during a long statement."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        busy = server.connect(connection.info.dbname, names.application_name(RUN, 1))
        busy.execute("SELECT pg_sleep(600)")
    query = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'"
    wait_for(lambda: connection.execute(query).fetchall(), "the statement")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert sessions.live_runs_without_lease(connection) == {}


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The messages about waiting for locks, with short timeouts."""
    lines: list[str] = []
    before = locks.set_lock_wait(locks.LockWait(0.3, lines.append))
    yield lines
    locks.set_lock_wait(before)


def hold(connection: Connection, lock: int) -> None:
    with locks.hold(connection, lock):
        pass


def hold_in_transaction(connection: Connection, lock: int) -> None:
    """The transaction continues after the wait has timed out."""
    with connection.transaction():
        try:
            locks.acquire_until_commit(connection, lock)
        finally:
            connection.execute("SELECT")


def share(connection: Connection, lock: int) -> None:
    Lease(connection, locks.new_run(), is_in_host=False).acquire_shared(lock)


@pytest.mark.parametrize("take", [hold, hold_in_transaction, share])
def test_waiting_for_a_lock_has_a_limit(
    take: Callable[[Connection, int], None],
    server: Server,
    connection: Connection,
    told: list[str],
) -> None:
    """The message and the error name the holder; the session's own lock_timeout stays."""
    name = "host database bed"
    lock = locks.key(name)
    with server.connect(connection.info.dbname, "psql of 'Ann'") as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", [lock])
        connection.execute("SET lock_timeout = '7s'")
        with pytest.raises(LockTimeoutError) as raised:
            take(connection, lock)
        pid = other.info.backend_pid
        (line,) = told
        for text in (line, str(raised.value)):
            assert f"process {pid} of role " in text
            assert f"the lock {name!r}" in text
            assert "(application 'psql of ''Ann''', connected since 2" in text
            assert ", idle in transaction for " in text
        assert f"SELECT pg_terminate_backend({pid})" in str(raised.value)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("7s",)
    take(connection, lock)
    assert told == [line]


def test_a_transaction_keeps_its_own_lock_timeout(
    server: Server, connection: Connection, told: list[str]
) -> None:
    """After waiting for a lock, its lock_timeout is as before, because a test may be using it."""
    lock, application = locks.key("extensions of the tests"), "waiting"
    with (
        server.connect(connection.info.dbname) as holder,
        server.connect(connection.info.dbname, application) as waiting,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT pg_advisory_lock(%s)", [lock])

        def limit_after_waiting() -> object:
            with waiting.transaction():
                waiting.execute("SET LOCAL lock_timeout = '7s'")
                locks.acquire_until_commit(waiting, lock)
                return waiting.execute("SHOW lock_timeout").fetchone()

        found = pool.submit(limit_after_waiting)
        wait_for(lambda: is_waiting(connection, application), "the lock to be waited for")
        holder.execute("SELECT pg_advisory_unlock(%s)", [lock])
        assert found.result(timeout=60) == ("7s",)
    assert told == []


def is_waiting(connection: Connection, application: str) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'advisory'"
    return bool(connection.execute(query, [application]).fetchall())


def test_waiting_for_successive_holders(server: Server, connection: Connection) -> None:
    """The limit applies to each holder, even if it expires before the first message."""
    lock, database = locks.key("database of the tests"), connection.info.dbname
    first, second = server.connect(database), server.connect(database, "second")
    first.execute("SELECT pg_advisory_lock(%s)", [lock])
    lines: list[str] = []
    with server.connect(database, "third") as third, ThreadPoolExecutor(2) as pool:

        def tell(line: str) -> None:
            lines.append(line)
            second.close()

        before = locks.set_lock_wait(locks.LockWait(1.0, tell))
        try:
            taken = pool.submit(second.execute, "SELECT pg_advisory_lock(%s)", [lock])
            wait_for(lambda: is_waiting(connection, "second"), "the second to wait")
            last = pool.submit(hold, third, lock)
            wait_for(lambda: is_waiting(connection, "third"), "the third to wait")
            pid = second.info.backend_pid
            first.close()
            taken.result(timeout=60)
            last.result(timeout=60)
        finally:
            locks.set_lock_wait(before)
    (line,) = lines
    assert f"held by process {pid} of role " in line


def test_an_assumed_role_takes_a_lease_again(server: Server, database: str) -> None:
    """It ends the lost connection, if the server lists it as that of the same role."""
    login, owner = f"{database}_login", f"{database}_owner"
    with server.maintenance() as maintenance:
        maintenance.execute(f"CREATE ROLE {owner}; CREATE ROLE {login} LOGIN IN ROLE {owner}")
        assuming = server._replace(params={**server.params, "user": login}, role=owner)
        lease = Lease(assuming.connect(database), RUN)
        lost = lease.connection
        assert lease.reacquire_on(assuming.connect(database))
        assert lease.connection is not lost
        assert not lease.is_lost
        assert lease.connection.execute("SELECT current_user").fetchone() == (owner,)
        lease.close()
        wait_for(
            lambda: (
                not maintenance.execute(
                    "SELECT FROM pg_stat_activity WHERE usename = %s", [login]
                ).fetchall()
            ),
            "the role to be gone",
        )
        maintenance.execute(f"DROP ROLE {login}, {owner}")


def test_waiting_for_an_active_run(
    server: Server, connection: Connection, told: list[str]
) -> None:
    """As long as any of its sessions is active, and not once it is stopped."""
    lock, database = locks.key("fingerprint of the tests"), connection.info.dbname
    holder = server._replace(application=names.main_application_name(RUN)).connect(database)
    holder.execute("SELECT pg_advisory_lock(%s)", [lock])
    busy = server.connect(database, names.application_name(RUN, 1))
    busy.pgconn.send_query(b"SELECT pg_sleep(600)")

    def wait_in_vain() -> str:
        with server.connect(database, "waiting") as waiting:
            with pytest.raises(LockTimeoutError) as raised:
                hold_while_at_work(waiting, lock)
            return str(raised.value)

    attempts = set()

    def has_waited_again() -> bool:
        query = "SELECT xact_start FROM pg_stat_activity WHERE application_name = 'waiting'"
        attempts.update(row for row in connection.execute(query) if row[0])
        return len(attempts) >= 5

    with ThreadPoolExecutor(1) as pool:
        waited = pool.submit(wait_in_vain)
        wait_for(has_waited_again, "the limit to be over several times")
        assert not waited.done()
        busy.cancel_safe()
        assert f"process {holder.info.backend_pid} of" in waited.result(timeout=60)
    assert len(told) == 1
    holder.close()
    busy.close()


def hold_while_at_work(connection: Connection, lock: int) -> None:
    with locks.hold(connection, lock, while_active=True):
        pass


@pytest.mark.parametrize("origin", ["OPTIONS", "PGAPPNAME"])
def test_the_application_name_of_another_run_is_not_used(
    origin: str, server: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a test of that run has printed its settings or set its environment."""

    def shown(server: Server) -> str:
        with server.connect(database) as connection:
            (name,) = connection.execute("SHOW application_name").fetchone() or ()
        return str(name)

    def named(name: str) -> Server:
        if origin == "PGAPPNAME":
            monkeypatch.setenv("PGAPPNAME", name)
            return server
        return server._replace(params={**server.params, "application_name": name})

    assert shown(named("the project's")) == "the project's"
    for name in [names.application_name(RUN), names.application_name(RUN, 1)]:
        assert shown(named(name)) == "django-schema-runner"
    own = names.main_application_name(RUN + 1)
    assert shown(named(names.application_name(RUN))._replace(application=own)) == own
