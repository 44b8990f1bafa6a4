"""The database of which workers that cannot have schemas get clones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from psycopg import sql

from .. import names
from ..errors import SchemaRunnerError
from . import backends, databases, locks, schemas
from .marker import Marker, State
from .server import Connection, Server


class Spare(NamedTuple):
    """A database that `run` builds once, for clones of it; no test uses it.

    `host` is the name of the host database, and `request` the one that was asked for. Any worker
    can build it. CREATE DATABASE refuses a template that has connections, so no lease is in it:
    the marker names the run, and `pg_locks` shows whether that is alive.
    """

    server: Server
    host: str
    request: str
    run: int

    @property
    def name(self) -> str:
        return names.clone_database(self.host, 0)

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Let others wait for the body of the `with`; yield whether it has to build."""
        lock = locks.key(f"spare of run {self.run}")
        with (
            self.server.maintenance() as maintenance,
            locks.held(maintenance, lock, while_at_work=True),
        ):
            yield not self._is_ready(maintenance)

    def is_ready(self) -> bool:
        with self.server.maintenance() as maintenance:
            return self._is_ready(maintenance)

    @contextmanager
    def creation(self) -> Iterator[None]:
        """Mark the database that the body of the `with` creates."""
        with self._replacing(self.name) as maintenance:
            yield
            self._mark(maintenance, self.name, State.BUILDING)

    def complete(self) -> None:
        """Let workers have clones of it."""
        with self.server.maintenance() as maintenance:
            self._mark(maintenance, self.name, State.READY)

    def clone(self, worker: int) -> str:
        """Make a worker's clone, in place of one that an earlier process has used."""
        name = names.clone_database(self.host, worker)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self._replacing(name) as maintenance:
            maintenance.execute(statement.format(sql.Identifier(name), sql.Identifier(self.name)))
            self._mark(maintenance, name, State.READY)
        return name

    def template_in(self, clone: str) -> str | None:
        """Return the schema in a clone from which resets restore rows, if there is one."""
        with self.server.connect(clone) as connection:
            return schemas.any_template(connection)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Connection]:
        """Hold the lock of all who create databases like these, with one of ours dropped."""
        lock = locks.key(f"host database {self.request}")
        with self.server.maintenance() as maintenance, locks.held(maintenance, lock):
            if self._marker(maintenance, name):
                backends.end(maintenance, name, self.run)
                databases.drop(maintenance, name)
            elif databases.is_of_others(maintenance, name):
                # Stock Django would drop it as it creates one of this name.
                raise SchemaRunnerError(
                    f"A worker needs a database of its own, but {name!r}, as it would be called, "
                    f"is none of ours. Rename or drop that one."
                )
            with databases.creation(maintenance, name):
                yield maintenance

    def _mark(self, maintenance: Connection, name: str, state: State) -> None:
        databases.mark(maintenance, name, Marker(self.run, state, self.request))

    def _is_ready(self, maintenance: Connection) -> bool:
        marker = self._marker(maintenance, self.name)
        return marker is not None and marker.state is State.READY

    def _marker(self, maintenance: Connection, name: str) -> Marker | None:
        """Return the marker of a database if it is one of the run's."""
        found = databases.requested_as(maintenance, self.request)
        markers = [one.marker for one in found if one.name == name]
        return next((marker for marker in markers if marker.run == self.run), None)
