"""Extensions that only runs need, in the project's own database."""

from collections.abc import Callable, Collection, Sequence

from psycopg import errors, sql

from ..errors import SchemaRunnerError
from . import lock_waits, locks, names, schemas, sessions
from .databases import is_ours
from .names import Marker, MarkerState
from .server import Connection

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
_INSTALLED = """
    SELECT extname FROM pg_catalog.pg_extension
    WHERE extnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
    ORDER BY oid DESC
"""
_IN_OTHER_SCHEMAS = """
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
        refuse_extensions_of_others(connection, _list_installed(connection))
    return bool(is_trusted)


def refuse_extensions_of_others(connection: Connection, needed: Collection[str]) -> None:
    """Raise SchemaRunnerError if any extension is needed that is in another role's schema.

    Such is one that would have to be created, too.
    """
    rows = connection.execute(
        _IN_OTHER_SCHEMAS, [names.EXTENSIONS_SCHEMA, list(needed)]
    ).fetchall()
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
    found = _list_installed(connection)
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


def _list_installed(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute(_INSTALLED, [names.EXTENSIONS_SCHEMA])]


def _pack_pools(connection: Connection, path: Sequence[str], *, batch: int) -> bool:
    # Few runs need it.
    from .packed_templates import pack_pools

    return pack_pools(connection, path, batch=batch)


def _drop(connection: Connection, extensions: Sequence[str]) -> dict[str, str | None]:
    """Drop what can be dropped; map it to why it cannot be, if so."""
    # Those that need others have come after them, and go before them.
    drops = {f"extension {name}": ("EXTENSION", name) for name in extensions}
    drops[f"schema {names.EXTENSIONS_SCHEMA}"] = ("SCHEMA", names.EXTENSIONS_SCHEMA)
    return {what: _try_drop(connection, *drop) for what, drop in drops.items()}


def _try_drop(connection: Connection, kind: str, name: str) -> str | None:
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
