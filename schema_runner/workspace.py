"""One run's schemas, from the first to the last."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from . import names
from .errors import SchemaRunnerError
from .postgres.hosts import Build, HostDatabase, Log, Request
from .postgres.server import Server


class Workspace:
    """The host databases and the worker schemas of a run, by database alias."""

    def __init__(self, *, workers: int, log: Log) -> None:
        self._workers = workers
        self._log = log
        self._hosts: dict[str, HostDatabase] = {}
        self._schemas: dict[str, dict[int, str]] = {}

    def host_name(self, alias: str) -> str | None:
        """Return the name of the host database open for `alias`, if there is one."""
        host = self._hosts.get(alias)
        return host.name if host else None

    def application(self, alias: str) -> str:
        """Return the application_name that the connections of `alias` are to have."""
        return names.application(self._hosts[alias].lease.run)

    def schemas(self, alias: str) -> dict[int, str]:
        """Return the schemas of `alias` by worker number."""
        return dict(self._schemas.get(alias, {}))

    def open(
        self,
        alias: str,
        server: Server,
        name: str,
        *,
        is_projects_own: bool,
        create: Callable[[], None],
    ) -> None:
        """Obtain the host database for `alias` and remove what dead runs have left in it."""
        host = HostDatabase.obtain(
            Request(
                server=server,
                name=name,
                create=create,
                is_projects_own=is_projects_own,
                workers=self._workers,
                log=self._log,
            )
        )
        self._hosts[alias] = host
        if reaped := host.reap():
            self._log(f"Removed what an earlier run left in {name!r}: {', '.join(reaped)}.")

    @contextmanager
    def building(self, alias: str, worker: int) -> Iterator[Build]:
        """Make the worker's schema of what the body of the `with` creates in `public`."""
        with self._hosts[alias].building(worker) as build:
            # Known from here on, so that a build which fails is dropped like the others.
            self._schemas.setdefault(alias, {})[worker] = build.schema
            yield build

    def drop(self, alias: str, worker: int) -> None:
        """Drop a worker's schema."""
        schema = self._schemas[alias].pop(worker)
        with self._leaving(f"Schema {schema}"):
            self._hosts[alias].drop(schema)

    def keep(self, alias: str, worker: int) -> str:
        """Leave a worker's schema where it is and return its name."""
        schema = self._schemas[alias].pop(worker)
        with self._leaving(f"Schema {schema}"):
            self._hosts[alias].keep(schema)
        return schema

    def release(self, alias: str, *, keep: bool = False) -> None:
        """Drop the schemas that `alias` still has and give up its host database."""
        for worker in self.schemas(alias):
            self.drop(alias, worker)
        host = self._hosts.pop(alias)
        with self._leaving(f"Database {host.name!r}"):
            host.release(keep=keep)

    def close(self) -> None:
        """Release whatever is still open, as after a run that was broken off."""
        for alias in list(self._hosts):
            self.release(alias)

    @contextmanager
    def _leaving(self, what: str) -> Iterator[None]:
        """Tell a failure to clean up, and go on: it must not hide what the tests found."""
        try:
            yield
        except (psycopg.Error, SchemaRunnerError) as error:
            self._log(f"{what} stays, for the next run to remove: {error}")
