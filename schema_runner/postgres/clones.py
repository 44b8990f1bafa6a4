"""Clone databases, for workers that cannot use schemas."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import psycopg
from psycopg import sql

from ..errors import SchemaRunnerError
from . import databases, locks, names, schemas, sessions
from .host_request import HostRequest
from .names import Marker, MarkerState
from .server import Connection, Server


class Clones:
    """A run's clones of the database `source`. No tests run in the source itself.

    CREATE DATABASE refuses a template that has connections, so no lease is held in the source.
    Instead, each run that uses it holds a lock in another database, which `pg_locks` shows.
    """

    def __init__(self, request: HostRequest, source: str, run: int) -> None:
        self.source = source
        self._request = request
        self._run = run
        # The names of the clones, by worker.
        self.names: dict[int, str] = {}
        # The row versions and sequence values of an unchanged clone.
        self._versions: RelationFacts = {}
        self._values: RelationFacts = {}

    @staticmethod
    def lock_key(source: str) -> int:
        """Return the key of the advisory lock that runs with clones of `source` share."""
        return locks.key(f"clones of {source}")

    def reuse(self, worker: int) -> bool:
        """Assign a kept, unused clone to a worker; return False if there is none."""
        first = self._request.worker
        workers = range(first, first + self._request.workers)
        first_choice = names.clone_database(self.source, worker)
        of_others = {names.clone_database(self.source, n) for n in workers} - {first_choice}
        with self._hold_name() as maintenance:
            kept = [
                name
                for name, marker in databases.for_request(maintenance, self._request.name)
                if marker.template == self.source
                and marker.state is MarkerState.KEPT
                and name not in {self.source, *of_others}
            ]
            for name in sorted(kept, key=lambda name: name != first_choice)[:1]:
                self._mark(maintenance, name, MarkerState.READY)
                self.names[worker] = name
        return bool(kept)

    @contextmanager
    def creation(self, worker: int) -> Iterator[None]:
        """Choose `names[worker]`, and mark the clone that the caller creates under that name."""
        name = names.clone_database(self.source, worker)
        with self._hold_name() as maintenance:
            if self._is_taken(maintenance, name):
                name = names.database_of_run(name, self._run)
            self.names[worker] = name
            sessions.end_test_sessions(maintenance, self.source, self._run)
            with databases.dropped_on_error(maintenance, name):
                yield
                self._mark(maintenance, name, MarkerState.READY)

    def _is_taken(self, maintenance: Connection, name: str) -> bool:
        """Whether a database has this name and must not be replaced.

        As in stock Django, a database without a marker is replaced, unless with --keepdb.
        """
        marked = [item.name for item in databases.list_all(maintenance) if item.marker]
        return name in marked or (
            self._request.keeps_existing and databases.exists(maintenance, name)
        )

    def drop(self, name: str) -> None:
        with self._request.server.maintenance() as maintenance:
            # It may have been dropped, and another run's database may have its name.
            marker = databases.find_marker(maintenance, self._request.name, name)
            if marker is not None and marker.run == self._run:
                databases.drop_of_run(maintenance, name, self._run)

    def give_back(self, name: str) -> bool:
        """Keep an unchanged clone; drop it, and return False, if tests committed changes."""
        with self._hold_name() as maintenance:
            sessions.end_test_sessions(maintenance, name, self._run)
            is_kept = self._restore(name)
            if is_kept:
                self._mark(maintenance, name, MarkerState.KEPT)
            elif databases.find_marker(maintenance, self._request.name, name):
                databases.drop(maintenance, name)
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
                # Transactions that were rolled back advanced these.
                moved = self._values.items() - sequence_values(connection).items()
                for sequence, (value, is_called) in moved:
                    query = "SELECT pg_catalog.setval(%s::regclass, %s, %s)"
                    connection.execute(query, [sequence, value, is_called])
        except psycopg.Error:
            # Row security may hide rows from the current role, for example.
            return False
        return True

    @contextmanager
    def _hold_name(self) -> Iterator[Connection]:
        with (
            self._request.server.maintenance() as maintenance,
            self._request.hold_name(maintenance),
        ):
            yield maintenance

    def _mark(self, maintenance: Connection, name: str, state: MarkerState) -> None:
        marker = Marker(self._run, state, self._request.name, template=self.source)
        databases.mark(maintenance, name, marker)


class CloneSource(NamedTuple):
    """A database `test_<NAME>_0`, which one worker builds and all workers clone.

    No tests run in it. CREATE DATABASE refuses a template that has connections, so no lease is
    held in it: its marker names the run, and `pg_locks` shows whether that run is alive.

    `server`: the server of the database.
    `host`: the name of the host database.
    `request`: the name that the run requested for the host database.
    `run`: the run that builds it.
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
        """Hold the lock that other workers wait for; yield whether the caller must build."""
        lock = locks.key(f"clone source of run {self.run}")
        with (
            self.server.maintenance() as maintenance,
            locks.hold(maintenance, lock, while_active=True),
        ):
            yield not self._is_ready(maintenance)

    def is_ready(self) -> bool:
        with self.server.maintenance() as maintenance:
            return self._is_ready(maintenance)

    @contextmanager
    def creation(self) -> Iterator[None]:
        """Mark the database that the caller creates as building."""
        with self._replacing(self.name) as maintenance:
            yield
            self._mark(maintenance, self.name, MarkerState.BUILDING)

    def mark_ready(self) -> None:
        """Mark the database as ready, so that workers can clone it."""
        with self.server.maintenance() as maintenance:
            self._mark(maintenance, self.name, MarkerState.READY)

    def clone(self, worker: int) -> str:
        """Create a worker's clone, and drop the one of an earlier process of that worker."""
        name = names.clone_database(self.host, worker)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self._replacing(name) as maintenance:
            maintenance.execute(statement.format(sql.Identifier(name), sql.Identifier(self.name)))
            self._mark(maintenance, name, MarkerState.READY)
        return name

    def template_schema(self, clone: str) -> str | None:
        """Return the schema in a clone that resets restore rows from, if there is one."""
        with self.server.connect(clone) as connection:
            return schemas.find_template(connection)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Connection]:
        """Drop the run's old database, and hold the name lock while the caller creates one."""
        with (
            self.server.maintenance() as maintenance,
            databases.hold_name(maintenance, self.request),
        ):
            if self._marker(maintenance, name):
                databases.drop_of_run(maintenance, name, self.run)
            elif databases.is_foreign(maintenance, name):
                # Stock Django would drop it.
                raise SchemaRunnerError(
                    f"A worker needs to create the database {name!r}, but a database of that "
                    f"name exists that no run created. Rename or drop it."
                )
            with databases.dropped_on_error(maintenance, name):
                yield maintenance

    def _mark(self, maintenance: Connection, name: str, state: MarkerState) -> None:
        databases.mark(maintenance, name, Marker(self.run, state, self.request))

    def _is_ready(self, maintenance: Connection) -> bool:
        marker = self._marker(maintenance, self.name)
        return marker is not None and marker.state is MarkerState.READY

    def _marker(self, maintenance: Connection, name: str) -> Marker | None:
        """Return the marker of a database if this run created it."""
        marker = databases.find_marker(maintenance, self.request, name)
        return marker if marker and marker.run == self.run else None


# All tables with pages, including system catalogs except those that ANALYZE writes.
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
_ROW_VERSIONS = """
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
_SEQUENCE_VALUES = "SELECT {name}::text, last_value, is_called FROM {table}"

# Facts about tables or sequences, by qualified and quoted name.
RelationFacts: TypeAlias = dict[str, tuple[object, ...]]


def row_versions(connection: Connection) -> RelationFacts:
    """Return the number of rows of each table, and a hash of their places and transactions."""
    return _read_facts(connection, _TABLES, _ROW_VERSIONS)


def sequence_values(connection: Connection) -> RelationFacts:
    """Return the value of each sequence, which even rolled-back transactions advance."""
    return _read_facts(connection, _SEQUENCES, _SEQUENCE_VALUES)


def _read_facts(connection: Connection, listing: str, query: str) -> RelationFacts:
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
