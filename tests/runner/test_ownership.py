"""A run uses and drops only what a run of the same role must have created."""

import os
import signal
from collections.abc import Iterator

import pytest
from psycopg import sql

from schema_runner.postgres import schemas
from schema_runner.postgres.names import Marker, MarkerState

from ..project import PARALLEL, Project, outcome, wait_for
from .test_keepdb import drop_databases
from .test_refusals import TESTS
from .test_roles import roles

pytestmark = pytest.mark.oldest

WAITING = """
    class Waiting(TestCase):
        def test_it(self):
            open("begun", "w").close()
            wait_for("go")
"""
# Makes workers use clone databases.
OBSTACLE = 'migrations.RunSQL("CREATE SCHEMA beside")'


@pytest.fixture
def kept(project: Project) -> Iterator[Project]:
    """A project of two classes, whose databases are removed afterwards."""
    project.tests(f"{TESTS}class Alike(Any): pass\n")
    yield project
    project.end()
    drop_databases(project)


UNMADE = "it is not marked by a run, and runs that keep schemas do not replace it"


def test_databases_kept_by_stock_django_are_left_alone(kept: Project) -> None:
    """Databases that stock Django kept are left alone.

    The run uses other names, and reuses those.
    """
    stock = [kept.test_name, f"{kept.test_name}_1"]
    for name in stock:
        kept.create_database(name)
        kept.query("CREATE TABLE of_stock ()", database=name)
    result = kept.run("--keepdb", "--noinput").passed()
    line = f"Database {stock[0]!r} is left alone: {UNMADE}. "
    assert f"{line}If you do not need it, drop it: dropdb {stock[0]}" in result.stdout
    (made,) = set(kept.databases()) - {*stock}
    again = kept.run("--keepdb", *PARALLEL, stdin="no\n").passed("Using the schemas from ")
    assert "is left alone" not in again.stdout
    assert set(kept.databases()) == {*stock, made}
    # Clones get other names, too.
    kept.migration("0002_more", "0001_initial", OBSTACLE)
    kept.drop_database(stock[0])
    for _ in range(2):
        result = kept.run("--keepdb", "--noinput", *PARALLEL).passed()
        assert "uses clone databases" in result.stdout
    for name in (stock[0], made):
        kept.drop_database(name)
    kept.query("SELECT FROM of_stock", database=stock[1])


def test_objects_in_a_kept_database(kept: Project) -> None:
    """Objects left by tests do not protect a kept database, but objects of others do."""
    making = "CREATE SCHEMA IF NOT EXISTS of_tests"
    kept.tests(f"class Making(TransactionTestCase):\n    def test_it(self): query({making!r})\n")
    kept.run("--keepdb").passed()
    kept.run("--keepdb").passed("Using the schemas from ")
    kept.run("--clear-pools").passed()
    assert kept.databases() == []
    kept.run("--keepdb").passed()
    kept.query("CREATE TABLE precious (n int)")
    kept.run("--keepdb").passed("Using the schemas from ")
    result = kept.run("--clear-pools").passed()
    assert "There are no pools to remove." in result.stdout
    why = "is left alone: it contains table public.precious, which no run created."
    assert why in result.stdout
    kept.query("SELECT FROM precious")


def test_planted_statements_are_not_executed(kept: Project) -> None:
    """Any role that may create schemas can mark one as a template."""
    mallory = f"{kept.name}_mallory"
    kept.configure('SCHEMA_RUNNER = {"HOST_DATABASE": "current"}')
    kept.create_database()
    kept.run("--keepdb").passed()
    with roles(kept, **{mallory: ""}), kept.host(kept.name) as connection:
        (real,) = (one for one in schemas.list_own(connection) if "template" in one.name)
        contents = sql.Identifier(real.name, "contents")
        row = connection.execute(sql.SQL("SELECT * FROM {}").format(contents)).fetchone()
        assert row is not None
        facts, before, *more = row
        connection.execute(f"GRANT CREATE ON DATABASE {kept.name} TO {mallory}")
        connection.execute(f"SET ROLE {mallory}")
        connection.execute(
            "CREATE SCHEMA test_template_1 CREATE TABLE contents (facts text, before text[],"
            " after text[], inventory text[], is_proved boolean)"
        )
        planted = [f"ALTER ROLE {mallory} SUPERUSER", *before]
        insert = "INSERT INTO test_template_1.contents VALUES (%s, %s, %s, %s, %s)"
        connection.execute(insert, [facts, planted, *more])
        schemas.mark(connection, "test_template_1", real.marker)
        connection.execute("RESET ROLE")
        result = kept.run("--keepdb", *PARALLEL)
        is_superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = %s"
        assert connection.execute(is_superuser, [mallory]).fetchone() == (False,)
        result.passed()
        connection.execute(f"SET ROLE {mallory}")
        schemas.mark(connection, "test_template_1", Marker(1, MarkerState.READY))
        connection.execute("RESET ROLE")
        result = kept.run("--clear-pools").passed()
        assert f"they belong to other roles: test_template_1 ({mallory})" in result.stdout
        assert connection.execute("SELECT FROM test_template_1.contents").fetchall() == [()]
        connection.execute(f"DROP OWNED BY {mallory} CASCADE")
        assert list(kept.schemas(kept.name)) == []
    kept.drop_database()


def wait_for_lock(project: Project, statement: str, sessions: int = 1) -> list[int]:
    """Wait until this many sessions wait for a lock with a statement; return their PIDs."""
    query = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
    query += " WHERE NOT granted AND starts_with(query, %s)"

    def waiting() -> list[int] | None:
        rows = project.query(query, statement, database="postgres")
        return [pid for (pid,) in rows] if len(rows) == sessions else None

    return wait_for(waiting, statement)


def test_a_run_killed_while_it_created_its_database(kept: Project) -> None:
    """The server completes CREATE DATABASE after the next run has found the name unused."""
    create = f'CREATE DATABASE "{kept.test_name}"'
    with kept.maintenance() as connection, connection.transaction():
        connection.execute("LOCK TABLE pg_database IN SHARE MODE")
        killed = kept.start()
        wait_for_lock(kept, create)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        following = kept.start()
        wait_for_lock(kept, create, sessions=2)
    outcome(following).passed()
    assert kept.databases() == []


def test_a_run_killed_before_it_marked_its_database(kept: Project) -> None:
    """The next run drops the unmarked database, although another run is alive."""
    kept.tests(WAITING, "test_waiting")
    alive = kept.start("library.test_waiting")
    wait_for((kept.folder / "begun").exists, "the first run to begin with its tests")
    with kept.maintenance() as connection, connection.transaction():
        # COMMENT waits for this lock, and CREATE DATABASE does not.
        connection.execute("LOCK TABLE pg_shdescription IN SHARE MODE")
        killed = kept.start("library.test_generated")
        (pid,) = wait_for_lock(kept, f'COMMENT ON DATABASE "{kept.test_name}_')
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        connection.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
    first, left = kept.databases()
    assert first == kept.test_name
    assert kept.query(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
        left,
        database="postgres",
    ) == [(None,)]
    result = kept.run("library.test_generated").passed()
    assert f"Removed leftovers of an earlier run: database {left}.\n" in result.stdout
    assert kept.databases() == [first]
    (kept.folder / "go").touch()
    outcome(alive).passed()
    assert kept.databases() == []
