"""What the run and its worker processes tell each other.

Tuples, for there are several a test and no other form is pickled as fast; workers send one or two
of them at a time. Times are in seconds.
"""

from typing import Any, NamedTuple

from ..scheduling.queue import Part
from .cost import Cost


class Order(NamedTuple):
    """Run a part. `tests` is its pickled test cases; None for a worker that has them already."""

    part: Part
    tests: bytes | None


class Stop(NamedTuple):
    """Finish the test under way, if any, then clean up and end."""


class TerminalLent(NamedTuple):
    """The terminal is this worker's until it says that the debugger is over."""


class Ready(NamedTuple):
    """A worker is set up. `places` maps aliases to the database and the schema it has made."""

    places: dict[str, tuple[str, str]]


class UsesDatabases(NamedTuple):
    """Workers have databases of their own for an alias; `text` is for the log, once a run."""

    alias: str
    text: str


class Creates(NamedTuple):
    """A worker is about to create a database, or has marked it."""

    is_under_way: bool


class Said(NamedTuple):
    """A line for the log."""

    text: str


class Debugs(NamedTuple):
    """A debugger wants the terminal, in the test of that name if in any; None: it is over."""

    name: str | None


class Failed(NamedTuple):
    """Why a worker is about to end: it could not be set up, or a test has broken out."""

    text: str


class Entered(NamedTuple):
    """A worker sets up the class of a part."""

    key: int


class Begun(NamedTuple):
    """A test has begun, with what its class does before it; `time` is since the Unix epoch."""

    key: int
    position: int
    time: float


class Limited(NamedTuple):
    """What follows may take so many seconds; None for no limit."""

    seconds: float | None


class Done(NamedTuple):
    """Everything about a test is over. `events` are for a result, maybe encoded by `raised`."""

    key: int
    position: int
    events: list[tuple[Any, ...]]
    is_encoded: bool
    outcome: str
    duration: float


class Outside(NamedTuple):
    """What became of the fixtures of a class or a module: a method, their name, arguments, SQL."""

    method: str
    name: str
    arguments: tuple[Any, ...]
    sql: str = ""


class Left(NamedTuple):
    """A part is over, which began at `time` and has taken so much; see `ClassFinished`."""

    key: int
    time: float
    cost: Cost
    keeps_state: bool | None
    changed_outside: tuple[str, ...]


class Gone(NamedTuple):
    """A worker has cleaned up and is about to end. `places` are as in Ready, if they are kept.

    `own_databases` maps aliases to what it has made for classes that share no database.
    """

    places: dict[str, tuple[str, str]]
    own_databases: dict[str, str]
