"""Test suites that block until the test lets them go on, and helpers to stop their runs."""

import os
import select
import signal
import time
from collections.abc import Sequence

from schema_runner.postgres.server import Connection

from ..observed import is_alive
from ..project import Process, Project, Result, outcome, wait_for

# Each test records its process and schema, then blocks until the file $GO (or `go`) exists.
WAITING = """
    class Waiting:
        def test_waits(self):
            ((schema, database),) = query("SELECT current_schema(), current_database()")
            Author.objects.create(name="here")
            record("waits", schema=schema, database=database)
            while not Path(os.environ.get("GO", "go")).exists():
                time.sleep(0.02)
    class A(Waiting, TestCase): pass
    class B(Waiting, TransactionTestCase): pass
"""


def waiting(project: Project, number: int) -> dict[int, str]:
    """Wait until this many processes are inside a test; map each process id to its schema."""
    found = wait_for(
        lambda: lines if len(lines := project.records("waits")) >= number else [],
        f"{number} processes in a test",
    )
    return {line["process"]: line["schema"] for line in found}


def end(project: Project, process: Process) -> Result:
    """Let the tests finish, and wait for the end of the run."""
    (project.folder / "go").touch()
    return outcome(process)


def send(process: Process, number: int, *, to_group: bool) -> None:
    """Send a signal to a run's main process, or to its process group."""
    (os.killpg if to_group else os.kill)(process.pid, number)


def read_until(process: Process, text: str, output: str = "stderr") -> str:
    """Read a run's output until it contains `text`; `outcome` returns the rest."""
    output_so_far, file = "", getattr(process, output).fileno()
    deadline = time.monotonic() + 60
    while text not in output_so_far:
        ready = select.select([file], [], [], max(deadline - time.monotonic(), 0))[0]
        read = os.read(file, 1 << 16).decode() if ready else ""
        assert read, f"waited in vain for {text!r} in {output_so_far!r}"
        output_so_far += read
    return output_so_far


def kill(process: Process) -> None:
    """Kill a run's main process with SIGKILL, without its workers."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def wait_for_end(processes: Sequence[int]) -> None:
    wait_for(lambda: not any(map(is_alive, processes)), "the workers to end")


def is_running(connection: Connection, project: Project, words: str) -> bool:
    """Whether a session in the host database has a current or last query that contains `words`."""
    rows = connection.execute(
        "SELECT FROM pg_stat_activity WHERE datname = %s AND strpos(query, %s) > 0",
        [project.test_name, words],
    )
    return bool(rows.fetchall())
