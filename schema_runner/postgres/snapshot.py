"""Snapshots: a template as a file, for machines that have no pool."""

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
# What comes of bytes that are not what was written.
_ERRORS = (
    *(AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)
_SUFFIX = ".snapshot"
_NAME = re.compile(rf"[0-9a-f]+-[0-9a-f]+{re.escape(_SUFFIX)}")
_MANIFEST = "manifest.json"


class SnapshotError(Exception):
    """A file is no snapshot, or not one that can be used here; the message says why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file holds: the `contents` of a template, and the rows of its tables.

    `types` lists the types of the columns of each table's copy, and `rows` has what COPY writes
    of it. `extensions` maps the names of those that are needed to their versions. `made` is in
    seconds since the Unix epoch.
    """

    fingerprint: str
    made: int
    contents: TemplateContents
    extensions: Mapping[str, str]
    types: Sequence[Sequence[str]]
    rows: Sequence[bytes]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read all that is in a file, or raise SnapshotError."""
        with opened(path) as (found, file):
            parts = (found[key] for key in ("facts", "before", "after", "inventory"))
            contents = TemplateContents.load(*parts)
            columns = [len(Copies.columns(table)) for table in contents.tables]
            if [len(types) for types in found["types"]] != columns:
                raise SnapshotError("its tables have other columns than it says")
            return cls(
                fingerprint=found["fingerprint"],
                made=int(found["made"]),
                contents=contents,
                extensions=dict(found["extensions"]),
                types=found["types"],
                rows=[file.read(f"rows/{n}") for n in range(len(contents.tables))],
            )

    @classmethod
    def of(cls, connection: Connection, template: Template, fingerprint: str, made: int) -> Self:
        """Read a template."""
        return cls(
            fingerprint=fingerprint,
            made=made,
            contents=template.whole(connection),
            extensions=dict(connection.execute(_EXTENSIONS).fetchall()),
            types=_types(connection, template),
            rows=[_rows(connection, copy) for copy, _ in template.copies],
        )

    @property
    def extra(self) -> Mapping[str, Any]:
        return self.contents.extra

    def write(self, path: Path) -> None:
        """Put a whole file where the path says, or leave what is there; may raise OSError."""
        manifest = {
            "fingerprint": self.fingerprint,
            "made": self.made,
            "facts": self.contents.facts,
            "before": self.contents.script.before,
            "after": self.contents.script.after,
            "inventory": sorted(self.contents.inventory),
            "extensions": self.extensions,
            "types": self.types,
        }
        write(path, manifest, {f"rows/{number}": rows for number, rows in enumerate(self.rows)})

    def restore(
        self, connection: Connection, marker: Marker, *, path: Sequence[str], extensions: str
    ) -> Template:
        """Make a template of what is here, and the extensions that are missing.

        Those go into the schema called `extensions`. Raises SnapshotError, and has then done
        nothing.
        """
        try:
            # Others may be about to create the same extensions.
            with connection.transaction():
                locks.hold_until_commit(connection, locks.EXTENSIONS)
                for name, version in self.missing_extensions(connection).items():
                    create_extension(connection, name, version, extensions)
                # As the types of columns are named.
                with safe_search_path.users_search_path(connection, "pg_catalog", path):
                    return self._fill(connection, marker, path)
        except psycopg.Error as error:
            raise SnapshotError(str(error).partition("\n")[0]) from error

    def missing_extensions(self, connection: Connection) -> dict[str, str]:
        """Return those that are needed and not there; raise SnapshotError for another version."""
        installed: dict[str, str] = dict(connection.execute(_EXTENSIONS).fetchall())
        for name, version in self.extensions.items():
            if installed.get(name, version) != version:
                raise SnapshotError(f"extension {name} is of version {installed[name]} here")
        return {
            name: version for name, version in self.extensions.items() if name not in installed
        }

    def _fill(self, connection: Connection, marker: Marker, path: Sequence[str]) -> Template:
        name = schemas.create_template(connection, marker.run)
        template = Template(name, self.contents, tuple(path))
        fill(connection, template.copies, self.types, self.rows)
        template.complete(connection, marker)
        return template


def fill(
    connection: Connection,
    copies: Copies,
    types: Sequence[Sequence[str]],
    rows: Sequence[bytes],
) -> None:
    """Make copies of tables of what COPY has written of them."""
    for (copy, table), types_of_copy, rows_of_copy in zip(copies, types, rows, strict=True):
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(type_))
            for column, type_ in zip(Copies.columns(table), types_of_copy, strict=True)
        )
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(copy, columns))
        with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(copy)) as target:
            target.write(rows_of_copy)


# In the order in which they need each other.
_EXTENSIONS = "SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY oid"
_FIXED = (
    "SELECT FROM pg_catalog.pg_available_extension_versions"
    " WHERE name = %s AND version = %s AND schema IS NOT NULL"
)
# What migrations can change that is in no schema.
_BESIDE = """
    SELECT 'the settings of the database' FROM pg_catalog.pg_db_role_setting
    WHERE setdatabase = (SELECT oid FROM pg_catalog.pg_database
                         WHERE datname = pg_catalog.current_database())
    UNION
    SELECT 'who may use the database' FROM pg_catalog.pg_database
    WHERE datname = pg_catalog.current_database() AND datacl IS NOT NULL
"""
_TYPES = """
    SELECT pg_catalog.format_type(atttypid, atttypmod)
    FROM pg_catalog.pg_attribute
    WHERE attrelid OPERATOR(pg_catalog.=) %s::pg_catalog.regclass
      AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped
    ORDER BY attnum
"""


def create_extension(connection: Connection, name: str, version: str, schema: str) -> None:
    """Create an extension of this version unless it is there."""
    row = connection.execute(_FIXED, [name, version]).fetchone()
    # One that knows its schema need not be told.
    where = sql.SQL("") if row else sql.SQL("SCHEMA {}").format(sql.Identifier(schema))
    connection.execute(
        sql.SQL("CREATE EXTENSION IF NOT EXISTS {} {} VERSION {}").format(
            sql.Identifier(name), where, sql.Literal(version)
        )
    )


def _types(connection: Connection, template: Template) -> list[list[str]]:
    """Name the types of the columns of copies, without schemas: another place has others."""
    with safe_search_path.users_search_path(connection, template.name, template.path):
        return [
            [name for (name,) in connection.execute(_TYPES, [copy.as_string(connection)])]
            for copy, _ in template.copies
        ]


def _rows(connection: Connection, table: sql.Identifier) -> bytes:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(table)) as rows:
        return b"".join(bytes(block) for block in rows)


def refuse_changes_beside(connection: Connection) -> None:
    """Raise SnapshotError where a database is not as it was created, but for its schemas."""
    if changed := [text for (text,) in connection.execute(_BESIDE)]:
        raise SnapshotError(f"migrations have changed {', '.join(changed)}")


@contextmanager
def opened(path: Path) -> Iterator[tuple[dict[str, Any], zipfile.ZipFile]]:
    """Yield the manifest of a file, and the file; raise SnapshotError for what is wrong in it."""
    try:
        # What is read whole has its checksum compared.
        with zipfile.ZipFile(path) as file:
            found = json.loads(file.read(_MANIFEST))
            if found["format"] != _FORMAT:
                raise SnapshotError(f"it is of another format, {found['format']!r}")
            yield found, file
    except _ERRORS as error:
        raise SnapshotError(f"it is damaged, or no snapshot: {error}") from error


def facts_of(path: Path) -> tuple[str, int, Mapping[str, Any]]:
    """Return the fingerprint of a file, when it was made, and its extra facts.

    Raises SnapshotError.
    """
    with opened(path) as (found, _):
        extra = found["extra"] if "extra" in found else json.loads(found["facts"])["extra"]
        return str(found["fingerprint"]), int(found["made"]), dict(extra)


def newest(folder: Path) -> list[Path]:
    """List the snapshots in a folder, the newest first."""
    with suppress(FileNotFoundError):  # Another run removes old ones.
        found = [path for path in folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return []


def write(path: Path, manifest: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """Put a whole file where the path says, or leave what is there; may raise OSError."""
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
        # Another user may restore the cache.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def path_of(folder: Path, fingerprint: str, variant: str) -> Path:
    """Return the file for a fingerprint; `variant` is of what only a build shows."""
    return folder / f"{fingerprint}-{variant}{_SUFFIX}"


def files(folder: Path, fingerprint: str) -> list[Path]:
    """List the files that are called so."""
    return sorted(folder.glob(f"{fingerprint}-*{_SUFFIX}"))


def remove_older(folder: Path, oldest: int) -> None:
    """Remove the snapshots that were written before that time, in seconds since the Unix epoch."""
    for path in folder.glob(f"*{_SUFFIX}"):
        if _NAME.fullmatch(path.name) and path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
