"""Packed templates: rows kept as text, so that the extensions of their types can be dropped."""

import json
from collections.abc import Sequence
from contextlib import suppress

import psycopg
from psycopg import errors, sql

from . import lock_waits, locks, names, pool, safe_search_path, schemas
from .schemas import OwnSchema
from .server import Connection
from .snapshot import Snapshot, create_extension, load_rows
from .template import Template

# This table has one row, and exists in packed templates only.
_TABLE = "packed"
_CREATE = "CREATE TABLE {} (extensions text, types text, rows bytea[])"
_TABLE_EXISTS = """
    SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE nspname = %s AND relname = %s
"""
_EXTENSIONS = """
    SELECT extname, extversion FROM pg_catalog.pg_extension
    WHERE extnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
    ORDER BY oid
"""
_INSTALLED = "SELECT extname, extnamespace::regnamespace::text FROM pg_catalog.pg_extension"


def pack_pools(connection: Connection, path: Sequence[str], *, batch: int) -> bool:
    """Pack the templates of all pools in a database without live runs, and drop other schemas.

    `path` follows a copy on the search_path. Return whether any template was packed.
    """
    is_any_packed = False
    for schema in schemas.list_own(connection):
        if schema.pool == schema.name and _pack_template(connection, schema, path):
            is_any_packed = True
        elif schema.pool is None or not names.is_shims_schema(schema.name):
            # A schema that cannot be dropped now keeps the extension in place.
            with suppress(lock_waits.SchemaInUseError, errors.InsufficientPrivilege):
                schemas.drop(connection, schema.name, schema.marker.run, batch=batch)
    return is_any_packed


def _pack_template(connection: Connection, schema: OwnSchema, path: Sequence[str]) -> bool:
    """Pack a template; return False if it is not valid, for instance after manual changes."""
    template = pool.read_template(connection, schema.name, path)
    if template is None:
        return False
    table = sql.Identifier(template.name, _TABLE)
    with suppress(errors.LockNotAvailable, errors.InsufficientPrivilege), connection.transaction():
        lock_waits.set_lock_timeout(connection)
        if not _table_exists(connection, template.name, _TABLE):
            snapshot = Snapshot.from_template(connection, template, "", 0)
            extensions = connection.execute(_EXTENSIONS, [names.EXTENSIONS_SCHEMA]).fetchall()
            connection.execute(sql.SQL(_CREATE).format(table))
            connection.execute(
                sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(table),
                [json.dumps(extensions), json.dumps(snapshot.types), list(snapshot.rows)],
            )
        for copy, _ in template.copies:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(copy))
    return True


def needed_extensions(connection: Connection, template: Template) -> list[str]:
    """Return the extensions that a packed template needs to be unpacked."""
    if not _table_exists(connection, template.name, _TABLE):
        return []
    query = sql.SQL("SELECT extensions FROM {}").format(sql.Identifier(template.name, _TABLE))
    row = connection.execute(query).fetchone()
    return [name for name, _ in json.loads(row[0])] if row else []


def unpack_template(connection: Connection, template: Template) -> bool:
    """Create the copies of rows in a packed template from its text, and the missing extensions.

    Return False if that fails, for instance because an extension is in another schema by now.
    """
    if not _table_exists(connection, template.name, _TABLE):
        return True
    table = sql.Identifier(template.name, _TABLE)
    query = sql.SQL("SELECT extensions, types, rows FROM {}").format(table)
    try:
        with connection.transaction():
            locks.acquire_until_commit(connection, locks.EXTENSIONS)
            (extensions, types, rows) = connection.execute(query).fetchone() or ("[]", "[]", [])
            installed: dict[str, str] = dict(connection.execute(_INSTALLED).fetchall())
            for name, version in json.loads(extensions):
                if installed.setdefault(name, names.EXTENSIONS_SCHEMA) != names.EXTENSIONS_SCHEMA:
                    return False
                create_extension(connection, name, version, names.EXTENSIONS_SCHEMA)
            has_copies = bool(template.copies.tables)
            if has_copies and not _table_exists(connection, template.name, "rows_1"):
                with safe_search_path.users_search_path(connection, "pg_catalog", template.path):
                    load_rows(connection, template.copies, json.loads(types), rows)
    except psycopg.Error:
        return False
    return True


def _table_exists(connection: Connection, schema: str, table: str) -> bool:
    return connection.execute(_TABLE_EXISTS, [schema, table]).fetchone() is not None
