"""Servers that restart, end sessions or run out of disk: the run ends, and the next cleans up."""

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from schema_runner import embedded
from schema_runner.embedded.account import server_account
from schema_runner.embedded.cluster import DEFAULT_SETTINGS

from ..builds import BUILD
from ..fork_server import ForkServer
from ..observed import Reported, finish
from ..project import METHODS, Project, address, wait_for
from . import soak
from .matrix import MODES, PHASES, SERIAL, Kill, Run, sessions, wait_for_phase
from .soak import OUTCOMES, ROUNDS, seeded

# In each round.
FAULTS_PER_ROUND = 2
SETTINGS = {**DEFAULT_SETTINGS, "max_wal_size": "64MB", "shared_buffers": "16MB"}
SIZE = "400m"
_CHUNK = 2**20
# A run that fails must mention one of these.
CAUSES = re.compile("server|connection|space left|starting up|recovery", re.IGNORECASE)


class FaultyServer(NamedTuple):
    """A server of this module, and the mount point of its disk if that can be filled."""

    server: embedded.EmbeddedServer
    disk: Path | None

    def pg_ctl(self, *arguments: str) -> int:
        data, log = self.server.data_dir, self.server.data_dir / "restarted.log"
        program = self.server.bin_dir / "pg_ctl"
        words = [*arguments, "-w", "-D", str(data)]
        words += ["-l", str(log)] if arguments[0] == "restart" else []
        return server_account().run(program, *words).returncode

    def fill(self, left: int) -> None:
        """Fill the disk except for this many bytes."""
        free = shutil.disk_usage(self.disk).free
        # The server may use some of the space in the meantime.
        with suppress(OSError), (self.disk / "ballast").open("wb") as ballast:
            for start in range(0, free - left, _CHUNK):
                os.posix_fallocate(ballast.fileno(), start, min(_CHUNK, free - left - start))

    def recover(self) -> None:
        """Free the disk, and restart the server if necessary."""
        if self.disk:
            (self.disk / "ballast").unlink(missing_ok=True)
        wait_for(self._accepts_connections, "the server to be back")

    def _accepts_connections(self) -> bool:
        if self.pg_ctl("status"):
            # Unlike `start`, `restart` keeps the options of the last start: the socket folder.
            self.pg_ctl("restart")
        try:
            psycopg.connect(self.server.conninfo()).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="module")
def place() -> Iterator[FaultyServer]:
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(folder)]
        is_small = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if is_small:
            stack.callback(wait_for, lambda: _is_unmounted(folder), "the folder to be let go of")
        server = embedded.start(bin_dir=BUILD.bin_dir, settings=SETTINGS, cache_dir=folder)
        stack.callback(embedded.stop, server)
        yield FaultyServer(server, folder if is_small else None)


def _is_unmounted(folder: Path) -> bool:
    """Unmount it; return False while the watcher of a stopped server still uses it."""
    return subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0


def _end_sessions(place: FaultyServer, chance: random.Random, *, number: int) -> None:
    with psycopg.connect(place.server.conninfo(), autocommit=True) as connection:
        found = sessions(connection)
        for pid in chance.sample(found, min(len(found), number)):
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])


Fault = Callable[[FaultyServer, random.Random], object]
FAULTS: dict[str, Fault] = {
    "fast restart": lambda place, _: place.pg_ctl("restart", "-m", "fast"),
    "immediate restart": lambda place, _: place.pg_ctl("restart", "-m", "immediate"),
    "a session ends": lambda place, chance: _end_sessions(place, chance, number=1),
    "sessions end": lambda place, chance: _end_sessions(place, chance, number=100),
    "full disk": lambda place, chance: place.fill(chance.randrange(8 * 2**20)),
}


@pytest.mark.parametrize("number", range(FAULTS_PER_ROUND * ROUNDS))
def test_server_fault(
    place: FaultyServer,
    tmp_path: Path,
    fork_server: ForkServer,
    number: int,
    record_property: Callable[[str, object], None],
) -> None:
    """The run ends by itself, names the cause, and reports no false outcome; nothing is left."""
    chance = seeded()
    fault = chance.choice([one for one in FAULTS if place.disk or one != "full disk"])
    kills = [
        kill
        for phase in PHASES
        for method in (SERIAL, *METHODS)
        for mode in MODES
        if (kill := Kill(phase, "server", fault, method, mode)).is_possible
        and mode != "concurrent"
    ]
    phase = chance.choice([*PHASES])
    kill = chance.choice([one for one in kills if one.phase == phase])
    print(kill)
    project = Project(tmp_path, address(place.server), f"fault{number}", fork_server)
    with soak.unchanged(project):
        soak.prepare_mode(project, kill)
        process = soak.start(project, *kill.flags, env=kill.env)
        with project.maintenance() as observer:
            begun = chance.randint(1, len(OUTCOMES) // 2)
            is_hit = wait_for_phase(Run(project, process), kill.phase, observer, begun)
        if is_hit:
            FAULTS[fault](place, chance)
        try:
            reported = finish(project, process)
        finally:
            place.recover()
        record_property("soak", ("server", fault, "hit" if is_hit else "missed"))
        check(reported)
        soak.recover(project, kill)


def check(reported: Reported) -> None:
    output = reported.result.output
    for test, events in reported.events.items():
        finished = [event["outcome"] for event in events if event["what"] == "Finished"]
        assert len(finished) <= 1, (test, finished)
        assert {*finished} <= {OUTCOMES[test], "error", "crashed"}, (test, finished, output)
    if reported.result.code == 0:
        assert reported.outcomes == OUTCOMES, output
    else:
        assert reported.result.code in {1, 2}, output
        assert CAUSES.search(reported.result.stderr), output
