"""Snapshots: templates, and databases to clone, as SQL, for machines without a pool, such as CI.

A file begins with a comment that contains everything except the SQL as JSON. It is compressed with
gzip, whose checksum detects damage.
"""

import gzip
import json
import os
import re
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import sql

from ..folders import make_gitignored
from . import locks, schemas
from .names import Marker
from .pg_dump import DumpError, PgDump
from .rows import list_stale_views
from .server import Connection, Server
from .structure_script import SETTINGS, CopyError, first_line, parse_entries
from .template import Extension, Template, list_extensions

_FORMAT = 4
_SUFFIX = ".snapshot"
_NAME = re.compile(rf"[0-9a-f]+-[0-9a-f]+{re.escape(_SUFFIX)}")
_COMMENT = "-- "
# The errors that reading a damaged or another file raises.
_READ_ERRORS = (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zlib.error)
# The tables of a template, and their columns, whose types are PostgreSQL's own.
_TABLES = """
    SELECT relname, pg_catalog.string_agg(
        pg_catalog.format('%%I %%s', attname, pg_catalog.format_type(atttypid, atttypmod)), ', '
        ORDER BY attnum)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    WHERE relkind = 'r'
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
    GROUP BY relname ORDER BY relname
"""
_END_OF_ROWS = "\\.\n"
_HAS_FIXED_SCHEMA = (
    "SELECT FROM pg_catalog.pg_available_extension_versions"
    " WHERE name = %s AND version = %s AND schema IS NOT NULL"
)
# Changes that migrations can make to the database itself.
_DATABASE_CHANGES = """
    SELECT 'the settings of the database' FROM pg_catalog.pg_db_role_setting
    WHERE setdatabase = (SELECT oid FROM pg_catalog.pg_database
                         WHERE datname = pg_catalog.current_database())
    UNION
    SELECT 'the privileges of the database' FROM pg_catalog.pg_database
    WHERE datname = pg_catalog.current_database() AND datacl IS NOT NULL
    ORDER BY 1
"""
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


class Snapshot(NamedTuple):
    """A template, or a whole database with owners and privileges, as SQL."""

    fingerprint: str
    # When the template or the database was built, in seconds since the Unix epoch.
    made: int
    # The caller's metadata, which must be serializable as JSON.
    extra: Mapping[str, Any]
    sql: str
    # The name of the template in the SQL; None if this is a whole database.
    template: str | None = None

    @classmethod
    def of_template(cls, connection: Connection, name: str, **facts: Any) -> Self:
        """Read a template and its rows."""
        parts = []
        for table, columns in connection.execute(_TABLES, [name]).fetchall():
            identifier = sql.Identifier(name, table).as_string()
            copy = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name, table))
            with connection.cursor().copy(copy) as blocks:
                rows = b"".join(map(bytes, blocks)).decode()
            create = f"CREATE TABLE {identifier} ({columns});\nCOPY {identifier} FROM STDIN;\n"
            parts.append(f"{create}{rows}{_END_OF_ROWS}")
        return cls(sql=_separator(name).join(parts), template=name, **facts)

    @classmethod
    def of_database(cls, server: Server, name: str, pg_dump: PgDump, **facts: Any) -> Self:
        """Dump a database. Raises CopyError if a dump would not reproduce it."""
        try:
            with server.connect(name) as connection:
                refuse_database_changes(connection)
                _refuse_unfaithful_objects(connection)
            with closing(pg_dump.start(server, name)) as dump:
                return cls(sql=dump.result(), **facts)
        except (DumpError, psycopg.Error) as error:
            raise CopyError(first_line(error)) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises CopyError."""
        try:
            head, _, text = gzip.decompress(path.read_bytes()).decode().partition("\n")
            facts = json.loads(head.removeprefix(_COMMENT))
            if (found := facts.pop("format")) != _FORMAT:
                raise CopyError(f"its format is {found!r}, not {_FORMAT}")
            return cls(sql=text, **facts)
        except _READ_ERRORS as error:
            raise CopyError(f"it is damaged, or not a snapshot: {error}") from error

    def write(self, path: Path) -> None:
        """Write the file, or replace it, atomically. Raises OSError."""
        facts = {"format": _FORMAT, **self._asdict()}
        text = facts.pop("sql")
        make_gitignored(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with open(handle, "wb") as file:
                content = f"{_COMMENT}{json.dumps(facts)}\n{text}".encode()
                # Measured: level 9 takes three times as long as 6, for files 2 % smaller.
                file.write(gzip.compress(content, compresslevel=6))
            # Another user may restore the CI cache.
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    def restore_template(
        self, connection: Connection, marker: Marker, *, path: Sequence[str], extensions: str
    ) -> tuple[Template, list[str]]:
        """Create the template, and the missing extensions, in one transaction.

        `path` follows a copy on the search_path, and `extensions` is the schema for extensions.
        Return the template, and the names of the extensions. Raises CopyError.
        """
        assert self.template is not None
        try:
            with connection.transaction():
                name = schemas.create_template(connection, marker.run)
                for part in self.sql.split(_separator(self.template)):
                    create, copy, rows = part.replace(self.template, name).split("\n", 2)
                    connection.execute(create.encode())
                    with connection.cursor().copy(copy.encode()) as target:
                        target.write(rows.removesuffix(_END_OF_ROWS))
                template = Template.read(connection, name, path).as_unverified(connection)
                created = create_missing_extensions(connection, template, extensions)
                schemas.mark(connection, name, marker)
        except psycopg.Error as error:
            raise CopyError(first_line(error)) from error
        return template, created

    def restore_database(self, connection: Connection) -> None:
        """Execute the dump in a new database.

        Raises CopyError, and leaves the database incomplete.
        """
        try:
            connection.execute(SETTINGS)
            for kind, name, text in parse_entries(self.sql):
                # CREATE EXTENSION sets this comment, and only the extension's owner may.
                if not (kind == "COMMENT" and name.startswith("EXTENSION ")):
                    connection.execute(text.encode())
        except (DumpError, psycopg.Error) as error:
            raise CopyError(first_line(error)) from error


def _separator(template: str) -> str:
    """Return the line between tables. No row contains it, because the name is unique."""
    return f"-- {template}\n"


def refuse_database_changes(connection: Connection) -> None:
    """Raise CopyError if migrations have changed settings or privileges of the database."""
    if changed := [text for (text,) in connection.execute(_DATABASE_CHANGES)]:
        raise CopyError(f"migrations have changed {', '.join(changed)}")


def _refuse_unfaithful_objects(connection: Connection) -> None:
    objects = [text for (text,) in connection.execute(_NOT_REPRODUCED)]
    # Raise an error if row security would hide rows.
    connection.execute("SET row_security = off")
    for (schema,) in connection.execute(_SCHEMAS_WITH_VIEWS).fetchall():
        objects += list_stale_views(connection, schema, ())
    if objects:
        raise CopyError(f"a dump cannot reproduce {', '.join(objects)}")


def create_missing_extensions(
    connection: Connection, template: Template, schema: str
) -> list[str]:
    """Create the extensions that copies of a template need; return their names.

    Raises CopyError if one is installed in another version or schema, or cannot be created.
    """
    installed = {extension.name: extension for extension in list_extensions(connection)}
    missing = []
    for needed in template.contents.extensions:
        if (found := installed.get(needed.name)) is None:
            missing.append(needed)
        elif found != needed:
            raise CopyError(f"it needs extension {needed}, and the database has {found}")
    try:
        with connection.transaction():
            if missing:
                # Other runs may create the same extensions.
                locks.acquire_until_commit(connection, locks.EXTENSIONS)
            for extension in missing:
                _create_extension(connection, extension, schema)
    except psycopg.Error as error:
        raise CopyError(first_line(error)) from error
    return [extension.name for extension in missing]


def _create_extension(connection: Connection, extension: Extension, schema: str) -> None:
    row = connection.execute(_HAS_FIXED_SCHEMA, [extension.name, extension.version]).fetchone()
    # PostgreSQL refuses SCHEMA for an extension whose control file names another one.
    where = sql.SQL("") if row else sql.SQL("SCHEMA {}").format(sql.Identifier(schema))
    connection.execute(
        sql.SQL("CREATE EXTENSION IF NOT EXISTS {} {} VERSION {}").format(
            sql.Identifier(extension.name), where, sql.Literal(extension.version)
        )
    )


def snapshot_path(folder: Path, fingerprint: str, variant: str) -> Path:
    """Return the path for a fingerprint; `variant` is a hash of the recorded dependencies."""
    return folder / f"{fingerprint}-{variant}{_SUFFIX}"


def list_snapshots(folder: Path, fingerprint: str = "*") -> list[Path]:
    """List the snapshots in a folder, or those with this fingerprint."""
    return sorted(folder.glob(f"{fingerprint}-*{_SUFFIX}"))


def remove_older(folder: Path, oldest: int) -> None:
    """Remove snapshots written before `oldest`, in seconds since the Unix epoch."""
    for path in list_snapshots(folder):
        with suppress(FileNotFoundError):  # Another run may remove it.
            if _NAME.fullmatch(path.name) and path.stat().st_mtime < oldest:
                path.unlink()
