"""Snapshots of databases that workers get clones of: all that is in one, as pg_dump writes it."""

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
# What a dump makes otherwise than it was.
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
    """What a file holds: the statements of a database, `made` in seconds since the Unix epoch.

    They name its owners: a role that has the same fingerprint has the same name.
    """

    fingerprint: str
    made: int
    extra: Mapping[str, Any]
    sql: str

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a file; return None for a schema's, and raise SnapshotError for what is none."""
        with snapshot.open_snapshot(path) as (found, file):
            if _SQL not in file.namelist():
                return None
            return cls(
                fingerprint=found["fingerprint"],
                made=int(found["made"]),
                extra=dict(found["extra"], why=found["extra"]["why"]),
                sql=file.read(_SQL).decode(),
            )

    @classmethod
    def from_database(cls, server: Server, name: str, pg_dump: PgDump, **facts: Any) -> Self:
        """Read a database. Raises SnapshotError where a dump would make something else."""
        try:
            with server.connect(name) as connection:
                refuse_database_changes(connection)
                _refuse_unfaithful_objects(connection)
            with closing(pg_dump.start(server, name)) as dump:
                return cls(**facts, sql=dump.result())
        except (DumpError, psycopg.Error) as error:
            raise SnapshotError(first_line(error)) from error

    def write(self, path: Path) -> None:
        """Put a whole file where the path says, or leave what is there; may raise OSError."""
        manifest = asdict(self)
        snapshot.write_file(path, manifest, {_SQL: manifest.pop("sql").encode()})

    def restore(self, connection: Connection) -> None:
        """Make all of it in a new database; raise SnapshotError, and a part of it is there."""
        try:
            connection.execute(SETTINGS)
            for kind, name, text in parse_entries(self.sql):
                # CREATE EXTENSION writes that, and only the owner of an extension may.
                if not (kind == "COMMENT" and name.startswith("EXTENSION ")):
                    connection.execute(text.encode())
        except (DumpError, psycopg.Error) as error:
            raise SnapshotError(first_line(error)) from error


def _refuse_unfaithful_objects(connection: Connection) -> None:
    found = [text for (text,) in connection.execute(_NOT_REPRODUCED)]
    # Rather an error than rows that are not seen.
    connection.execute("SET row_security = off")
    for (schema,) in connection.execute(_SCHEMAS_WITH_VIEWS).fetchall():
        _, stale = read_materialized_views(connection, schema, ())
        found += [f"materialized view {name}, which is out of date" for name in stale]
    if found:
        raise SnapshotError(f"a dump cannot carry {', '.join(found)}")
