"""pgbouncer between Django and the server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schema_runner.embedded.account import server_account

from ..project import PARALLEL, SERIAL, WITH_STOCK, Mode, Project, wait_for

pytestmark = pytest.mark.debian

CURRENT = (*PARALLEL, "--host-database", "current")
_CONFIG = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pidfile = {folder}/pid
logfile = {folder}/log
pool_mode = {mode}
{settings}
"""
# Closes each server connection after one client, because an open one prevents dropping the
# database. Stock Django needs this too.
ONCE = "server_lifetime = 0"
_SESSION = """
    SELECT current_user, current_setting('search_path'), current_setting('lock_timeout'),
           current_setting('client_connection_check_interval')
"""


class Pooler:
    """A pgbouncer in front of the server. `folder` holds its files and its socket."""

    def __init__(self, program: str, folder: Path, project: Project) -> None:
        self._program = program
        self._folder = folder
        self._project = project
        self._process: subprocess.Popen[bytes] | None = None
        self._account = server_account()
        self._account.chown(folder)

    def start(self, *settings: str, mode: str = "session") -> None:
        """Start it, and configure the project to use it."""
        params = self._project.server.params
        where = {"host": params["host"], "port": params["port"], "folder": self._folder}
        config = _CONFIG.format(**where, mode=mode, settings="\n".join(settings))
        (self._folder / "config").write_text(config)
        (self._folder / "users").write_text(f'"{params["user"]}" ""\n')
        how: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        if self._account.is_other_user:  # pgbouncer refuses to run as root.
            how |= {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        self._process = subprocess.Popen([self._program, self._folder / "config"], **how)
        wait_for((self._folder / f".s.PGSQL.{params['port']}").exists, "pgbouncer to listen")
        self._project.configure(f'DATABASES["default"]["HOST"] = {str(self._folder)!r}')

    def stop(self) -> None:
        """Stop it, and configure the project to use the server again."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            host = self._project.server.params["host"]
            self._project.configure(f'DATABASES["default"]["HOST"] = {host!r}')

    def session(self, database: str) -> tuple[Any, ...]:
        """Return settings of a new client's session."""
        params = {**self._project.server.params, "host": str(self._folder), "dbname": database}
        with psycopg.connect(**params, autocommit=True) as connection:
            return connection.execute(_SESSION).fetchone() or ()

    @property
    def forwards_options(self) -> bool:
        """Whether this version forwards `options` of clients."""
        version = subprocess.check_output([self._program, "--version"], text=True).split()[1]
        major, minor, *_ = version.split(".")
        return (int(major), int(minor)) >= (1, 20)


@pytest.fixture
def pooler(project: Project) -> Iterator[Pooler]:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.fail("pgbouncer is missing: apt install pgbouncer", pytrace=False)
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir="/tmp") as folder:
        pooler = Pooler(program, Path(folder), project)
        yield pooler
        pooler.stop()


TESTS = """
    from helpers.elsewhere import in_a_thread

    class Where:
        def test_where(self):
            ((database, schema),) = query("SELECT current_database(), current_schema()")
            worker = schema_runner.current_worker()
            if worker:
                self.assertEqual((worker.database, worker.schema), (database, schema))
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="here")
            record("is", where=[database, schema], is_told="PGOPTIONS" in os.environ)

        def test_in_a_thread(self):
            worker = schema_runner.current_worker()
            found = in_a_thread(lambda: query("SELECT current_schema()"))
            self.assertEqual(found, [(worker.schema if worker else "public",)])
    class First(Where, TestCase): pass
    class Second(Where, TestCase): pass
    class Third(Where, TransactionTestCase): pass
    class Fourth(Where, TransactionTestCase): pass
"""
DYING = """
    class Dies(TestCase):
        def test_it(self):
            meet(number=2)
            os.kill(os.getppid(), signal.SIGKILL)
    class Alike(Dies): pass
"""


@pytest.fixture
def pooled(project: Project) -> Project:
    """A project whose tests record their process, database and schema."""
    project.tests(TESTS)
    project.tests(DYING, module="test_dying")
    return project


def runs_schemas(project: Project, database: str | None = None) -> list[str]:
    """List the schemas of runs in a database, by default in the project's own."""
    made = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^test'"
    return [name for (name,) in project.query(made, database=database or project.name)]


POOLERS = {
    "refusing": [ONCE],
    "ignoring": [ONCE, "ignore_startup_parameters = options"],
    "tracking": [ONCE, "track_extra_parameters = search_path"],
}
MODES = {"stock": WITH_STOCK, "serial": SERIAL, "parallel": PARALLEL, "current": CURRENT}
SESSIONS = [*product(["refusing"], MODES), *product(["ignoring", "tracking"], list(MODES)[2:])]
WHERE = "library.test_generated"


@pytest.mark.parametrize(("options", "mode"), SESSIONS)
def test_session_pooling(pooled: Project, pooler: Pooler, options: str, mode: str) -> None:
    """Each worker has its own schema, however the pooler handles startup options."""
    if options == "tracking" and not pooler.forwards_options:
        pytest.skip("this pgbouncer cannot pass options on")
    pooler.start(*POOLERS[options])
    if mode == "current":
        pooled.create_database()
    pooled.run(*MODES[mode], WHERE).passed()
    lines = pooled.records("is")
    assert len(lines) == 4
    # PGOPTIONS is set only if the pooler accepts it.
    assert {line["is_told"] for line in lines} == {options == "tracking"}
    places = {(line["process"], *line["where"]) for line in lines}
    assert len({schema for *_, schema in places}) == len(places)
    if mode != "stock":
        assert all(schema.startswith("test_w") for *_, schema in places)
    pooler.stop()
    if mode == "current":
        assert pooled.databases() == [pooled.name]
        assert runs_schemas(pooled) == []
        pooled.drop_database()
    assert pooled.databases() == []


def test_a_pooler_that_keeps_connections_open(pooled: Project, pooler: Pooler) -> None:
    """The database cannot be dropped, as in stock Django, and a line says so."""
    pooler.start()
    result = pooled.run(*PARALLEL, WHERE).passed()
    assert f"Database {pooled.test_name!r} is left for the next run to remove" in result.stdout
    assert pooled.databases() == [pooled.test_name]
    pooler.stop()
    result = pooled.run(WHERE).passed()
    assert f"Removed leftovers of an earlier run: database {pooled.test_name}" in result.stdout
    assert pooled.databases() == []


@pytest.mark.parametrize("mode", [PARALLEL, CURRENT], ids=["parallel", "current"])
def test_a_run_that_is_killed_behind_a_pooler(pooled: Project, pooler: Pooler, mode: Mode) -> None:
    """The pooler closes the sessions of the killed run, so the next run cleans up."""
    pooler.start(ONCE)
    pooled.create_database()
    assert pooled.run(*mode, "library.test_dying").code < 0
    left = runs_schemas(pooled, pooled.name if mode == CURRENT else pooled.test_name)
    left = [name for name in left if name.startswith("test_w")]
    assert len(left) == 2
    result = pooled.run(*mode, WHERE).passed()
    assert all(name in result.stdout for name in left)
    assert pooled.databases() == [pooled.name]
    assert runs_schemas(pooled) == []
    pooler.stop()
    pooled.drop_database()


@pytest.mark.parametrize("settings", [[], [ONCE]], ids=["kept", "once"])
def test_transaction_pooling(pooled: Project, pooler: Pooler, settings: list[str]) -> None:
    """The run refuses to start: sessions shared by clients cannot hold leases."""
    pooled.create_database()
    pooler.start(*settings, mode="transaction")
    before = pooler.session(pooled.name)
    for mode in (SERIAL, CURRENT):
        pooled.run(*mode, WHERE).failed("CommandError: The connection leads to a pooler")
        assert pooled.databases() == [pooled.name]
        assert runs_schemas(pooled) == []
        # The next client may get the same sessions.
        assert [pooler.session(name) for name in ("postgres", pooled.name)] == [before, before]
    if settings:  # As in stock Django: clone databases need no lease.
        pooled.run("--isolation", "database", WHERE).passed()
    pooler.stop()
    pooled.drop_database()
