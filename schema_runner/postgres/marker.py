"""The comment that proves a schema or a database to be ours."""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

_FORMAT = 1


class State(StrEnum):
    """How far a marked object has come."""

    BUILDING = "building"
    READY = "ready"
    KEPT = "kept"


class Marker(NamedTuple):
    """Whose an object is: the `run` that made it (the key of its lease) and its state.

    `request` is the name that a database was asked for by, which may be another than its own,
    `name`: runs that ask for the same one clean up after each other. `beside` lists what was
    in it beside schemas of runs when tests began; it is None where a build or tests write
    anywhere. What is kept for other runs has the name of its `template`, and that one has the
    `fingerprint` of what it was made from, and when it was `made` and `used` last, in seconds
    since the Unix epoch. A schema of a pool, kept or leased, is as the template has it unless
    a transaction after `since` has altered it; its structure is unless the version of that is
    no longer `structure`. The template of a database is the one that it is a clone of; one
    that is kept to be cloned is its own template, and has the `extra` facts that a schema's
    template has in a table.
    """

    run: int
    state: State
    request: str | None = None
    template: str | None = None
    fingerprint: str | None = None
    made: int = 0
    used: int = 0
    since: int = 0
    structure: int = 0
    extra: Mapping[str, Any] | None = None
    name: str | None = None
    beside: tuple[str, ...] | None = None

    def __str__(self) -> str:
        facts = {key: value for key, value in self._asdict().items() if value or value == ()}
        return json.dumps({"schema_runner": _FORMAT, "run": self.run, **facts})

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
            return cls(
                int(found["run"]),
                State(found["state"]),
                found.get("request"),
                found.get("template"),
                found.get("fingerprint"),
                int(found.get("made", 0)),
                int(found.get("used", 0)),
                int(found.get("since", 0)),
                int(found.get("structure", 0)),
                found.get("extra"),
                found.get("name"),
                None if (beside := found.get("beside")) is None else tuple(beside),
            )
        except (KeyError, TypeError, ValueError):
            return None
