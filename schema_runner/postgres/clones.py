"""Clone databases for workers that cannot use schemas."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import psycopg
from psycopg import sql

from ..errors import SchemaRunnerError
from . import databases, locks, names, schemas, sessions
from .databases import MarkedDatabase
from .host_request import HostRequest
from .names import Marker, MarkerState
from .server import Connection, Server


class Clones:
    """The clones of the database `source`, which no test uses, for a run.

    CREATE DATABASE refuses a template that has connections, so no lease is held in the source.
    Each run that uses it holds a lock in another database, which `pg_locks` shows.
    """

    def __init__(self, request: HostRequest, source: str, run: int) -> None:
        self.source = source
        self._request = request
        self._run = run
        # By worker.
        self.names: dict[int, str] = {}
        # What a clone has as long as nothing has been written in it, and where sequences are.
        self._versions: Facts = {}
        self._values: Facts = {}

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
                if one.marker.state is MarkerState.KEPT
                and one.name not in {self.source, *of_others}
            ]
            for name in sorted(kept, key=lambda name: name != first_choice)[:1]:
                self._mark(maintenance, name, MarkerState.READY)
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
            sessions.end_tests_sessions(maintenance, self.source, self._run)
            with databases.creation(maintenance, name):
                yield
                self._mark(maintenance, name, MarkerState.READY)

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
                sessions.end_tests_sessions(maintenance, name, self._run)
                databases.drop(maintenance, name)

    def give_back(self, name: str) -> bool:
        """Keep a clone as it was made; drop it, and return False, if tests have written in it."""
        with self._holding_name() as maintenance:
            sessions.end_tests_sessions(maintenance, name, self._run)
            is_kept = self._restore(name)
            if is_kept:
                self._mark(maintenance, name, MarkerState.KEPT)
            else:
                databases.drop_of_run(maintenance, name)
        return is_kept

    def _restore(self, name: str) -> bool:
        server = self._request.server
        try:
            if not self._versions:
                with server.connect(self.source) as connection:
                    self._versions = row_versions(connection)
                    self._values = sequence_values(connection)
            with server.connect(name) as connection:
                if row_versions(connection) != self._versions:
                    return False
                # Aborted transactions have moved them.
                moved = self._values.items() - sequence_values(connection).items()
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

    def _mark(self, maintenance: Connection, name: str, state: MarkerState) -> None:
        marker = Marker(self._run, state, self._request.name, template=self.source)
        databases.mark(maintenance, name, marker)


def drop_unfinished(connection: Connection, request: str, run: int, *, spared: str) -> None:
    """Drop what a run's workers were making as they ended, or what they could not give back."""
    for one in databases.requested_as(connection, request):
        is_ours = one.marker.run == run and one.name != spared
        if is_ours and one.marker.state is not MarkerState.KEPT:
            sessions.end_tests_sessions(connection, one.name, run)
            databases.drop(connection, one.name)


class CloneSource(NamedTuple):
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
    def build_lock(self) -> Iterator[bool]:
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
            self._mark(maintenance, self.name, MarkerState.BUILDING)

    def complete(self) -> None:
        """Let workers have clones of it."""
        with self.server.maintenance() as maintenance:
            self._mark(maintenance, self.name, MarkerState.READY)

    def clone(self, worker: int) -> str:
        """Make a worker's clone, in place of one that an earlier process has used."""
        name = names.clone_database(self.host, worker)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self._replacing(name) as maintenance:
            maintenance.execute(statement.format(sql.Identifier(name), sql.Identifier(self.name)))
            self._mark(maintenance, name, MarkerState.READY)
        return name

    def template_in(self, clone: str) -> str | None:
        """Return the schema in a clone from which resets restore rows, if there is one."""
        with self.server.connect(clone) as connection:
            return schemas.find_template(connection)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Connection]:
        """Hold the lock of all who create databases like these, with one of ours dropped."""
        lock = locks.key(f"host database {self.request}")
        with self.server.maintenance() as maintenance, locks.held(maintenance, lock):
            if self._marker(maintenance, name):
                sessions.end_tests_sessions(maintenance, name, self.run)
                databases.drop(maintenance, name)
            elif databases.is_of_others(maintenance, name):
                # Stock Django would drop it as it creates one of this name.
                raise SchemaRunnerError(
                    f"A worker needs a database of its own, but {name!r}, as it would be called, "
                    f"is none of ours. Rename or drop that one."
                )
            with databases.creation(maintenance, name):
                yield maintenance

    def _mark(self, maintenance: Connection, name: str, state: MarkerState) -> None:
        databases.mark(maintenance, name, Marker(self.run, state, self.request))

    def _is_ready(self, maintenance: Connection) -> bool:
        marker = self._marker(maintenance, self.name)
        return marker is not None and marker.state is MarkerState.READY

    def _marker(self, maintenance: Connection, name: str) -> Marker | None:
        """Return the marker of a database if it is one of the run's."""
        found = databases.requested_as(maintenance, self.request)
        markers = [one.marker for one in found if one.name == name]
        return next((marker for marker in markers if marker.run == self.run), None)


# The tables of a database, and its catalogs, but for what ANALYZE writes.
_TABLES = """
    SELECT nspname, relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND NOT relisshared
      AND c.oid NOT IN ('pg_catalog.pg_statistic'::regclass,
                        'pg_catalog.pg_statistic_ext_data'::regclass)
      AND pg_catalog.pg_relation_size(c.oid) > 0
      AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
    ORDER BY nspname, relname
"""
_VERSIONS = """
    SELECT {name}::text, pg_catalog.count(*),
           pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::text::int8))
    FROM ONLY {table} HAVING pg_catalog.count(*) > 0
"""
_SEQUENCES = """
    SELECT nspname, relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'S' AND relpersistence <> 't'
    ORDER BY nspname, relname
"""
_VALUES = "SELECT {name}::text, last_value, is_called FROM {table}"

# By names in SQL.
Facts: TypeAlias = dict[str, tuple[object, ...]]


def row_versions(connection: Connection) -> Facts:
    return _read(connection, _TABLES, _VERSIONS)


def sequence_values(connection: Connection) -> Facts:
    """Return where sequences are, which transactions move that are rolled back, too."""
    return _read(connection, _SEQUENCES, _VALUES)


def _read(connection: Connection, listing: str, query: str) -> Facts:
    connection.execute("SET row_security = off")
    statements = [
        sql.SQL(query).format(
            name=sql.Literal(sql.Identifier(*names).as_string()), table=sql.Identifier(*names)
        )
        for names in connection.execute(listing).fetchall()
    ]
    if not statements:
        return {}
    rows = connection.execute(sql.SQL(" UNION ALL ").join(statements))
    return {name: tuple(facts) for name, *facts in rows}
