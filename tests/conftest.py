"""One server for the whole session, and a check that the tests leave it as they found it."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import psycopg
import pytest

from schema_runner import embedded
from schema_runner.postgres.server import Connection, Server

from .builds import BUILD
from .fork_server import ForkServer
from .project import Project, address, connect, wait_for

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")


def pytest_configure() -> None:
    # A shell starts commands in the background with SIGINT ignored, which processes inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not BUILD.is_installed:
        raise pytest.UsageError(f"PostgreSQL {BUILD.version} is missing: {BUILD.install}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the markers of whole folders; pyproject.toml describes them."""
    for folder, mark in {"unit": "versions", "postgres": "server"}.items():
        for item in items:
            if Path(__file__).with_name(folder) in item.path.parents:
                item.add_marker(mark)


def pytest_report_header() -> str:
    return f"server: PostgreSQL {BUILD.version}; Django {django.__version__}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[embedded.EmbeddedServer]:
    """A running server; if its programs are missing, the session fails."""
    cache = Path(tempfile.mkdtemp(prefix="schema-runner-tests-"))
    # The server may run as another user than the tests.
    cache.chmod(0o755)
    running = embedded.start(bin_dir=BUILD.bin_dir, settings=BUILD.settings, cache_dir=cache)
    try:
        # A connection that was just closed may still be listed for a moment, here and at the end.
        before = wait_for(lambda: _contents_if_unused(running), "the server to be unused")
        yield running
        wait_for(lambda: _contents(running) == before, "the server to be as it was found")
    finally:
        embedded.stop(running)
        shutil.rmtree(cache)


def _contents_if_unused(running: embedded.EmbeddedServer) -> list[tuple[str, str]] | None:
    """Return the contents of the server, or None while it has other connections."""
    contents = _contents(running)
    return None if "connection" in dict(contents) else contents


def _contents(running: embedded.EmbeddedServer) -> list[tuple[str, str]]:
    with psycopg.connect(running.conninfo()) as connection:
        return connection.execute(
            "SELECT 'database', datname FROM pg_database"
            " UNION ALL SELECT 'role', rolname FROM pg_roles"
            " UNION ALL SELECT 'schema', nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
            " UNION ALL SELECT 'connection', application_name FROM pg_stat_activity"
            "           WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " ORDER BY 1, 2"
        ).fetchall()


@pytest.fixture(autouse=True)
def needed_extensions(request: pytest.FixtureRequest) -> None:
    """Skip a test marked `needs` if the build cannot have the extension; fail if it is missing."""
    needed = {name for mark in request.node.iter_markers("needs") for name in mark.args}
    if lacking := needed & BUILD.lacks:
        pytest.skip(f"this PostgreSQL {BUILD.version} is built without {_listed(lacking)}")
    if not needed:
        return
    with psycopg.connect(request.getfixturevalue("postgresql").conninfo()) as connection:
        rows = connection.execute("SELECT name FROM pg_available_extensions").fetchall()
    if missing := needed - {name for (name,) in rows}:
        pytest.fail(f"{_listed(missing)} is missing: {BUILD.install}", pytrace=False)


def _listed(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))


@pytest.fixture(scope="session")
def server(postgresql: embedded.EmbeddedServer) -> Server:
    """The server, as the package itself connects to it."""
    return address(postgresql)


def _create(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"db_{abs(hash(request.node.nodeid)) % 10**12}"
    with server.maintenance() as maintenance:
        maintenance.execute(f'CREATE DATABASE "{name}"')
    yield name
    with server.maintenance() as maintenance:
        maintenance.execute(f'DROP DATABASE "{name}"')


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an empty database for this test."""
    yield from _create(server, request)


@pytest.fixture(scope="module")
def module_database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database for all tests of a module."""
    yield from _create(server, request)


@pytest.fixture
def rolled_back(server: Server, module_database: str) -> Iterator[Connection]:
    """A connection to the module's database, in a transaction that is rolled back."""
    with (
        connect(server, module_database) as connected,
        connected.transaction(force_rollback=True),
    ):
        yield connected


@pytest.fixture
def connection(server: Server, database: str) -> Iterator[Connection]:
    """A connection to this test's database."""
    with connect(server, database) as connected:
        yield connected


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """The process from which the runs of projects are forked."""
    started = ForkServer()
    yield started
    started.close()


@pytest.fixture
def project(
    server: Server, fork_server: ForkServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Project]:
    """A generated Django project with a unique NAME; the test must leave none of its databases."""
    yield from _generate(tmp_path, server, fork_server, request.node.nodeid)


@pytest.fixture(scope="module")
def shared_project(
    server: Server,
    fork_server: ForkServer,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Project]:
    """A project for all tests of a module, which only read the outcome of one run."""
    folder = tmp_path_factory.mktemp("shared")
    yield from _generate(folder, server, fork_server, request.node.nodeid)


def _generate(
    folder: Path, server: Server, fork_server: ForkServer, test: str
) -> Iterator[Project]:
    generated = Project(folder, server, f"p{abs(hash(test)) % 10**12}", fork_server)
    yield generated
    generated.end()
    assert generated.databases() == [], "the run has left a database"
