"""Several processes, none a descendant of another, that share what one of them builds."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schema_runner.postgres.host_request import HostRequest
from schema_runner.postgres.removal import clear_databases, clear_schemas
from schema_runner.postgres.server import Server

from ..faults.waiting import read_until
from ..project import wait_for

Process = subprocess.Popen[str]
Start = Callable[..., Process]
MODES = ["schemas", "clones", "project"]
each_mode = pytest.mark.parametrize("mode", MODES)
WAITS = "Waiting for another run that builds the same schemas.\n"


@pytest.fixture
def name(server: Server, mode: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a host database, which exists only if it is the project's own."""
    if mode == "project":
        yield request.getfixturevalue("database")
        return
    yield f"shared_{abs(hash(request.node.nodeid)) % 10**12}"


@pytest.fixture
def start(server: Server, name: str, mode: str) -> Iterator[Start]:
    """Start a process that shares a host database; end all of them after the test."""
    started: list[Process] = []

    def start(*, fingerprint: str = "f" * 64, **sharing: Any) -> Process:
        arguments = [server.params, name, mode, fingerprint, {"stays": False, **sharing}]
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.postgres.sharing_process",
                json.dumps(arguments),
            ],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def left(server: Server, name: str, mode: str) -> Callable[[], list[str]]:
    """List what the processes have left: databases or, in the project's own, schemas."""

    def left() -> list[str]:
        with server.maintenance() if mode != "project" else server.connect(name) as connection:
            query = "SELECT datname FROM pg_database WHERE datname LIKE %s"
            if mode == "project":
                query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test%%' OR %s = ''"
            return [found for (found,) in connection.execute(query, [f"{name}%"])]

    return left


def go_on(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def step(process: Process, until: str) -> str:
    """Let a process go on; return what it prints until a line."""
    go_on(process)
    return read_until(process, f"{until}\n", "stdout")


def end(process: Process) -> None:
    step(process, "ended")
    assert process.wait() == 0


def select_ready(processes: list[Process]) -> list[Process]:
    """Wait until a process prints something, and return those that do."""
    by_file = {process.stdout.fileno(): process for process in processes if process.stdout}
    return [by_file[file] for file in select.select([*by_file], [], [], 60)[0]]


def kill(process: Process) -> None:
    process.kill()
    process.wait()


def check_removal(server: Server, start: Start, left: Callable[[], list[str]]) -> None:
    """Check that a run removes what killed processes have left, once their sessions have ended."""
    sessions = "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend'"
    sessions += " AND pid <> pg_backend_pid()"
    with server.maintenance() as connection:
        wait_for(lambda: not connection.execute(sessions).fetchall(), "the sessions to end")
    later = start(fingerprint="e" * 64)
    read_until(later, "building\n", "stdout")
    step(later, "built")
    end(later)
    assert left() == []


@each_mode
def test_one_builds_and_the_others_copy(start: Start, left: Callable[[], list[str]]) -> None:
    """The last to leave drops everything, even if the builder leaves first, or all at once."""
    first = start()
    read_until(first, "building\n", "stdout")
    others = [start() for _ in range(3)]
    for other in others:
        read_until(other, WAITS, "stdout")
    step(first, "built")
    # The others may not have started to copy.
    end(first)
    for other in others:
        assert read_until(other, "copied\n", "stdout").endswith("copied\n")
    late = start()
    assert read_until(late, "\n", "stdout") == "copied\n"
    assert left()
    for process in (*others, late):
        go_on(process)
    for process in (*others, late):
        read_until(process, "ended\n", "stdout")
    assert left() == []


@each_mode
def test_another_builds_if_the_builder_is_killed(
    server: Server, start: Start, left: Callable[[], list[str]]
) -> None:
    """Any later run drops what the killed one has left."""
    first = start()
    read_until(first, "building\n", "stdout")
    others = [start() for _ in range(2)]
    for other in others:
        read_until(other, WAITS, "stdout")
    kill(first)
    builder = next(iter(select_ready(others)))
    read_until(builder, "building\n", "stdout")
    others.remove(builder)
    step(builder, "built")
    end(builder)
    read_until(others[0], "copied\n", "stdout")
    end(others[0])
    check_removal(server, start, left)


@each_mode
@pytest.mark.parametrize("killed", ["builder", "other", "last"])
def test_the_others_go_on_if_one_is_killed(
    server: Server, start: Start, left: Callable[[], list[str]], killed: str
) -> None:
    """Any later run drops what the killed one has left."""
    first = start()
    read_until(first, "building\n", "stdout")
    step(first, "built")
    others = [start(), start()]
    for other in others:
        read_until(other, "copied\n", "stdout")
    processes = [*others, first] if killed == "other" else [first, *others]
    if killed != "last":
        kill(processes.pop(0))
    late = start()
    read_until(late, "copied\n", "stdout")
    for process in processes:
        end(process)
    if killed == "last":
        kill(late)
        assert left()
    else:
        end(late)
    check_removal(server, start, left)


@each_mode
def test_a_pool_stays(
    start: Start, left: Callable[[], list[str]], name: str, server: Server, mode: str
) -> None:
    """Later runs use it, unless they want one that was built later."""
    first = start(stays=True)
    read_until(first, "building\n", "stdout")
    second = start(stays=True)
    read_until(second, WAITS, "stdout")
    step(first, "built")
    read_until(second, "copied\n", "stdout")
    for process in (first, second):
        end(process)
    assert left()
    third = start(stays=True)
    assert read_until(third, "\n", "stdout") == ("copied\n" if mode == "clones" else "leased\n")
    end(third)
    passing = start()
    read_until(passing, "building\n", "stdout")
    step(passing, "built")
    end(passing)
    late = start(stays=True, not_before=time.time_ns() // 1_000_000)
    read_until(late, "building\n", "stdout")
    step(late, "built")
    end(late)
    request = HostRequest(server, name, mode == "project", 1, 140000, print)
    clear = clear_schemas if mode == "project" else clear_databases
    assert clear(request)["pool"] == 2
    assert left() == []
