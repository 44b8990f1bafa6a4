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
    """Whose an object is: the `run` that made it (the key of its lease) and its state."""

    run: int
    state: State

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
            return cls(run=int(found["run"]), state=State(found["state"]))
        except (KeyError, TypeError, ValueError):
            return None
