"""Extensions that only runs need, in the project's own database."""

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import psycopg
from psycopg import errors, sql

from ..errors import SchemaRunnerError
from . import lock_waits, locks, names, pool, schemas, search_path, sessions
from .databases import is_ours
from .names import Marker, MarkerState
from .schemas import OwnSchema
from .server import Connection
from .snapshot import Snapshot, create_extension, fill
from .template import Template

_SCHEMA = sql.Identifier(names.EXTENSIONS_SCHEMA)
# Whose the schema is and who else may put something in it, which all SQL on its path would find.
_OWNERSHIP = sql.SQL("""
    SELECT pg_catalog.obj_description(oid, 'pg_namespace'),
           pg_catalog.pg_get_userbyid(nspowner), {is_ours},
           ARRAY(SELECT DISTINCT coalesce(other.rolname, 'PUBLIC')::text
                 FROM pg_catalog.aclexplode(nspacl)
                 LEFT JOIN pg_catalog.pg_roles other ON other.oid = grantee
                 WHERE privilege_type = 'CREATE' AND grantee <> nspowner
                   AND other.rolname IS DISTINCT FROM current_user)
    FROM pg_catalog.pg_namespace WHERE nspname = %s
""").format(is_ours=is_ours("nspowner"))
_THERE = """
    SELECT extname FROM pg_catalog.pg_extension
    WHERE extnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
    ORDER BY oid DESC
"""
_ELSEWHERE = """
    SELECT extname FROM pg_catalog.pg_extension
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) extnamespace
    WHERE nspname OPERATOR(pg_catalog.<>) %s AND extname OPERATOR(pg_catalog.=) ANY (%s)
"""


def create_extensions_schema(connection: Connection) -> bool:
    """Make the schema for extensions unless a run has made it before.

    Return whether it is to be used: one that runs of another role have made must be on no
    search_path of ours. Raises SchemaRunnerError where it is not a run's, where another role
    could have put something in ours, or where there are extensions in another role's.
    """
    with connection.transaction():
        locks.hold_until_commit(connection, locks.EXTENSIONS)
        row = connection.execute(_OWNERSHIP, [names.EXTENSIONS_SCHEMA]).fetchone()
        if row is None:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(_SCHEMA))
            schemas.mark(connection, names.EXTENSIONS_SCHEMA, Marker(0, MarkerState.READY))
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(_SCHEMA))
            return True
    comment, _, is_trusted, others = row
    if Marker.parse(comment) is None:
        raise SchemaRunnerError(
            f"The database {connection.info.dbname!r} has a schema {names.EXTENSIONS_SCHEMA} "
            f"that is not ours, where runs put extensions. Rename it."
        )
    if is_trusted and others:
        raise _refusal(connection, f"{', '.join(others)} may write to")
    if not is_trusted:
        # Migrations would take them for those that they create.
        refuse_extensions_of_others(connection, _there(connection))
    return bool(is_trusted)


def refuse_extensions_of_others(connection: Connection, needed: Collection[str]) -> None:
    """Raise SchemaRunnerError if any extension is needed that is in another role's schema.

    Such is one that would have to be created, too.
    """
    rows = connection.execute(_ELSEWHERE, [names.EXTENSIONS_SCHEMA, list(needed)]).fetchall()
    if missing := {*needed} - {name for (name,) in rows}:
        row = connection.execute(_OWNERSHIP, [names.EXTENSIONS_SCHEMA]).fetchone()
        owner = f"is owned by {row[1]!r}" if row else "was another role's as this run began"
        listed = ", ".join(sorted(missing))
        raise _refusal(connection, owner, f" To do without it, create {listed} in the database.")


def _refusal(connection: Connection, why: str, way_out: str = "") -> SchemaRunnerError:
    return SchemaRunnerError(
        f"The database {connection.info.dbname!r} has a schema {names.EXTENSIONS_SCHEMA} that "
        f"{why}, so that what is in it could be anybody's. Have it dropped, with what is in it, "
        f"while no run is at work.{way_out}"
    )


def remove_extensions(
    connection: Connection, path: Sequence[str], log: Callable[[str], None], *, batch: int
) -> list[str]:
    """Drop the extensions and their schema while no other run is in the database.

    Return the names of those that were there. Pools that need them are kept as text; what is not
    ours and needs one keeps it in place.
    """
    comment, _, is_trusted, others = connection.execute(
        _OWNERSHIP, [names.EXTENSIONS_SCHEMA]
    ).fetchone() or (None, None, False, [])
    if Marker.parse(comment) is None or not is_trusted or others:
        return []
    database = connection.info.dbname
    if sessions.live_runs_without_lease(connection):
        return []
    found = _there(connection)
    left = _drop(connection, found)
    if any(left.values()) and _pack_pools(connection, path, batch=batch):
        left = _drop(connection, found)
        listed = ", ".join(sorted(found))
        log(
            f"In {database!r}, what is kept is made anew by the next run, because it needs "
            f"{listed}, which the database itself does not have. CREATE EXTENSION there, and "
            f"ready schemas are kept."
        )
    for what, why in left.items():
        if why:
            log(f"In {database!r}, {what} stays: {why}")
    return sorted(found)


def _there(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute(_THERE, [names.EXTENSIONS_SCHEMA])]


def _pack_pools(connection: Connection, path: Sequence[str], *, batch: int) -> bool:
    # Few runs have a need for it.

    return pack_pools(connection, path, batch=batch)


def _drop(connection: Connection, extensions: Sequence[str]) -> dict[str, str | None]:
    """Drop what can be dropped; map it to why it cannot be, if so."""
    # Those that need others have come after them, and go before them.
    drops = {f"extension {name}": ("EXTENSION", name) for name in extensions}
    drops[f"schema {names.EXTENSIONS_SCHEMA}"] = ("SCHEMA", names.EXTENSIONS_SCHEMA)
    return {what: _why_not_dropped(connection, *drop) for what, drop in drops.items()}


def _why_not_dropped(connection: Connection, kind: str, name: str) -> str | None:
    drop = sql.SQL("DROP {} IF EXISTS {}").format(sql.SQL(kind), sql.Identifier(name))
    try:
        with connection.transaction():
            locks.hold_until_commit(connection, locks.EXTENSIONS)
            lock_waits.set_lock_timeout(connection)
            connection.execute(drop)
    except (
        errors.DependentObjectsStillExist,
        errors.InsufficientPrivilege,
        errors.LockNotAvailable,
    ) as error:
        return error.diag.message_detail or error.diag.message_primary
    return None


# What a packed template has beside what any has: this has one row.
_TABLE = "packed"
_CREATE = "CREATE TABLE {} (extensions text, types text, rows bytea[])"
_IS_THERE = """
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
    """Pack all pools of a database in which no run is at work; return whether there are any.

    `path` follows the schemas that are made from them. Whatever else is a run's is dropped.
    """
    found, packed = schemas.found(connection), False
    for schema in found:
        if schema.pool == schema.name and _pack_template(connection, schema, path):
            packed = True
        elif schema.pool is None or not names.is_shims_schema(schema.name):
            # What cannot be dropped now keeps the extension in place.
            with suppress(lock_waits.SchemaInUseError, errors.InsufficientPrivilege):
                schemas.drop(connection, schema.name, schema.marker.run, batch=batch)
    return packed


def _pack_template(connection: Connection, schema: OwnSchema, path: Sequence[str]) -> bool:
    """Pack a template; return False for one that was changed by hand."""
    template = pool.read(connection, schema.name, path)
    if template is None:
        return False
    table = sql.Identifier(template.name, _TABLE)
    with suppress(errors.LockNotAvailable, errors.InsufficientPrivilege), connection.transaction():
        lock_waits.set_lock_timeout(connection)
        if not _is_there(connection, template.name, _TABLE):
            snapshot = Snapshot.of(connection, template, "", 0)
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
    """Return the extensions without which the rows of a template are text."""
    if not _is_there(connection, template.name, _TABLE):
        return []
    query = sql.SQL("SELECT extensions FROM {}").format(sql.Identifier(template.name, _TABLE))
    row = connection.execute(query).fetchone()
    return [name for name, _ in json.loads(row[0])] if row else []


def unpack_template(connection: Connection, template: Template) -> bool:
    """Make rows of a template's text, unless it has them; return False where that cannot be.

    So it is where an extension is somewhere else by now.
    """
    if not _is_there(connection, template.name, _TABLE):
        return True
    table = sql.Identifier(template.name, _TABLE)
    query = sql.SQL("SELECT extensions, types, rows FROM {}").format(table)
    try:
        with connection.transaction():
            locks.hold_until_commit(connection, locks.EXTENSIONS)
            (extensions, types, rows) = connection.execute(query).fetchone() or ("[]", "[]", [])
            installed: dict[str, str] = dict(connection.execute(_INSTALLED).fetchall())
            for name, version in json.loads(extensions):
                if installed.setdefault(name, names.EXTENSIONS_SCHEMA) != names.EXTENSIONS_SCHEMA:
                    return False
                create_extension(connection, name, version, names.EXTENSIONS_SCHEMA)
            missing = [copy for copy, _ in template.copies]
            if missing and not _is_there(connection, template.name, "rows_1"):
                with search_path.users_search_path(connection, "pg_catalog", template.path):
                    fill(connection, template.copies, json.loads(types), rows)
    except psycopg.Error:
        return False
    return True


def _is_there(connection: Connection, schema: str, table: str) -> bool:
    return connection.execute(_IS_THERE, [schema, table]).fetchone() is not None
