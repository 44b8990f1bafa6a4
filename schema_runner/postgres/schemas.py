"""The schemas of runs: made, marked, listed and dropped."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from psycopg import errors, sql

from . import lock_waits, locks, names, prepared_transactions, sessions, structure
from .databases import is_ours
from .names import Marker, MarkerState
from .server import Connection

_SELECT_MARKED = sql.SQL("""
    SELECT nspname, pg_catalog.obj_description(oid, 'pg_namespace'), {is_ours},
           pg_catalog.pg_get_userbyid(nspowner)
    FROM pg_catalog.pg_namespace WHERE pg_catalog.starts_with(nspname, 'test_') ORDER BY nspname
""").format(is_ours=is_ours("nspowner"))
_GRANTEES = """
    SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE
           pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END
    FROM pg_catalog.pg_namespace, pg_catalog.aclexplode(nspacl)
    WHERE nspname = %s AND grantee <> nspowner
"""
_IS_PRIVATE = """
    SELECT NOT EXISTS (SELECT FROM pg_catalog.aclexplode(nspacl) WHERE grantee <> nspowner)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_class
                       WHERE relnamespace = n.oid AND relowner <> nspowner)
    FROM pg_catalog.pg_namespace n WHERE nspname = %s
"""


class OwnSchema(NamedTuple):
    """A schema whose name, comment and owner prove it to be some run's."""

    name: str
    marker: Marker

    @property
    def pool(self) -> str | None:
        """The template of the pool that this is in: this one, or what it was made from."""
        if self.marker.state is not MarkerState.KEPT:
            return None
        return self.name if self.marker.fingerprint else self.marker.template


def create(connection: Connection, worker: int, run: int) -> str:
    """Create a marked worker schema and return its name."""
    return _create(connection, run, lambda time: names.worker_schema(worker, time))


def create_shims_schema(connection: Connection, run: int) -> str:
    """Create a marked schema for a run's own functions and return its name."""
    return _create(connection, run, names.shims_schema)


def create_template(connection: Connection, run: int) -> str:
    """Create a marked schema for a template and return its name."""
    return _create(connection, run, names.template_schema)


def _create(connection: Connection, run: int, naming: Callable[[int], str]) -> str:
    milliseconds = time.time_ns() // 1_000_000
    while True:
        name = naming(milliseconds)
        try:
            with connection.transaction():
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
                mark(connection, name, Marker(run, MarkerState.BUILDING))
                if names.worker_of_schema(name) is None:
                    _revoke_grants(connection, name)
        except (errors.DuplicateSchema, errors.UniqueViolation):
            # Another run, or another alias in this database, came in the same millisecond.
            milliseconds += 1
        else:
            return name


def _revoke_grants(connection: Connection, name: str) -> None:
    """Take away what default privileges have given others in a schema that is executed from."""
    for (grantee,) in connection.execute(_GRANTEES, [name]).fetchall():
        connection.execute(
            sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(
                sql.Identifier(name), sql.SQL(grantee)
            )
        )


def is_private(connection: Connection, name: str) -> bool:
    """Whether only the owner of a schema can have written anything in it."""
    row = connection.execute(_IS_PRIVATE, [name]).fetchone()
    return row is not None and bool(row[0])


def mark(connection: Connection, name: str, marker: Marker) -> None:
    connection.execute(
        sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(name), str(marker))
    )


def mark_ready(connection: Connection, name: str, run: int) -> None:
    """Mark a schema as ready, with what tells later whether its structure has been altered."""
    version = structure.version(connection, name)
    mark(connection, name, Marker(run, MarkerState.READY, structure=version))


def list_own(connection: Connection) -> list[OwnSchema]:
    """List the schemas of all runs, dead or alive, in this database."""
    return [schema for schema, owner in _list_marked(connection) if owner is None]


def find_template(connection: Connection) -> str | None:
    """Return the name of what resets restore from, in a database that is cloned with it."""
    return next(filter(names.is_template_schema, (one.name for one in list_own(connection))), None)


def list_left_by_other_roles(connection: Connection) -> list[str]:
    """Name what dead runs of roles that are none of ours have left, with their owners."""
    return [
        f"{schema.name} ({owner})"
        for schema, owner in _list_marked(connection)
        if owner is not None
        and schema.pool is None
        and not locks.is_held(connection, schema.marker.run)
    ]


def _list_marked(connection: Connection) -> list[tuple[OwnSchema, str | None]]:
    return [
        (OwnSchema(name, marker), None if is_owned else owner)
        for name, comment, is_owned, owner in connection.execute(_SELECT_MARKED)
        if names.is_own_schema(name) and (marker := Marker.parse(comment))
    ]


def list_others(connection: Connection) -> list[str]:
    """List the schemas that are neither ours, nor the system's, nor an extension's."""
    rows = connection.execute(
        "SELECT nspname FROM pg_catalog.pg_namespace n"
        " WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')"
        " AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE objid = n.oid AND deptype = 'e'"
        "                 AND classid = 'pg_catalog.pg_namespace'::regclass) ORDER BY nspname"
    )
    ours = {schema.name for schema in list_own(connection)}
    return [name for (name,) in rows if name not in ours]


def drop(connection: Connection, name: str, run: int, *, batch: int) -> bool:
    """Drop a schema of `run`, at most `batch` tables in a transaction.

    Return whether it was there and was that run's: a name alone proves nothing. Raises
    SchemaInUseError.
    """
    if not any(s.name == name and s.marker.run == run for s in list_own(connection)):
        return False
    worker, tables = names.worker_of_schema(name), _tables(connection, name)
    statements = []
    if len(tables) > batch:
        for start in range(0, len(tables), batch):
            identifiers = sql.SQL(", ").join(
                sql.Identifier(name, table) for table in tables[start : start + batch]
            )
            statements.append(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(identifiers))
    statements.append(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))
    with lock_waits.lock_holders_named(connection, name, "dropped"):
        for statement in statements:
            _execute_unblocked(connection, statement, name, run, worker)
    return True


def recreate(connection: Connection, name: str, run: int, *, batch: int) -> None:
    """Drop a schema of `run` with all that is in it, and create it again."""
    drop(connection, name, run, batch=batch)
    with connection.transaction():
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        mark(connection, name, Marker(run, MarkerState.BUILDING))


def list_of_worker(connection: Connection, run: int, worker: int) -> list[str]:
    """List the schemas of a worker of `run`, with those that a dead process has left as it."""
    return [
        schema.name
        for schema in list_own(connection)
        if schema.marker.run == run
        and schema.pool is None
        and names.worker_of_schema(schema.name) == worker
    ]


def pool_lock_key(template: str) -> int:
    """Return the advisory lock that each run which uses a pool holds, shared with others."""
    return locks.key(f"template {template}")


def sweep(
    connection: Connection,
    *,
    batch: int,
    spared: Collection[str] = (),
    alive: Collection[int] = (),
) -> list[str]:
    """Drop the schemas of runs that are no more; return their names.

    So are those of a pool that no run uses, unless it is that of a template in `spared`. What
    cannot be dropped now, because another session uses it or another role owns it, stays
    for a later run. Runs that are `alive` without a lease keep what they have, and all pools,
    since it is unknown which one they use.
    """
    dropped = []
    for schema in list_own(connection):
        if schema.pool in spared or schema.marker.run in alive or (schema.pool and alive):
            continue
        if drop_unused(connection, schema, batch=batch):
            dropped.append(schema.name)
    return dropped


def drop_unused(connection: Connection, schema: OwnSchema, *, batch: int) -> bool:
    """Drop a schema unless its run is alive, or one uses its pool; return whether it was there."""
    lock = pool_lock_key(schema.pool) if schema.pool else schema.marker.run
    with locks.held_if_free(connection, lock) as is_free:
        # A lease may be in another database.
        if is_free and not locks.is_held(connection, lock):
            with suppress(lock_waits.SchemaInUseError, errors.InsufficientPrivilege):
                # The owner may have cleaned up while we took its lock: drop looks again.
                return drop(connection, schema.name, schema.marker.run, batch=batch)
    return False


def drop_remaining(connection: Connection, run: int, *, batch: int) -> None:
    """Drop what a run still has but for its pool, as where it was broken off in a build.

    What cannot be dropped now stays for a later run, as in `reap`.
    """
    for schema in list_own(connection):
        if schema.marker.run == run and schema.pool is None:
            with suppress(lock_waits.SchemaInUseError, errors.InsufficientPrivilege):
                drop(connection, schema.name, run, batch=batch)


def _tables(connection: Connection, schema: str) -> list[str]:
    """List a schema's tables, partitions before what they are partitions of."""
    rows = connection.execute(
        "SELECT relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE nspname = %s AND relkind IN ('r', 'p') ORDER BY relispartition DESC, relname",
        [schema],
    )
    return [name for (name,) in rows]


def _execute_unblocked(
    connection: Connection, statement: sql.Composed, name: str, run: int, worker: int | None
) -> None:
    """Execute a drop; end what the schema's worker has open where that holds it up.

    A test can leave a transaction open, or prepared, and a worker that was killed in the middle
    of a statement leaves its backend at it. Anybody else's is left alone: then this raises
    LockNotAvailable.
    """
    for last in (False, True):
        try:
            with connection.transaction():
                lock_waits.set_lock_timeout(connection)
                connection.execute(statement)
        except errors.LockNotAvailable:
            if last:
                raise
            sessions.end_tests_sessions(connection, connection.info.dbname, run, worker)
            prepared_transactions.roll_back(
                connection, prepared_transactions.of_schema(connection, name)
            )
        else:
            return
