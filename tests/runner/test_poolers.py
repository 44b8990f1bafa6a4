"""pgbouncer between Django and the server."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from schema_runner.embedded.account import server_account

from ..project import MEETING, STOCK, Project, wait_for

pytestmark = pytest.mark.debian

MODES = {
    "stock": ("--testrunner", STOCK),
    "serial": (),
    "parallel": ("--parallel", "2"),
    "current": ("--parallel", "2", "--host-database", "current"),
}
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
# Does not serve a second client by a connection that another one has used, which would keep a
# database in use that is to be dropped; stock Django needs it as we do.
ONCE = "server_lifetime = 0"


class Pooler:
    """A pgbouncer in front of the server; `folder` is for its files and its socket."""

    def __init__(self, program: str, folder: Path, project: Project) -> None:
        self._program = program
        self._folder = folder
        self._project = project
        self._process: subprocess.Popen[bytes] | None = None
        self._account = server_account()
        self._account.own(folder)

    def start(self, *settings: str, mode: str = "session") -> None:
        """Have the project use it from now on."""
        params = self._project.server.params
        where = {"host": params["host"], "port": params["port"], "folder": self._folder}
        config = _CONFIG.format(**where, mode=mode, settings="\n".join(settings))
        (self._folder / "config").write_text(config)
        (self._folder / "users").write_text(f'"{params["user"]}" ""\n')
        # It does not run as root.
        account = self._account
        other = {"user": account.uid, "group": account.gid, "extra_groups": []}
        self._process = subprocess.Popen(
            [self._program, self._folder / "config"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **(other if account.is_foreign else {}),
        )
        wait_for((self._folder / f".s.PGSQL.{params['port']}").exists, "pgbouncer to listen")
        self._project.configure(f'DATABASES["default"]["HOST"] = {str(self._folder)!r}')

    def stop(self) -> None:
        """End it and its connections; the project uses the server again."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            host = self._project.server.params["host"]
            self._project.configure(f'DATABASES["default"]["HOST"] = {host!r}')


@pytest.fixture
def pooler(project: Project) -> Iterator[Pooler]:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.fail("pgbouncer is missing: apt install pgbouncer", pytrace=False)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir="/tmp") as folder:
        pooler = Pooler(program, Path(folder), project)
        yield pooler
        pooler.stop()


@pytest.fixture(scope="session")
def passes_options_on() -> bool:
    """Whether this pgbouncer knows what a client gives as `options`."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    program = shutil.which("pgbouncer", path=path) or "pgbouncer"
    result = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    version = result.stdout.split()[1].split(".")
    return (int(version[0]), int(version[1])) >= (1, 20)


TESTS = """
    import json
    import os
    import threading
    import schema_runner


    class Where:
        def test_where(self):
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_database(), current_schema()")
                where = cursor.fetchone()
            worker = schema_runner.current_worker()
            if worker:
                self.assertEqual((worker.database, worker.schema), where)
            self.assertEqual(Author.objects.count(), 0)
            Author.objects.create(name="here")
            with open("report", "a") as lines:
                lines.write(json.dumps([os.getpid(), *where]) + "\\n")

        def test_in_a_thread(self):
            def look():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT current_schema()")
                    found.extend(cursor.fetchone())
                connection.close()

            found = []
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            worker = schema_runner.current_worker()
            self.assertEqual(found, [worker.schema if worker else "public"])


    class First(Where, TestCase):
        pass


    class Second(Where, TestCase):
        pass


    class Third(Where, TransactionTestCase):
        pass


    class Fourth(Where, TransactionTestCase):
        pass
"""


REFUSING = [ONCE]
IGNORING = [ONCE, "ignore_startup_parameters = options"]
TRACKING = [ONCE, "track_extra_parameters = search_path"]


def reported(project: Project) -> list[tuple[int, str, str]]:
    lines = (project.folder / "report").read_text().splitlines()
    return [tuple(json.loads(line)) for line in lines]


@pytest.fixture
def pooled(project: Project) -> Project:
    """A project that tells in which process, database and schema its tests are."""
    project.tests(TESTS)
    return project


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "settings", [REFUSING, IGNORING, TRACKING], ids=["refusing", "ignoring", "tracking"]
)
def test_a_pooler_of_sessions(
    pooled: Project, pooler: Pooler, passes_options_on: bool, settings: list[str], mode: str
) -> None:
    """Whatever it does with startup options, each worker has a schema of its own."""
    if settings is TRACKING and not passes_options_on:
        pytest.skip("this pgbouncer cannot pass options on")
    pooler.start(*settings)
    if mode == "current":
        pooled.create_database()
    pooled.run(*MODES[mode]).passed()
    lines = reported(pooled)
    assert len(lines) == 4
    if mode != "stock":
        assert all(schema.startswith("test_w") for _, _, schema in lines)
    places = set(lines)
    assert len({schema for *_, schema in places}) == len(places)
    pooler.stop()
    if mode == "current":
        assert pooled.databases() == [pooled.name]
        with pooled.host(pooled.name) as connection:
            rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test'")
            assert rows.fetchall() == []
        pooled.drop_database()
    assert pooled.databases() == []


def test_a_pooler_that_keeps_connections(pooled: Project, pooler: Pooler) -> None:
    """Nothing removes a database that they use, as under stock, so it is told and stays."""
    pooler.start()
    result = pooled.run("--parallel", "2").passed()
    assert f"Database {pooled.test_name!r} stays, for the next run to remove" in result.stdout
    assert pooled.databases() == [pooled.test_name]
    pooler.stop()
    result = pooled.run().passed()
    assert f"Removed what an earlier run left: database {pooled.test_name}" in result.stdout
    assert pooled.databases() == []


@pytest.mark.parametrize("mode", ["parallel", "current"])
def test_a_run_that_is_killed_behind_a_pooler(pooled: Project, pooler: Pooler, mode: str) -> None:
    """The pooler ends its sessions, so the next run takes it for dead and cleans up."""
    pooled.tests(
        MEETING
        + """
        import signal


        class Dies(Meeting, TestCase):
            def test_it(self):
                self.meet()
                os.kill(os.getppid(), signal.SIGKILL)


        class Alike(Dies):
            pass
        """,
        module="test_dying",
    )
    pooler.start(ONCE)
    pooled.create_database()
    label = "library.test_generated"
    assert pooled.run(*MODES[mode], "library.test_dying").code < 0
    with pooled.host(pooled.name if mode == "current" else None) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test_w'")
        left = [name for (name,) in rows]
    assert len(left) == 2
    result = pooled.run(*MODES[mode], label).passed()
    assert all(name in result.stdout for name in left)
    assert pooled.databases() == [pooled.name]
    with pooled.host(pooled.name) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^test'")
        assert rows.fetchall() == []
    pooler.stop()
    pooled.drop_database()


@pytest.mark.parametrize("mode", ["serial", "current"])
@pytest.mark.parametrize("settings", [[], [ONCE]], ids=["kept", "once"])
def test_a_pooler_of_transactions(
    pooled: Project, pooler: Pooler, settings: list[str], mode: str
) -> None:
    """Sessions that clients share prove nobody alive: refused before anything is made or dropped.

    With clone databases, which no lease guards, it is as under stock.
    """
    pooled.create_database()
    pooler.start(*settings, mode="transaction")
    result = pooled.run(*MODES[mode])
    assert result.code == 1
    assert "CommandError: The connection leads to a pooler" in result.stderr
    assert pooled.databases() == [pooled.name]
    if settings:
        pooled.run("--isolation", "database").passed()
    pooler.stop()
    pooled.drop_database()
