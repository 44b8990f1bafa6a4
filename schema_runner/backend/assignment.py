"""Which schema a connection uses: the part of a run that travels with Django's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from ..errors import SchemaRunnerError

# In a connection's settings_dict, which threads share, forked and spawned workers are given,
# and connections[alias].copy() copies: so whoever can connect knows where to.
_KEY = "SCHEMA_RUNNER"


@dataclass(frozen=True, slots=True)
class Assignment:
    """The worker schemas of one database alias.

    `schemas` maps worker numbers, from 1, to schemas; `worker` is the one whose schema this
    connection uses, None during a build, which has no schema yet; `application` is the
    application_name that tells the run's connections from others; `options` is the OPTIONS
    that the project set.
    """

    schemas: Mapping[int, str]
    worker: int | None
    application: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, settings_dict: Mapping[str, Any]) -> Self | None:
        found: Self | None = settings_dict.get(_KEY)
        return found

    @property
    def schema(self) -> str | None:
        """The schema of this worker."""
        return None if self.worker is None else self.schemas[self.worker]

    def for_worker(self, worker: int) -> Self:
        """Return the same assignment as another worker has it."""
        if worker not in self.schemas:
            raise SchemaRunnerError(
                f"There is no schema for worker {worker}: a worker process died, and what "
                f"replaced it has none. Run with --parallel 1 to see why."
            )
        return replace(self, worker=worker)

    def entries(self) -> dict[str, Any]:
        """Return the entries that a settings_dict has under this assignment."""
        options = {**self.options, "application_name": self.application}
        if self.schema is not None:
            # The last -c of a name wins, so the project's own search_path is put aside.
            path = f"-c search_path={self.schema},public"
            options["options"] = f"{self.options.get('options') or ''} {path}".strip()
        return {"OPTIONS": options, _KEY: self}


def project_options(settings_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OPTIONS that the project set, whether or not there is an assignment."""
    assignment = Assignment.of(settings_dict)
    options: dict[str, Any] = settings_dict["OPTIONS"]
    return dict(assignment.options) if assignment else options


def assign(settings_dict: dict[str, Any], assignment: Assignment | None) -> None:
    """Put an assignment into force; with None the project's own OPTIONS hold again.

    The dict stays the same object, for threads share it; its OPTIONS is replaced, for that
    one is the project's.
    """
    if assignment is not None:
        settings_dict.update(assignment.entries())
    else:
        settings_dict["OPTIONS"] = project_options(settings_dict)
        settings_dict.pop(_KEY, None)
