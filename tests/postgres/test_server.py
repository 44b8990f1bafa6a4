"""How the package connects to the server, and how many connections it may use."""

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
    """A role with all kinds of timeouts."""
    with server.maintenance() as connection:
        connection.execute(f'CREATE ROLE "{ROLE}" LOGIN SUPERUSER')
        for limit in LIMITS:
            connection.execute(f'ALTER ROLE "{ROLE}" SET {limit} = "1h"')
        yield ROLE
        connection.execute(f'DROP ROLE "{ROLE}"')


@pytest.fixture
def restricted(server: Server) -> Iterator[Server]:
    """Parameters for a role that may not read the system identifier."""
    with server.maintenance() as connection:
        connection.execute("CREATE ROLE uninformed LOGIN")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC")
        yield server._replace(params={**server.params, "user": "uninformed"})
        connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system TO PUBLIC")
        connection.execute("DROP ROLE uninformed")


def test_two_addresses_of_one_server(server: Server, restricted: Server, tmp_path: Path) -> None:
    """They are compared by data that both roles can read; a standby is its primary."""
    (tmp_path / "linked").symlink_to(server.params["host"])
    linked = server._replace(params={**server.params, "host": str(tmp_path / "linked")})
    open_, asked = Identity.of(linked), Identity.of(restricted)
    assert asked.system is None
    assert None not in {open_.system, open_.start, asked.start}
    assert Identity.of(server).may_be_same_server(open_)
    assert asked.may_be_same_server(open_)
    assert not Identity("1", "a").may_be_same_server(Identity("2", "b"))
    assert not Identity("1", "a").may_be_same_server(Identity(None, "b"))
    assert Identity("1", "a").may_be_same_server(Identity("1", "b"))
    assert Identity("1", None).may_be_same_server(Identity(None, "b"))


def test_timeouts_of_a_role_do_not_apply(server: Server, role: str) -> None:
    """A lease is idle during the tests, and waiting for a build takes long."""
    limited = server._replace(params={**server.params, "user": role})
    query = "SELECT current_setting(x) FROM unnest(%s::text[]) x"
    with limited.connect("postgres") as connection:
        assert connection.execute(query, [list(LIMITS)]).fetchall() == [("0",)] * 3


def test_the_server_checks_that_the_client_is_reachable(connection: Connection) -> None:
    """Otherwise, a lost network would leave a dead run's locks in place for hours."""
    # The value is 0 on a Unix socket.
    query = "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name ~ 'tcp_keepalive'"
    assert connection.execute(query).fetchone() == (3,)


def test_a_role_is_assumed(server: Server, role: str) -> None:
    """Objects belong to that role, as with OPTIONS["assume_role"]."""
    with server._replace(role=role).connect("postgres") as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)


def test_a_missing_role_or_database_is_one_error(server: Server) -> None:
    """For a role, no connection stays open; for a database, the error names the setting."""
    with pytest.raises(SchemaRunnerError, match='role "unknown" does not exist'):
        server._replace(role="unknown").connect("postgres")
    with pytest.raises(SchemaRunnerError, match=r"database 'nowhere'\. Check DATABASES"):
        server.connect("nowhere")


def test_maintenance_falls_back_on_the_project_s_database(server: Server, database: str) -> None:
    """If the database `postgres` does not exist, or the role may not connect to it."""
    elsewhere = server._replace(params={**server.params, "dbname": database})
    with server.connect(database) as connection:
        connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
        try:
            with elsewhere.maintenance() as maintenance:
                assert maintenance.info.dbname == database
        finally:
            connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")


def test_why_maintenance_is_impossible(server: Server) -> None:
    """The error names the cause, not that the other database does not exist."""
    elsewhere = server._replace(params={**server.params, "dbname": "nowhere"}, role="unknown")
    with pytest.raises(SchemaRunnerError, match=r'role "unknown" does not exist\n.*"nowhere" d'):
        elsewhere.maintenance()


def test_too_many_connections(server: Server, role: str) -> None:
    """Connections that are closing count for a moment and are waited for; others are an error."""
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
    """The server as seen by a role that may have four connections."""
    with server.maintenance() as maintenance:
        maintenance.execute(f"CREATE ROLE {database} LOGIN CONNECTION LIMIT 4")
        yield server._replace(params={**server.params, "user": database})
        maintenance.execute(f"DROP ROLE {database}")


def test_free_connections_of_the_server(server: Server, connection: Connection) -> None:
    """Each open connection reduces it by one."""
    row = connection.execute("SELECT current_setting('max_connections')::int").fetchone()
    before = connections_left(connection)
    assert 0 < before < row[0]
    with server.connect(connection.info.dbname):
        assert connections_left(connection) == before - 1


def test_the_lowest_limit_applies(limited: Server, connection: Connection) -> None:
    """The role's or the database's, which do not apply to superusers, or the server's."""
    database = connection.info.dbname
    with limited.connect(database) as ordinary:
        with limited.connect(database):
            assert connections_left(ordinary) == 2
        # A connection that is closing counts for a moment.
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
        # The connection to postgres may still be closing.
        wait_for(
            lambda: connections_left(ordinary) == connections_left(connection) - reserved,
            "both roles to find the server's limit",
        )


def test_environment_variables_for_libpq(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections use PGOPTIONS, but set their own search_path."""
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
    """Options from a service file are kept; the temporary file for libpq is deleted afterwards."""
    secrets = {"password": r"a:b\c d'\e:", "sslpassword": "s3 =x"}
    (tmp_path / "services").write_text("[mine]\napplication_name=by service\npassword=wrong\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPASSWORD", "another")
    params = {**server.params, **secrets, "dbname": database, "service": "mine"}
    environment = dict(os.environ)
    with service_file.hide_secrets(params, environment) as (shown, files):
        written = "".join([*map(str, shown.values()), *environment.values(), "another"])
        assert not [secret for secret in secrets.values() if secret in written]
        # Records what pg_dump gets, through a program that inherits only that.
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
