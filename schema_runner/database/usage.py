"""What a run used: schemas and databases, and what it found in the project's own."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from ..postgres import names


class ProjectComparison(NamedTuple):
    """Changes in a database during a run, outside of the run's schemas."""

    database: str
    changes: dict[str, str]  # Maps names of objects to descriptions of their changes.
    sessions: Sequence[str]  # Application names of other sessions.
    notes: Sequence[str]  # Reasons why something could not be compared.


class Usage:
    """The numbers of schemas and databases that a run created, reused, kept and dropped."""

    def __init__(self) -> None:
        # Milliseconds since the Unix epoch, as in the names of schemas.
        self._started = time.time_ns() // 1_000_000
        self._locations: set[tuple[str, str]] = set()
        self.kept = 0  # Schemas and databases that stay after the run.
        self.reused_databases = 0
        # Of the project's own databases, once they are released.
        self.comparisons: list[ProjectComparison] = []

    def add(self, database: str, schema: str, *, is_reused: bool = False) -> None:
        """Count a schema in a database, once; `public` stands for the database itself."""
        self._locations.add((database, schema))
        self.reused_databases += is_reused

    @property
    def has_schemas(self) -> bool:
        """Whether a worker used a schema."""
        return any(when is not None for when in self._creation_times)

    @property
    def is_shared(self) -> bool:
        """Whether several workers used schemas in one database."""
        workers = {(name, names.worker_of_schema(schema)) for name, schema in self._locations}
        hosts = [name for name, worker in workers if worker is not None]
        return len(hosts) > len(set(hosts))

    @property
    def made(self) -> int:
        return sum(when is not None and when >= self._started for when in self._creation_times)

    @property
    def reused(self) -> int:
        return sum(when is not None and when < self._started for when in self._creation_times)

    @property
    def databases(self) -> int:
        return self._creation_times.count(None) - self.reused_databases

    @property
    def dropped(self) -> int:
        return max(len(self._locations) - self.kept, 0)

    @property
    def _creation_times(self) -> list[int | None]:
        return [names.milliseconds_of_schema(schema) for _, schema in self._locations]
