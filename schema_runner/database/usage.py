"""What a run has used of schemas and databases, in numbers."""

import time

from ..postgres import names


class Usage:
    """Counts the schemas that a run makes, and those that it reuses of a pool.

    Of these and of databases, `kept` stay when the run ends.
    """

    def __init__(self) -> None:
        self._began = time.time_ns() // 1_000_000
        self._places: set[tuple[str, str]] = set()
        self.kept = 0
        self.reused_databases = 0

    def add(self, database: str, schema: str, *, is_reused: bool = False) -> None:
        """Note a place; one that is noted again counts once."""
        self._places.add((database, schema))
        self.reused_databases += is_reused

    @property
    def has_schemas(self) -> bool:
        """Whether a worker has had a schema."""
        return any(when is not None for when in self._when_made)

    @property
    def is_shared(self) -> bool:
        """Whether several workers have had schemas in one database."""
        found = {(name, names.worker_of_schema(schema)) for name, schema in self._places}
        hosts = [name for name, worker in found if worker is not None]
        return len(hosts) > len(set(hosts))

    @property
    def made(self) -> int:
        return sum(when is not None and when >= self._began for when in self._when_made)

    @property
    def reused(self) -> int:
        return sum(when is not None and when < self._began for when in self._when_made)

    @property
    def databases(self) -> int:
        return self._when_made.count(None) - self.reused_databases

    @property
    def dropped(self) -> int:
        return max(len(self._places) - self.kept, 0)

    @property
    def _when_made(self) -> list[int | None]:
        return [names.milliseconds_of_schema(schema) for _, schema in self._places]
