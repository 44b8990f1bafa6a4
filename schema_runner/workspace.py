"""One run's schemas, from the first to the last."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from .errors import SchemaRunnerError
from .postgres import locks
from .postgres.hosts import HostDatabase, Log
from .postgres.server import Server


class Workspace:
    """The host databases and the worker schemas of a run, by database alias."""

    def __init__(self, *, workers: int, log: Log) -> None:
        self.workers = workers
        self._log = log
        self._run = locks.new_run()
        self._hosts: dict[str, HostDatabase] = {}
        self._schemas: dict[str, dict[int, str]] = {}

    @property
    def run(self) -> int:
        return self._run

    def host_name(self, alias: str) -> str | None:
        """Return the name of the host database open for `alias`, if there is one."""
        host = self._hosts.get(alias)
        return host.name if host else None

    def schemas(self, alias: str) -> dict[int, str]:
        """Return the ready schemas of `alias` by worker number."""
        return dict(self._schemas.get(alias, {}))

    def open(self, alias: str, server: Server, name: str, *, create: Callable[[], None]) -> None:
        """Obtain the host database for `alias` and remove what dead runs have left in it."""
        host = HostDatabase.obtain(
            server, name, run=self._run, workers=self.workers, create=create, log=self._log
        )
        self._hosts[alias] = host
        if reaped := host.reap():
            self._log(f"Removed what an earlier run left in {name!r}: {', '.join(reaped)}.")

    @contextmanager
    def building(self, alias: str, worker: int) -> Iterator[None]:
        """Make the worker's schema of what the body of the `with` creates in `public`."""
        with self._hosts[alias].building(worker) as schema:
            # Known from here on, so that a build which fails is dropped like the others.
            self._schemas.setdefault(alias, {})[worker] = schema
            yield

    def drop(self, alias: str, worker: int) -> None:
        """Drop a worker's schema; a failure is told, and left for the next run to repair."""
        schema = self._schemas[alias].pop(worker)
        try:
            self._hosts[alias].drop(schema)
        except (psycopg.Error, SchemaRunnerError) as error:
            self._log(f"Schema {schema} stays, for the next run to remove: {error}")

    def keep(self, alias: str, worker: int) -> str:
        """Leave a worker's schema where it is and return its name."""
        schema = self._schemas[alias].pop(worker)
        self._hosts[alias].keep(schema)
        return schema

    def release(self, alias: str, *, keep: bool = False) -> None:
        """Drop the schemas that `alias` still has and give up its host database."""
        for worker in self.schemas(alias):
            self.drop(alias, worker)
        host = self._hosts.pop(alias)
        try:
            host.release(keep=keep)
        except (psycopg.Error, SchemaRunnerError) as error:
            self._log(f"Database {host.name!r} stays, for the next run to remove: {error}")

    def close(self) -> None:
        """Release whatever is still open, as after a run that was broken off."""
        for alias in list(self._hosts):
            self.release(alias)
