"""Snapshots: templates as files, for machines that have no pool, such as CI."""

import json
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from ..folders import make_gitignored
from . import locks, safe_search_path, schemas
from .names import Marker
from .row_copies import Copies
from .server import Connection
from .structure_script import TemplateContents
from .template import Template

_FORMAT = 3
# The errors that reading a damaged file raises.
_READ_ERRORS = (
    *(AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)
_SUFFIX = ".snapshot"
_NAME = re.compile(rf"[0-9a-f]+-[0-9a-f]+{re.escape(_SUFFIX)}")
_MANIFEST = "manifest.json"


class SnapshotError(Exception):
    """A snapshot cannot be made, read or used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The contents of a template, with rows."""

    fingerprint: str
    # When the template was created, in seconds since the Unix epoch.
    made: int
    contents: TemplateContents
    # The names and versions of the extensions that the template needs.
    extensions: Mapping[str, str]
    # For each table, the types of its copy's columns, and the output of COPY.
    types: Sequence[Sequence[str]]
    rows: Sequence[bytes]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises SnapshotError."""
        with open_snapshot(path) as (manifest, file):
            parts = (manifest[key] for key in ("facts", "before", "after", "inventory"))
            contents = TemplateContents.load(*parts)
            columns = [len(Copies.columns(table)) for table in contents.tables]
            if [len(types) for types in manifest["types"]] != columns:
                raise SnapshotError("the columns of its tables do not match its contents")
            return cls(
                fingerprint=manifest["fingerprint"],
                made=int(manifest["made"]),
                contents=contents,
                extensions=dict(manifest["extensions"]),
                types=manifest["types"],
                rows=[file.read(f"rows/{n}") for n in range(len(contents.tables))],
            )

    @classmethod
    def from_template(
        cls, connection: Connection, template: Template, fingerprint: str, made: int
    ) -> Self:
        """Read a template and its rows."""
        return cls(
            fingerprint=fingerprint,
            made=made,
            contents=template.read_contents(connection),
            extensions=dict(connection.execute(_EXTENSIONS).fetchall()),
            types=_column_types(connection, template),
            rows=[_copy_out(connection, copy) for copy, _ in template.copies],
        )

    @property
    def extra(self) -> Mapping[str, Any]:
        return self.contents.extra

    def write(self, path: Path) -> None:
        """Write the file, or replace it, atomically. Raises OSError."""
        manifest = {
            "fingerprint": self.fingerprint,
            "made": self.made,
            "facts": self.contents.metadata,
            "before": self.contents.script.before,
            "after": self.contents.script.after,
            "inventory": sorted(self.contents.inventory),
            "extensions": self.extensions,
            "types": self.types,
        }
        write_file(
            path, manifest, {f"rows/{number}": rows for number, rows in enumerate(self.rows)}
        )

    def restore(
        self, connection: Connection, marker: Marker, *, path: Sequence[str], extensions: str
    ) -> Template:
        """Create a template from the snapshot, and the missing extensions, in one transaction.

        `path` follows a copy on the search_path, and `extensions` is the schema for extensions.
        Raises SnapshotError.
        """
        try:
            # Other runs may create the same extensions.
            with connection.transaction():
                locks.acquire_until_commit(connection, locks.EXTENSIONS)
                for name, version in self.missing_extensions(connection).items():
                    create_extension(connection, name, version, extensions)
                # The names of the columns' types depend on the path.
                with safe_search_path.users_search_path(connection, "pg_catalog", path):
                    return self._fill(connection, marker, path)
        except psycopg.Error as error:
            raise SnapshotError(str(error).partition("\n")[0]) from error

    def missing_extensions(self, connection: Connection) -> dict[str, str]:
        """Return the names and versions of extensions to create.

        Raises SnapshotError if one is installed in another version.
        """
        installed: dict[str, str] = dict(connection.execute(_EXTENSIONS).fetchall())
        for name, version in self.extensions.items():
            if installed.get(name, version) != version:
                raise SnapshotError(
                    f"it needs extension {name} {version}, and the database has {installed[name]}"
                )
        return {
            name: version for name, version in self.extensions.items() if name not in installed
        }

    def _fill(self, connection: Connection, marker: Marker, path: Sequence[str]) -> Template:
        name = schemas.create_template(connection, marker.run)
        template = Template(name, self.contents, tuple(path))
        load_rows(connection, template.copies, self.types, self.rows)
        template.write_contents(connection, marker)
        return template


def load_rows(
    connection: Connection,
    copies: Copies,
    types: Sequence[Sequence[str]],
    rows: Sequence[bytes],
) -> None:
    """Create the copies of tables, and load their rows from the output of COPY."""
    for (copy, table), types_of_copy, rows_of_copy in zip(copies, types, rows, strict=True):
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(type_))
            for column, type_ in zip(Copies.columns(table), types_of_copy, strict=True)
        )
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(copy, columns))
        with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(copy)) as target:
            target.write(rows_of_copy)


# In the order of their dependencies.
_EXTENSIONS = "SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY oid"
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
_COLUMN_TYPES = """
    SELECT pg_catalog.format_type(atttypid, atttypmod)
    FROM pg_catalog.pg_attribute
    WHERE attrelid OPERATOR(pg_catalog.=) %s::pg_catalog.regclass
      AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped
    ORDER BY attnum
"""


def create_extension(connection: Connection, name: str, version: str, schema: str) -> None:
    """Create an extension in this version unless it exists."""
    row = connection.execute(_HAS_FIXED_SCHEMA, [name, version]).fetchone()
    # PostgreSQL refuses SCHEMA for an extension whose control file names another one.
    where = sql.SQL("") if row else sql.SQL("SCHEMA {}").format(sql.Identifier(schema))
    connection.execute(
        sql.SQL("CREATE EXTENSION IF NOT EXISTS {} {} VERSION {}").format(
            sql.Identifier(name), where, sql.Literal(version)
        )
    )


def _column_types(connection: Connection, template: Template) -> list[list[str]]:
    """Return the types of copies' columns, unqualified, because elsewhere the schemas differ."""
    with safe_search_path.users_search_path(connection, template.name, template.path):
        return [
            [name for (name,) in connection.execute(_COLUMN_TYPES, [copy.as_string(connection)])]
            for copy, _ in template.copies
        ]


def _copy_out(connection: Connection, table: sql.Identifier) -> bytes:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(table)) as rows:
        return b"".join(bytes(block) for block in rows)


def refuse_database_changes(connection: Connection) -> None:
    """Raise SnapshotError if migrations have changed settings or privileges of the database."""
    if changed := [text for (text,) in connection.execute(_DATABASE_CHANGES)]:
        raise SnapshotError(f"migrations have changed {', '.join(changed)}")


@contextmanager
def open_snapshot(path: Path) -> Iterator[tuple[dict[str, Any], zipfile.ZipFile]]:
    """Yield the manifest of a snapshot, and the open file.

    Raises SnapshotError, including for errors that the caller gets while reading the file.
    """
    try:
        # zipfile compares the checksum of each member that is read to its end.
        with zipfile.ZipFile(path) as file:
            manifest = json.loads(file.read(_MANIFEST))
            if manifest["format"] != _FORMAT:
                raise SnapshotError(f"its format is {manifest['format']!r}, not {_FORMAT}")
            yield manifest, file
    except _READ_ERRORS as error:
        raise SnapshotError(f"it is damaged, or not a snapshot: {error}") from error


def read_metadata(path: Path) -> tuple[str, int, Mapping[str, Any]]:
    """Return the fingerprint of a snapshot, the time of its creation, and its `extra` metadata.

    Raises SnapshotError.
    """
    with open_snapshot(path) as (manifest, _):
        is_database = "extra" in manifest
        extra = manifest["extra"] if is_database else json.loads(manifest["facts"])["extra"]
        return str(manifest["fingerprint"]), int(manifest["made"]), dict(extra)


def list_newest_first(folder: Path) -> list[Path]:
    """List the snapshots in a folder, newest first."""
    with suppress(FileNotFoundError):  # Another run may remove old ones.
        paths = [path for path in folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.name)]
        return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    return []


def write_file(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Write a snapshot, or replace it, atomically. Raises OSError."""
    make_gitignored(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with (
            os.fdopen(handle, "wb") as target,
            zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file,
        ):
            file.writestr(_MANIFEST, json.dumps({"format": _FORMAT, **manifest}))
            for member, content in members.items():
                file.writestr(member, content)
        # Another user may restore the CI cache.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def snapshot_path(folder: Path, fingerprint: str, variant: str) -> Path:
    """Return the path for a fingerprint; `variant` is a hash of the recorded dependencies."""
    return folder / f"{fingerprint}-{variant}{_SUFFIX}"


def list_with_fingerprint(folder: Path, fingerprint: str) -> list[Path]:
    """List the snapshots with a fingerprint."""
    return sorted(folder.glob(f"{fingerprint}-*{_SUFFIX}"))


def remove_older(folder: Path, oldest: int) -> None:
    """Remove snapshots written before `oldest`, in seconds since the Unix epoch."""
    for path in folder.glob(f"*{_SUFFIX}"):
        if _NAME.fullmatch(path.name) and path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
