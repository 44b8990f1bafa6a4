"""A whole Django project, written into a folder and run in a subprocess."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

import pytest
from psycopg import sql

from schema_runner import embedded
from schema_runner.postgres.names import Marker
from schema_runner.postgres.server import Connection, Server

from .fork_server import FLAGS, ForkedRun, ForkServer

Process = subprocess.Popen[str] | ForkedRun
T = TypeVar("T")

# The arguments of a run, and the start method of its workers.
Mode = tuple[str, ...]
SERIAL: Mode = ()
PARALLEL: Mode = ("--parallel", "2")
METHODS = ["fork", "spawn", "forkserver"]
each_mode = pytest.mark.parametrize("mode", [SERIAL, PARALLEL], ids=["serial", "parallel"])
_STARTS = [(SERIAL, "fork"), *((PARALLEL, method) for method in METHODS)]
_IDS = ["serial", *METHODS]
each_start = pytest.mark.parametrize(("mode", "method"), _STARTS, ids=_IDS)
# Without forkserver, whose workers get the same data as spawned ones.
fork_and_spawn = pytest.mark.parametrize(("mode", "method"), _STARTS[:3], ids=_IDS[:3])
APPS = Path(__file__).parent / "apps"

STOCK = "django.test.runner.DiscoverRunner"
WITH_STOCK: Mode = ("--testrunner", STOCK)
each_runner = pytest.mark.parametrize(
    "mode", [WITH_STOCK, SERIAL, PARALLEL], ids=["stock", "serial", "parallel"]
)

_MANAGE = """
    import multiprocessing
    import os
    import sys

    if __name__ == "__main__":
        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        # The folder of `helpers`.
        sys.path.append({apps!r})
        if method := os.environ.get("START_METHOD"):
            multiprocessing.set_start_method(method)
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
"""
_SETTINGS = """
    SECRET_KEY = "generated"
    INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "library"]
    DATABASES = {{
        "default": {{
            "ENGINE": "django.db.backends.postgresql",
            "NAME": {name!r},
            "HOST": {host!r},
            "PORT": {port!r},
            "USER": {user!r},
        }}
    }}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
    TEST_RUNNER = "schema_runner.SchemaDiscoverRunner"
    USE_TZ = True
    STATIC_URL = "static/"
"""
_MODELS = """
    from django.db import models

    class Author(models.Model):
        name = models.CharField(max_length=100, unique=True)

    class Book(models.Model):
        title = models.CharField(max_length=100)
        author = models.ForeignKey(Author, models.CASCADE)
"""
_MIGRATION = """
    from django.db import migrations, models

    class Migration(migrations.Migration):
        initial = True
        dependencies = []
        operations = [
            migrations.CreateModel("Author", [
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=100, unique=True)),
            ]),
            migrations.CreateModel("Book", [
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("title", models.CharField(max_length=100)),
                ("author", models.ForeignKey("library.Author", models.CASCADE)),
            ]),
        ]
"""


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code (negative: a signal) and the output of a run."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def passed(self, *said: str) -> "Result":
        """Return this result; fail unless the run succeeded and stderr contains these texts."""
        return self._ended(0, *said)

    def failed(self, *said: str) -> "Result":
        """Return this result; fail unless the run failed and stderr contains these texts."""
        return self._ended(1, *said)

    def refused(self, *said: str) -> "Result":
        """Like `failed`, and fail if there is a traceback."""
        assert "Traceback" not in self.stderr, self.output
        return self.failed(*said)

    def _ended(self, code: int, *said: str) -> "Result":
        assert self.code == code, self.output
        assert [text for text in said if text not in self.stderr] == [], self.output
        return self


def connect(server: Server, database: str, application: str | None = None) -> Connection:
    """Connect as the package does, but with the server's default search_path."""
    connection = server.connect(database, application)
    connection.execute("SET search_path TO DEFAULT")
    return connection


class Project:
    """A project with one app, `library`, and two models; tests add what they need."""

    def __init__(
        self, folder: Path, server: Server, name: str, fork_server: ForkServer | None = None
    ) -> None:
        self.folder = folder
        self.server = server
        self.fork_server = fork_server
        self.name = name
        self.test_name = f"test_{name}"
        self._started: list[Process] = []
        where = {key: server.params[key] for key in ("host", "port", "user")}
        self.write("manage.py", _MANAGE.format(apps=str(APPS)))
        self.write("settings.py", _SETTINGS.format(name=name, **where))
        self.write("library/__init__.py", "")
        self.write("library/models.py", _MODELS)
        self.write("library/migrations/__init__.py", "")
        self.write("library/migrations/0001_initial.py", _MIGRATION)

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text))

    def configure(self, text: str) -> None:
        """Append to the settings."""
        with (self.folder / "settings.py").open("a") as settings:
            settings.write(f"\n{dedent(text)}\n")

    def migration(self, name: str, after: str, operations: str) -> None:
        """Add a migration of `library` with the operations in the text."""
        text = "from django.db import migrations, models\nclass Migration(migrations.Migration):\n"
        text += f"    dependencies = [('library', '{after}')]\n"
        text += f"    operations = [{dedent(operations)}]\n"
        self.write(f"library/migrations/{name}.py", text)

    def tests(self, text: str, module: str = "test_generated") -> None:
        """Write a test module that imports the models and everything in `helpers`."""
        names = "from helpers import *\nfrom library.models import Author, Book\n\n\n"
        self.write(f"library/{module}.py", names + dedent(text))

    def seed(self) -> None:
        """Add a fixture, a seeder and a worker set-up; see `helpers.seeds`."""
        row = {"model": "library.author", "pk": 7, "fields": {"name": "from a fixture"}}
        self.write("library/fixtures/authors.json", json.dumps([row]))
        given = {"FIXTURES": ["authors"], "SEEDERS": ["helpers.seeds.seed"]}
        given["WORKER_SETUP"] = ["helpers.seeds.set_up"]
        self.configure(f"SCHEMA_RUNNER = {given}")

    def records(self, what: str | None = None, *, name: str = "recorded") -> list[dict[str, Any]]:
        """List what `helpers.record` has written, all or of one kind; complete lines only."""
        path = self.folder / name
        *lines, _ = path.read_text().split("\n") if path.exists() else [""]
        records = [json.loads(line) for line in lines]
        return [record for record in records if what in (None, record["what"])]

    def forget(self) -> None:
        """Delete the records, and the files of `helpers.meet`."""
        for path in [self.folder / "recorded", *self.folder.glob("met-*")]:
            path.unlink(missing_ok=True)

    def run(self, *arguments: str, env: dict[str, str] | None = None, stdin: str = "") -> Result:
        """Run `manage.py test` to its end."""
        return outcome(self.start(*arguments, env=env), stdin)

    def shell(self, line: str, **env: str) -> Process:
        """Start a shell command line in the project's folder, in an activated environment."""
        variables = _environment()
        path = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
        modules = os.pathsep.join([str(APPS), *filter(None, [variables.get("PYTHONPATH")])])
        return self._execute(
            ["sh", "-c", line], {**variables, "PATH": path, "PYTHONPATH": modules, **env}
        )

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> Process:
        """Start `manage.py test` in a new session: a fork, or a new interpreter if needed."""
        return self._start("test", *arguments, env=env)

    def check(self) -> Result:
        """Run `manage.py check`."""
        return outcome(self._start("check"))

    def _start(self, *arguments: str, env: dict[str, str] | None = None) -> Process:
        variables = {**_environment(), **(env or {})}
        command = ["manage.py", *arguments]
        if self.fork_server is None or _needs_interpreter(env or {}):
            return self._execute([sys.executable, *FLAGS, *command], variables)
        self._started.append(self.fork_server.start(command, self.folder, variables))
        return self._started[-1]

    def _execute(self, command: list[str], env: dict[str, str]) -> Process:
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=env,
            text=True,
            start_new_session=True,
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Kill runs that a failed test has left."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def maintenance(self) -> AbstractContextManager[Connection]:
        return self.server.maintenance()

    def host(self, name: str | None = None) -> Connection:
        """Connect to the host database, or to another one."""
        return connect(self.server, name or self.test_name)

    def query(
        self, statement: str, *parameters: Any, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Execute a statement in the host database, or in another; return its rows, if any."""
        with self.host(database) as connection:
            cursor = connection.execute(statement, parameters or None)
            return [] if cursor.description is None else cursor.fetchall()

    def create_database(self, name: str | None = None) -> None:
        """Create the project's own database, or another one."""
        with self.maintenance() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(_quoted(name or self.name)))

    def drop_database(self, name: str | None = None) -> None:
        with self.maintenance() as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(_quoted(name or self.name)))

    def databases(self) -> list[str]:
        """List the databases whose name contains this project's."""
        with self.maintenance() as connection:
            rows = connection.execute(
                "SELECT datname FROM pg_database WHERE strpos(datname, %s) > 0 ORDER BY 1",
                [self.name],
            )
            return [name for (name,) in rows]

    def schemas(self, name: str | None = None) -> dict[str, Marker | None]:
        """Map a database's schemas, by default the host's, to their markers; except `public`."""
        if (name or self.test_name) not in self.databases():
            return {}
        with self.host(name) as connection:
            rows = connection.execute(
                "SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace"
                " WHERE nspname !~ '^(pg_|information_schema$|public$)' ORDER BY 1"
            )
            return {name: Marker.parse(comment) for name, comment in rows}


def address(server: embedded.EmbeddedServer) -> Server:
    """Return the embedded server, as the package itself connects to it."""
    params = {"host": str(server.socket_dir), "port": server.port, "user": server.user}
    return Server({**params, "dbname": "postgres"})


def outcome(process: Process, stdin: str = "") -> Result:
    """Wait for the end of a run, and return its result."""
    stdout, stderr = process.communicate(stdin, timeout=120)
    return Result(process.returncode, stdout, stderr)


def _needs_interpreter(env: dict[str, str]) -> bool:
    """Whether workers start interpreters, or the test sets variables of the interpreter."""
    starts = env.get("START_METHOD", "fork") != "fork"
    return starts or any(name.startswith("PYTHON") for name in env)


def _quoted(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def _environment() -> dict[str, str]:
    removed = ("PG", "DJANGO_", "SCHEMA_RUNNER_", "COV_", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(removed)}


def wait_for(condition: Callable[[], T], what: str) -> T:
    """Call the condition until it returns a true value, and return that."""
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return value
