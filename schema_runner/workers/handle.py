"""The processes of workers: how they are started, and what the run holds of each."""

import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from django.db import connections

from .. import forks
from ..database.worker_database import WorkerCreation
from ..scheduling.queue import Part
from .pipes import Receiver, Sender
from .process import work
from .protocol import Pipes, RunPart, WorkerConfig
from .sigterm import held_for_a_child
from .timeouts import GRACE

# What a worker does about a time limit comes before the run does, also on a busy machine.
_MARGIN = 2.0


@dataclass(slots=True)
class WorkerHandle:
    """A process as the run knows it, `started` at a time of the monotonic clock.

    `parts` are those it has been given, the first under way; the last `stage` of them it has come
    to.
    """

    number: int
    process: Any
    orders: Connection
    reports: Connection
    bell: Connection
    is_replacement: bool
    started: float
    sender: Sender = field(init=False)
    receiver: Receiver = field(init=False)
    words: Receiver = field(init=False)
    parts: deque[Part] = field(default_factory=deque)
    # Of the part under way: whether its class is being set up, or has been; its tests.
    has_entered: bool = False
    begun: int | None = None
    finished: set[int] = field(default_factory=set)
    # How many seconds its tests have taken.
    tested: float = 0.0
    stage: int = 0
    is_ready: bool = False
    creates_database: bool = False
    is_told_to_stop: bool = False
    is_gone: bool = False
    deadline: float | None = None
    # When it is killed unless it says more, by the time limit of what it is at.
    allowed_until: float | None = None
    is_overdue: bool = False
    is_killed: bool = False
    # What it has said before its end, in words of its own, or with its time limit over.
    why: str = ""
    last_words: str = ""

    def __post_init__(self) -> None:
        self.sender = Sender(self.orders, waits=False)
        self.receiver = Receiver(self.reports)
        self.words = Receiver(self.bell)

    @property
    def ends(self) -> list[Connection]:
        return [self.orders, self.reports, self.bell]

    def part(self, key: int) -> Part:
        return next(part for part in self.parts if part.key == key)

    def enter(self) -> None:
        """Note that it has come to its first part."""
        self.has_entered, self.begun, self.finished, self.tested = True, None, set(), 0.0

    def leave(self) -> None:
        """Note that it is through with that."""
        self.parts.popleft()
        self.has_entered, self.begun, self.finished, self.tested = False, None, set(), 0.0

    @property
    def is_late(self) -> bool:
        """Whether it should have ended by now."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def limit(self, seconds: float | None) -> None:
        """Note that it allows itself so many seconds from now on; None for no limit."""
        self.allowed_until = None
        if seconds is not None:
            self.allowed_until = time.monotonic() + seconds + GRACE + _MARGIN

    @property
    def is_late_for_limit(self) -> bool:
        """Whether it has ended because of a time limit."""
        return bool(self.last_words) or self.is_overdue

    @property
    def is_beginning(self) -> bool:
        """Whether it has a part of which no test has begun."""
        return bool(self.parts) and self.begun is None and not self.finished

    @property
    def bells(self) -> list[Any]:
        """What becomes ready when there is something to see to."""
        rings = [] if self.words.is_at_end else [self.bell]
        return [*rings, self.process.sentinel]

    @property
    def is_cut_off(self) -> bool:
        """Whether nothing can come from it any more."""
        return self.words.is_at_end or self.receiver.is_at_end

    def listen(self) -> list[Any]:
        """Return the messages that have come."""
        heard = self.words.read_bytes().decode(errors="replace")
        # What rings the bell comes before.
        self.last_words += heard if self.last_words else heard.lstrip(".")
        return [message for messages in self.receiver.receive() for message in messages]

    @property
    def unfinished(self) -> list[int]:
        """The tests of the part under way that have not begun."""
        part = self.parts[0]
        return [p for p in part.positions if p != self.begun and p not in self.finished]

    @property
    def cause(self) -> str:
        """What became of a process that has ended, as what follows its name."""
        if self.last_words:
            return f"was ended: it did not heed its time limit. Its threads:\n\n{self.last_words}"
        if self.is_overdue:
            return (
                "was ended: it did not heed its time limit. It could not say what its threads "
                "were at, as a process that is stopped (SIGSTOP)."
            )
        if self.why:
            return f"broke off.\n\n{self.why}"
        code: int = self.process.exitcode
        if code >= 0:
            return f"ended with exit code {code}."
        names = {int(one): one.name for one in signal.Signals}
        return f"was killed by signal {-code} ({names.get(-code, 'without a name')})."

    def tell(self, message: object) -> None:
        with suppress(OSError):
            # Nobody reads it where the process has died, which shows soon.
            self.sender.send(message)

    def flush(self) -> None:
        """Send what it had no room for."""
        with suppress(OSError):
            self.sender.flush()

    def kill(self) -> None:
        self.is_killed = True
        self.process.kill()

    def close(self) -> None:
        """Free what it has here; kill it first if it is alive."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        for end in self.ends:
            end.close()
        self.process.close()


class WorkerPool:
    """Starts workers, and gives them what they need from the run.

    `assigned` is for worker 1, and the same for the others but for their numbers; `tests` lists
    the test cases of each subsuite. `announced` has the aliases whose fallback is in the log.
    """

    def __init__(self, assigned: WorkerConfig, tests: Sequence[Sequence[Any]]) -> None:
        self._assigned = assigned
        self._tests = tests
        self.announced: set[str] = set()
        self._is_forked = assigned.main is not None or multiprocessing.get_start_method() == "fork"
        if not self._is_forked:
            from multiprocessing import resource_tracker

            # Started later, it would unblock signals that are held for a worker.
            resource_tracker.ensure_running()

    def outside(self) -> "WorkerPool":
        """Return one of processes that look to their tests like this one, and not like workers."""
        assigned = self._assigned._replace(main=multiprocessing.current_process())
        return WorkerPool(assigned, self._tests)

    @property
    def keeps_places(self) -> bool:
        """Whether what workers make is for later runs too."""
        return self._assigned.keepdb

    def start(self, number: int, *, is_replacement: bool) -> WorkerHandle:
        """Start a process."""
        assigned = self._assigned._replace(number=number, is_replacement=is_replacement)
        if self._is_forked:
            assigned = assigned._replace(subsuites=[list(tests) for tests in self._tests])
        orders, send = multiprocessing.Pipe(duplex=False)
        receive, reports = multiprocessing.Pipe(duplex=False)
        listen, bell = multiprocessing.Pipe(duplex=False)
        # Else no pipe would come to its end as long as another worker has it too.
        for end in (send, receive, listen):
            forks.let_go(end, Connection.close)
        context: Any = multiprocessing.get_context("fork" if self._is_forked else None)
        process = context.Process(
            target=work,
            args=(assigned, Pipes(orders, reports, bell)),
            name=f"worker {number}",
            # They end with the run.
            daemon=True,
        )
        started = time.monotonic()
        with held_for_a_child():
            process.start()
        for end in (orders, reports, bell):
            end.close()
        return WorkerHandle(number, process, send, receive, listen, is_replacement, started)

    def order(self, part: Part) -> RunPart:
        """Return what to send for a part; raise what its tests raise that cannot be pickled."""
        if self._is_forked:
            return RunPart(part, None)
        tests = self._tests[part.subsuite]
        return RunPart(part, pickle.dumps([tests[position] for position in part.positions]))

    def renew(self, number: int) -> None:
        """Make again for a number whose process has died what the next cannot make itself."""
        used = self._assigned.used_aliases
        for alias in connections if used is None else used:
            connection = connections[alias]
            creation = connection.creation
            if isinstance(creation, WorkerCreation):
                creation.replace_clone(number)
            elif not connection.settings_dict["TEST"]["MIRROR"]:
                creation._clone_test_db(str(number), verbosity=0, keepdb=False)  # type: ignore[attr-defined]

    def count(self, own_databases: dict[str, str]) -> None:
        """Count the databases that a worker has made for some classes, by alias, and dropped."""
        for alias, name in own_databases.items():
            creation: Any = connections[alias].creation
            creation.count_database(name)

    def settle(self, number: int, places: dict[str, tuple[str, str]]) -> None:
        """Note where a worker is that has made its places itself."""
        for alias, (database, schema) in places.items():
            creation: Any = connections[alias].creation
            creation.record_location(number, database=database, schema=schema)
