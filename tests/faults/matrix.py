"""The kill matrix: phase of the run, target, signals, start method and mode."""

import os
import random
import re
import signal
from collections.abc import Sequence
from typing import NamedTuple

from schema_runner.postgres import names
from schema_runner.postgres.server import Connection

from ..observed import is_alive, is_stopped, workers
from ..project import METHODS, PARALLEL, Process, Project, wait_for

# A regex matched against the words of a combination, such as "tests main .* current".
_ONLY = os.environ.get("SOAK_ONLY", "")


class Phase(NamedTuple):
    """A phase of a run, recognised by the last query and the application_name of its sessions.

    `begun`: whether a test has started by then; None if either is possible.
    """

    query: str = ""
    application: str = ""
    begun: bool | None = None


PHASES = {
    "start": Phase(begun=False),
    "create": Phase('^(CREATE|COMMENT ON) (DATABASE|SCHEMA "test_w1)', begun=False),
    "build": Phase("^(CREATE TABLE|ALTER TABLE|CREATE INDEX|INSERT INTO)", begun=False),
    "dump": Phase(application="^pg_dump$"),
    "copy": Phase('^(-- |CREATE SCHEMA "test_w2|CREATE DATABASE .* TEMPLATE)'),
    "tests": Phase(begun=True),
    "reset": Phase("deletion_0|insertion_0|^TRUNCATE", begun=True),
    "tear-down": Phase("^DROP (SCHEMA|DATABASE|TABLE)", begun=True),
    "keep": Phase('"state": "kept"', begun=True),
}
_EARLY = {"start", "create", "build", "dump", "copy"}


class Mode(NamedTuple):
    """A kind of run: its flags, and the phases that it never enters."""

    flags: tuple[str, ...] = ()
    lacks: frozenset[str] = frozenset({"keep"})


MODES = {
    "test": Mode(),
    "current": Mode(("--host-database", "current")),
    # Migrations create an object that a worker schema cannot hold.
    "clones": Mode(lacks=frozenset({"dump", "keep"})),
    "keepdb": Mode(("--keepdb",), frozenset({"tear-down"})),
    # An earlier run has kept a pool.
    "pool": Mode(("--keepdb",), frozenset({"create", "build", "dump", "copy", "tear-down"})),
    # Another run with the same NAME is active throughout.
    "concurrent": Mode(),
}
SERIAL, LEASE = "serial", "lease"
_SENT = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGSTOP SIGKILL", "SIGSTOP SIGCONT")
TARGETS = {"main": _SENT, "worker": _SENT, "group": _SENT, LEASE: ("pg_terminate_backend",)}


class Kill(NamedTuple):
    """One combination. The `signals` are sent to the `target` one after the other."""

    phase: str
    target: str
    signals: str
    method: str
    mode: str

    @property
    def flags(self) -> tuple[str, ...]:
        return MODES[self.mode].flags + (() if self.method == SERIAL else PARALLEL)

    @property
    def env(self) -> dict[str, str]:
        return {} if self.method == SERIAL else {"START_METHOD": self.method}

    @property
    def is_possible(self) -> bool:
        lacks = set(MODES[self.mode].lacks)
        if self.method == SERIAL:
            lacks |= {"copy"} if self.mode == "keepdb" else {"copy", "dump"}
        if self.target == "worker":
            lacks |= _EARLY - {"copy"}
        if self.target == LEASE:
            lacks |= set(PHASES) if self.mode == "concurrent" else {"start", "create"}
        return self.phase not in lacks and (self.target, self.method) != ("worker", SERIAL)


POSSIBLE = [
    kill
    for phase in PHASES
    for target, sent in TARGETS.items()
    for signals in sent
    for method in (SERIAL, *METHODS)
    for mode in MODES
    if (kill := Kill(phase, target, signals, method, mode)).is_possible
    and re.search(_ONLY, " ".join(kill))
]

_SESSIONS = """
    SELECT pid, application_name, query FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_LEASES = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted
    AND (classid::bigint << 32) + objid::bigint = ANY (%s)
"""


class Run(NamedTuple):
    """A running `manage.py test`. `others` are sessions that do not belong to it."""

    project: Project
    process: Process
    others: Sequence[int] = ()


def wait_for_phase(run: Run, phase: str, observer: Connection, begun: int) -> bool:
    """Wait until a run is in a phase, or has ended; return whether it is in that phase.

    In phases after the first test, at least `begun` tests must have started.
    """
    query, application, late = PHASES[phase]
    while run.process.poll() is None:
        if not any(
            re.search(query, last) and re.search(application, of) and pid not in run.others
            for pid, of, last in observer.execute(_SESSIONS)
        ):
            continue
        number = len(run.project.records("begins"))
        if late is None or (number >= begun if late else number == 0):
            return True
    return False


def sessions(observer: Connection) -> list[int]:
    return [pid for pid, *_ in observer.execute(_SESSIONS)]


def execute_kill(
    kill: Kill, process: Process, observer: Connection, chance: random.Random
) -> bool:
    """Send the signals, or end the lease's session; return False if the target does not exist."""
    if kill.target == LEASE:
        return _end_lease(observer)
    target = process.pid
    if kill.target == "worker":
        if not (found := workers(process.pid)):
            return False
        target = chance.choice(found)
    try:
        _send(target, kill.signals.split(), to_group=kill.target == "group")
    except ProcessLookupError:
        return False
    return True


def _send(target: int, signals: Sequence[str], *, to_group: bool) -> None:
    for name in signals:
        (os.killpg if to_group else os.kill)(target, signal.Signals[name])
        if name == "SIGSTOP":
            wait_for(lambda: is_stopped(target) or not is_alive(target), "the process to stop")


def _end_lease(observer: Connection) -> bool:
    applications = {application for _, application, _ in observer.execute(_SESSIONS)}
    runs = [run for one in applications if (run := names.run_of_any_connection(one)) is not None]
    leases = observer.execute(_LEASES, [runs]).fetchall()
    for lease in leases:
        observer.execute("SELECT pg_terminate_backend(%s, 5000)", lease)
    return bool(leases)
