"""How the package connects to the server, and how many connections it may have."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from schema_runner.errors import SchemaRunnerError
from schema_runner.postgres import pgoptions, service_file
from schema_runner.postgres.capacity import connections_left
from schema_runner.postgres.server import Connection, Identity, Server

from ..project import wait_for

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
        connection.execute(f'DROP ROLE "{ROLE}"')


@pytest.fixture
def closed(server: Server) -> Iterator[Server]:
    """The way of a role that may not ask for the system identifier."""
    with server.maintenance() as connection:
        connection.execute("CREATE ROLE uninformed LOGIN")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC")
        yield server._replace(params={**server.params, "user": "uninformed"})
        connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system TO PUBLIC")
        connection.execute("DROP ROLE uninformed")


def test_two_ways_to_one_server(server: Server, closed: Server, tmp_path: Path) -> None:
    """What both may ask tells; a standby passes for its primary, of which it has the databases."""
    (tmp_path / "linked").symlink_to(server.params["host"])
    linked = server._replace(params={**server.params, "host": str(tmp_path / "linked")})
    open_, asked = Identity.of(linked), Identity.of(closed)
    assert asked.system is None
    assert None not in {open_.system, open_.start, asked.start}
    assert Identity.of(server).may_be_same_server(open_)
    assert asked.may_be_same_server(open_)
    assert not Identity("1", "a").may_be_same_server(Identity("2", "b"))
    assert not Identity("1", "a").may_be_same_server(Identity(None, "b"))
    assert Identity("1", "a").may_be_same_server(Identity("1", "b"))
    assert Identity("1", None).may_be_same_server(Identity(None, "b"))


def test_time_limits_of_a_role_do_not_hold(server: Server, role: str) -> None:
    """A lease is idle for as long as the tests run, and a build is waited for."""
    limited = server._replace(params={**server.params, "user": role})
    query = "SELECT current_setting(x) FROM unnest(%s::text[]) x"
    with limited.connect("postgres") as connection:
        assert connection.execute(query, [list(LIMITS)]).fetchall() == [("0",)] * 3


def test_a_role_is_taken_on(server: Server, role: str) -> None:
    """What is made belongs to it, as with OPTIONS["assume_role"]."""
    with server._replace(role=role).connect("postgres") as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)


def test_what_does_not_exist_is_one_error(server: Server) -> None:
    """A role leaves no connection behind; a database is named, and the setting."""
    with pytest.raises(SchemaRunnerError, match='role "unknown" does not exist'):
        server._replace(role="unknown").connect("postgres")
    with pytest.raises(SchemaRunnerError, match=r"database 'nowhere'\. Check DATABASES"):
        server.connect("nowhere")


def test_maintenance_falls_back_on_the_project_s_database(server: Server, database: str) -> None:
    """Where there is no database `postgres`, or it is closed to the role."""
    elsewhere = server._replace(params={**server.params, "dbname": database})
    with server.connect(database) as connection:
        connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
        try:
            with elsewhere.maintenance() as maintenance:
                assert maintenance.info.dbname == database
        finally:
            connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")


def test_why_maintenance_is_impossible(server: Server) -> None:
    """What is wrong with the connection is said, not that the other database does not exist."""
    elsewhere = server._replace(params={**server.params, "dbname": "nowhere"}, role="unknown")
    with pytest.raises(SchemaRunnerError, match=r'role "unknown" does not exist\n.*"nowhere" d'):
        elsewhere.connect_for_maintenance()


def test_connections_beyond_a_limit(server: Server, role: str) -> None:
    """One that is being closed counts for a moment and is waited for; others are told of."""
    with server.maintenance() as connection:
        connection.execute(f'ALTER ROLE "{role}" NOSUPERUSER CONNECTION LIMIT 1')
    single = server._replace(params={**server.params, "user": role})
    first = single.connect("postgres")
    closing = threading.Timer(0.2, first.close)
    closing.start()
    with single.connect("postgres") as second:
        assert second.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(SchemaRunnerError, match="too many connections"):
            single.connect("postgres")
    closing.join()


@pytest.fixture
def limited(server: Server, database: str) -> Iterator[Server]:
    """The server as a role that may have no more than four connections sees it."""
    with server.maintenance() as maintenance:
        maintenance.execute(f"CREATE ROLE {database} LOGIN CONNECTION LIMIT 4")
        yield server._replace(params={**server.params, "user": database})
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
        with limited.connect("postgres") as elsewhere:
            assert connections_left(elsewhere, database) == 1
            assert connections_left(elsewhere) == 2
        connection.execute(
            f"ALTER DATABASE {database} CONNECTION LIMIT -1;"
            f"ALTER ROLE {database} CONNECTION LIMIT -1"
        )
        (reserved,) = connection.execute(
            "SELECT sum(setting::int) FROM pg_settings"
            " WHERE name IN ('superuser_reserved_connections', 'reserved_connections')"
        ).fetchone()
        assert connections_left(ordinary) == connections_left(connection) - reserved


def test_what_programs_are_told_is_not_for_us(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections have the PGOPTIONS of others, and no search_path but their own."""
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=77kB")
    asked = "SELECT current_setting('work_mem'), current_setting('search_path')"
    pgoptions.export("-c search_path=another")
    pgoptions.export("-c search_path=worker")
    exported = os.environ["PGOPTIONS"]
    try:
        with server.connect(database) as connection:
            assert connection.execute(asked).fetchone() == ("77kB", "pg_catalog, pg_temp")
        assert os.environ["PGOPTIONS"] == exported == "-c work_mem=77kB -c search_path=worker"
    finally:
        pgoptions.export("")
    assert os.environ["PGOPTIONS"] == "-c work_mem=77kB"


def test_secrets_for_pg_dump_are_in_no_arguments_and_no_environment(
    server: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what a service adds lost; what libpq reads instead is gone afterwards."""
    secrets = {"password": r"a:b\c d'\e:", "sslpassword": "s3 =x"}
    (tmp_path / "services").write_text("[mine]\napplication_name=by service\npassword=wrong\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPASSWORD", "another")
    params = {**server.params, **secrets, "dbname": database, "service": "mine"}
    environment = dict(os.environ)
    with service_file.hide_secrets(params, environment) as (shown, files):
        written = "".join([*map(str, shown.values()), *environment.values(), "another"])
        assert not [secret for secret in secrets.values() if secret in written]
        # What pg_dump finds, by a program that inherits no more than it does.
        asking = "import json; from psycopg.pq import Conninfo; print(json.dumps({"
        asking += "o.keyword.decode(): o.val.decode() for o in Conninfo.get_defaults() if o.val}))"
        done = subprocess.run(
            [sys.executable, "-c", asking],
            env={**environment, "PGSERVICE": shown["service"]},
            pass_fds=files,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        assert (found["sslpassword"], found["application_name"]) == ("s3 =x", "by service")
        for name in ("PGPASSFILE", "PGSERVICEFILE"):
            monkeypatch.setenv(name, environment[name])
        monkeypatch.delenv("PGPASSWORD")
        with psycopg.connect(**shown) as connection:
            assert connection.info.password == secrets["password"]
    assert not [file for file in files if Path(f"/dev/fd/{file}").exists()]
