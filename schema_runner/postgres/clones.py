"""Clones of a database for the workers of a run, which others take over where it is kept."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from .. import names
from . import backends, databases, locks, versions
from .databases import MarkedDatabase
from .marker import Marker, State
from .request import Request
from .server import Connection


class Clones:
    """The clones of the database `source`, which no test uses, for a run.

    CREATE DATABASE refuses a template that has connections, so no lease is held in the source.
    Each run that uses it holds a lock in another database, which `pg_locks` shows.
    """

    def __init__(self, request: Request, source: str, run: int) -> None:
        self.source = source
        self._request = request
        self._run = run
        # By worker.
        self.names: dict[int, str] = {}
        # What a clone has as long as nothing has been written in it, and where sequences are.
        self._versions: versions.Facts = {}
        self._values: versions.Facts = {}

    @staticmethod
    def lock_of(source: str) -> int:
        """Return the advisory lock that runs share which use clones of a database."""
        return locks.key(f"clones of {source}")

    def take(self, worker: int) -> bool:
        """Give a worker a clone that is kept, if there is one that no other run has."""
        workers = range(1, self._request.workers + 1)
        first_choice = names.clone_database(self.source, worker)
        of_others = {names.clone_database(self.source, n) for n in workers} - {first_choice}
        with self._holding_name() as maintenance:
            kept = [
                one.name
                for one in self._found(maintenance)
                if one.marker.state is State.KEPT and one.name not in {self.source, *of_others}
            ]
            for name in sorted(kept, key=lambda name: name != first_choice)[:1]:
                self._mark(maintenance, name, State.READY)
                self.names[worker] = name
        return bool(kept)

    @contextmanager
    def creation(self, worker: int) -> Iterator[None]:
        """Mark the clone, called `names[worker]`, that the body of the `with` makes."""
        name = names.clone_database(self.source, worker)
        with self._holding_name() as maintenance:
            if self._is_taken(maintenance, name):
                name = names.database_of_run(name, self._run)
            self.names[worker] = name
            backends.end(maintenance, self.source, self._run)
            with databases.creation(maintenance, name):
                yield
                self._mark(maintenance, name, State.READY)

    def _is_taken(self, maintenance: Connection, name: str) -> bool:
        """Whether there is a database of this name that must not be replaced.

        One without a marker is replaced, as stock Django does unless it keeps its own.
        """
        marked = [one.name for one in databases.listed(maintenance) if one.marker]
        return name in marked or (self._request.keeps and databases.exists(maintenance, name))

    def drop(self, name: str) -> None:
        with self._request.server.maintenance() as maintenance:
            # It may have been removed, and another run's may have its name.
            if not databases.without(maintenance, self._request.name, {name: self._run}):
                backends.end(maintenance, name, self._run)
                databases.drop(maintenance, name)

    def give_back(self, name: str) -> bool:
        """Keep a clone as it was made; drop it, and return False, if tests have written in it."""
        with self._holding_name() as maintenance:
            backends.end(maintenance, name, self._run)
            is_kept = self._restore(name)
            if is_kept:
                self._mark(maintenance, name, State.KEPT)
            else:
                databases.drop_of_run(maintenance, name)
        return is_kept

    def _restore(self, name: str) -> bool:
        server = self._request.server
        try:
            if not self._versions:
                with server.connect(self.source) as connection:
                    self._versions = versions.of_rows(connection)
                    self._values = versions.of_sequences(connection)
            with server.connect(name) as connection:
                if versions.of_rows(connection) != self._versions:
                    return False
                # Aborted transactions have moved them.
                moved = self._values.items() - versions.of_sequences(connection).items()
                for sequence, (value, is_called) in moved:
                    query = "SELECT pg_catalog.setval(%s::regclass, %s, %s)"
                    connection.execute(query, [sequence, value, is_called])
        except psycopg.Error:
            # Something hides rows from our role, for example.
            return False
        return True

    @contextmanager
    def _holding_name(self) -> Iterator[Connection]:
        with (
            self._request.server.maintenance() as maintenance,
            self._request.holding_name(maintenance),
        ):
            yield maintenance

    def _found(self, maintenance: Connection) -> list[MarkedDatabase]:
        """List the source and its clones, of whatever run."""
        found = databases.requested_as(maintenance, self._request.name)
        return [one for one in found if one.marker.template == self.source]

    def _mark(self, maintenance: Connection, name: str, state: State) -> None:
        marker = Marker(self._run, state, self._request.name, template=self.source)
        databases.mark(maintenance, name, marker)


def drop_unfinished(connection: Connection, request: str, run: int, *, spared: str) -> None:
    """Drop what a run's workers were making as they ended, or what they could not give back."""
    for one in databases.requested_as(connection, request):
        is_ours = one.marker.run == run and one.name != spared
        if is_ours and one.marker.state is not State.KEPT:
            backends.end(connection, one.name, run)
            databases.drop(connection, one.name)
