"""The comment that proves a schema or a database to be ours."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

_FORMAT = 1


class State(StrEnum):
    """How far a marked object has come."""

    BUILDING = "building"
    READY = "ready"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Marker:
    """Whose an object is: the `run` that made it (the key of its lease) and its state.

    `request` is the name that a database was asked for by, which may be another than its own:
    runs that ask for the same one clean up after each other.
    """

    run: int
    state: State
    request: str | None = None

    def __str__(self) -> str:
        return json.dumps({"schema_runner": _FORMAT, **asdict(self)})

    @classmethod
    def parse(cls, comment: str | None) -> Self | None:
        """Read a marker back; None for anything that this package did not write."""
        try:
            found = json.loads(comment or "")
        except ValueError:
            return None
        if not isinstance(found, dict) or found.get("schema_runner") != _FORMAT:
            return None
        try:
            run, state = int(found["run"]), State(found["state"])
        except (KeyError, TypeError, ValueError):
            return None
        return cls(run, state, found.get("request"))
