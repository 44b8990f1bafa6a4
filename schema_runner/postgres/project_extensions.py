"""Extensions that runs install in the project's own database, in a separate schema."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from psycopg import errors, sql

from ..errors import SchemaRunnerError
from . import lock_waits, locks, names, schemas, sessions
from .databases import is_ours
from .names import Marker, MarkerState
from .server import Connection

_SCHEMA = sql.Identifier(names.EXTENSIONS_SCHEMA)
# The owner of the schema, and the other roles that may create objects in it.
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
    """Create the schema for extensions unless a run has created it before.

    Return False if another role owns it: it must not be on our search_path then. Raises
    SchemaRunnerError if no run has created it, if another role can create objects in our schema,
    or if another role's schema contains extensions.
    """
    with connection.transaction():
        locks.acquire_until_commit(connection, locks.EXTENSIONS)
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
            f"that no run has created, and runs need this name for extensions. Rename it."
        )
    if is_trusted and others:
        raise _refusal(connection, f"can be written to by {', '.join(others)}")
    if not is_trusted:
        # Migrations would mistake these for the ones that they create.
        refuse_extensions_of_others(connection, _list_installed(connection))
    return bool(is_trusted)


def refuse_extensions_of_others(connection: Connection, needed: Collection[str]) -> None:
    """Raise SchemaRunnerError unless all needed extensions exist in other schemas.

    For runs that cannot use `test_extensions`, because another role owns it.
    """
    rows = connection.execute(
        _IN_OTHER_SCHEMAS, [names.EXTENSIONS_SCHEMA, list(needed)]
    ).fetchall()
    if missing := {*needed} - {name for (name,) in rows}:
        row = connection.execute(_OWNERSHIP, [names.EXTENSIONS_SCHEMA]).fetchone()
        owner = f"is owned by {row[1]!r}" if row else "had another owner when this run began"
        listed = ", ".join(sorted(missing))
        raise _refusal(
            connection, owner, f" Or create {listed} in another schema of the database."
        )


def _refusal(connection: Connection, why: str, hint: str = "") -> SchemaRunnerError:
    return SchemaRunnerError(
        f"Schema {names.EXTENSIONS_SCHEMA} in the database {connection.info.dbname!r} {why}, so "
        f"its contents cannot be trusted. Drop it with CASCADE while no run is active.{hint}"
    )


def remove_extensions(
    connection: Connection, log: Callable[[str], None], *, batch: int
) -> list[str]:
    """Drop the extensions and their schema if no other run uses the database.

    Return the names of the extensions. If schemas need them, only the templates of pools stay. An
    extension stays if other objects depend on it.
    """
    comment, _, is_trusted, others = connection.execute(
        _OWNERSHIP, [names.EXTENSIONS_SCHEMA]
    ).fetchone() or (None, None, False, [])
    if Marker.parse(comment) is None or not is_trusted or others:
        return []
    database = connection.info.dbname
    if sessions.live_runs_without_lease(connection):
        return []
    installed = _list_installed(connection)
    problems = _drop(connection, installed)
    if problems and _drop_pooled_schemas(connection, batch=batch):
        problems = _drop(connection, installed)
        log(
            f"In {database!r}, only a template was kept, because schemas need "
            f"{', '.join(sorted(installed))}, which the database itself does not have. To keep "
            f"schemas too, run CREATE EXTENSION there."
        )
    for problem in problems:
        log(f"In {database!r}, {problem}")
    return sorted(installed)


def _list_installed(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute(_INSTALLED, [names.EXTENSIONS_SCHEMA])]


def _drop_pooled_schemas(connection: Connection, *, batch: int) -> bool:
    """Drop schemas of pools, except templates and shims, and of dead runs.

    Return whether there is a template.
    """
    own = schemas.list_own(connection)
    for schema in own:
        if schema.pool is None:
            # Runs of other roles may be alive: they do not use these extensions.
            is_needed = locks.is_held(connection, schema.marker.run)
        else:
            is_needed = schema.pool == schema.name or names.is_shims_schema(schema.name)
        if not is_needed:
            # A schema that cannot be dropped now keeps the extension in place.
            with suppress(lock_waits.SchemaInUseError, errors.InsufficientPrivilege):
                schemas.drop(connection, schema.name, schema.marker.run, batch=batch)
    return any(schema.pool == schema.name for schema in own)


def _drop(connection: Connection, extensions: Sequence[str]) -> list[str]:
    """Drop extensions and their schema; describe those that stay."""
    problems = []
    # Newest first, because an extension can depend on older ones.
    drops = [*(("EXTENSION", name) for name in extensions), ("SCHEMA", names.EXTENSIONS_SCHEMA)]
    for kind, name in drops:
        drop = sql.SQL("DROP {} IF EXISTS {}").format(sql.SQL(kind), sql.Identifier(name))
        try:
            with connection.transaction():
                locks.acquire_until_commit(connection, locks.EXTENSIONS)
                lock_waits.set_lock_timeout(connection)
                connection.execute(drop)
        except (
            errors.DependentObjectsStillExist,
            errors.InsufficientPrivilege,
            errors.LockNotAvailable,
        ) as error:
            reason = error.diag.message_detail or error.diag.message_primary
            problems.append(f"{kind.lower()} {name} stays: {reason}")
    return problems
