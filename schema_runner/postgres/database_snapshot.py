"""Snapshots of host databases that are cloned for workers: files with the output of pg_dump."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psycopg

from . import snapshot
from .pg_dump import DumpError, PgDump
from .rows import read_materialized_views
from .server import Connection, Server
from .snapshot import SnapshotError, refuse_database_changes
from .structure_script import SETTINGS, first_line, parse_entries

_SQL = "database.sql"
# Objects that a dump does not reproduce.
_NOT_REPRODUCED = """
    SELECT 'extension ' || name || ', whose version is not the default'
    FROM pg_catalog.pg_available_extensions WHERE installed_version <> default_version
    UNION ALL
    SELECT 'subscription ' || subname FROM pg_catalog.pg_subscription
    WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database
                     WHERE datname = pg_catalog.current_database())
"""
_SCHEMAS_WITH_VIEWS = """
    SELECT DISTINCT nspname FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE relkind = 'm'
"""


@dataclass(frozen=True, slots=True)
class DatabaseSnapshot:
    """The dump of a database, with owners and privileges."""

    fingerprint: str
    # When the database was built, in seconds since the Unix epoch.
    made: int
    extra: Mapping[str, Any]
    sql: str

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a file; return None if it is the snapshot of a template. Raises SnapshotError."""
        with snapshot.open_snapshot(path) as (manifest, file):
            if _SQL not in file.namelist():
                return None
            return cls(
                fingerprint=manifest["fingerprint"],
                made=int(manifest["made"]),
                # Raises KeyError, and so SnapshotError, if there is no "why".
                extra=dict(manifest["extra"], why=manifest["extra"]["why"]),
                sql=file.read(_SQL).decode(),
            )

    @classmethod
    def from_database(cls, server: Server, name: str, pg_dump: PgDump, **facts: Any) -> Self:
        """Dump a database. Raises SnapshotError if a dump would not reproduce it."""
        try:
            with server.connect(name) as connection:
                refuse_database_changes(connection)
                _refuse_unfaithful_objects(connection)
            with closing(pg_dump.start(server, name)) as dump:
                return cls(**facts, sql=dump.result())
        except (DumpError, psycopg.Error) as error:
            raise SnapshotError(first_line(error)) from error

    def write(self, path: Path) -> None:
        """Write the file, or replace it, atomically. Raises OSError."""
        manifest = asdict(self)
        snapshot.write_file(path, manifest, {_SQL: manifest.pop("sql").encode()})

    def restore(self, connection: Connection) -> None:
        """Execute the dump in a new database.

        Raises SnapshotError, and leaves the database incomplete.
        """
        try:
            connection.execute(SETTINGS)
            for kind, name, text in parse_entries(self.sql):
                # CREATE EXTENSION sets this comment, and only the extension's owner may.
                if not (kind == "COMMENT" and name.startswith("EXTENSION ")):
                    connection.execute(text.encode())
        except (DumpError, psycopg.Error) as error:
            raise SnapshotError(first_line(error)) from error


def _refuse_unfaithful_objects(connection: Connection) -> None:
    objects = [text for (text,) in connection.execute(_NOT_REPRODUCED)]
    # Raise an error if row security would hide rows.
    connection.execute("SET row_security = off")
    for (schema,) in connection.execute(_SCHEMAS_WITH_VIEWS).fetchall():
        _, stale = read_materialized_views(connection, schema, ())
        objects += [f"materialized view {name}, which is out of date" for name in stale]
    if objects:
        raise SnapshotError(f"a dump cannot reproduce {', '.join(objects)}")
