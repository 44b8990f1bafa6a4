"""Create, mark, list and drop the schemas of runs."""

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
    """A schema that a run created, as its name, its comment and its owner prove."""

    name: str
    marker: Marker

    @property
    def pool(self) -> str | None:
        """The template of the pool that contains this schema, or None."""
        if not self.marker.is_for_other_runs:
            return None
        return self.name if self.marker.fingerprint else self.marker.template


def create(connection: Connection, worker: int, run: int) -> str:
    """Create a marked worker schema and return its name."""
    return _create(connection, run, lambda time: names.worker_schema(worker, time))


def create_shims_schema(connection: Connection, run: int) -> str:
    """Create a marked schema for a run's advisory lock functions and return its name."""
    return _create(connection, run, names.shims_schema)


def create_template(connection: Connection, run: int) -> str:
    """Create a marked schema for a template and return its name."""
    return _create(connection, run, names.template_schema)


def _create(connection: Connection, run: int, make_name: Callable[[int], str]) -> str:
    milliseconds = time.time_ns() // 1_000_000
    while True:
        name = make_name(milliseconds)
        try:
            with connection.transaction():
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
                mark(connection, name, Marker(run, MarkerState.BUILDING))
                if names.worker_of_schema(name) is None:
                    _revoke_grants(connection, name)
        except (errors.DuplicateSchema, errors.UniqueViolation):
            # Another run, or another alias of this database, took the same millisecond.
            milliseconds += 1
        else:
            return name


def _revoke_grants(connection: Connection, name: str) -> None:
    """Revoke default privileges of other roles, because runs execute SQL from this schema."""
    for (grantee,) in connection.execute(_GRANTEES, [name]).fetchall():
        connection.execute(
            sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(
                sql.Identifier(name), sql.SQL(grantee)
            )
        )


def is_private(connection: Connection, name: str) -> bool:
    """Return whether only the owner of a schema can have created objects in it."""
    row = connection.execute(_IS_PRIVATE, [name]).fetchone()
    return row is not None and bool(row[0])


def mark(connection: Connection, name: str, marker: Marker) -> None:
    """Store the marker as the comment of a schema."""
    connection.execute(
        sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(name), str(marker))
    )


def mark_ready(connection: Connection, name: str, run: int) -> None:
    """Mark a schema as ready, with its structure version, to detect alterations later."""
    version = structure.version(connection, name)
    mark(connection, name, Marker(run, MarkerState.READY, structure=version))


def list_own(connection: Connection) -> list[OwnSchema]:
    """List the schemas of all runs in this database, dead or alive."""
    return [schema for schema, owner in _list_marked(connection) if owner is None]


def find_template(connection: Connection) -> str | None:
    """Return the name of any template in this database, such as one that a clone contains."""
    return next(
        filter(names.is_template_schema, (schema.name for schema in list_own(connection))), None
    )


def list_left_by_other_roles(connection: Connection) -> list[str]:
    """List schemas of dead runs that this role may not drop, with their owners."""
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
    """List the schemas that belong to no run, no extension, and not to PostgreSQL itself."""
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

    Return False if there is no such schema, or if its marker does not name that run. Raises
    SchemaInUseError if another session uses the schema.
    """
    if not any(own.name == name and own.marker.run == run for own in list_own(connection)):
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
    with lock_waits.lock_timeout_explained(connection, name, "dropped"):
        for statement in statements:
            _execute_unblocked(connection, statement, name, run, worker)
    return True


def recreate(connection: Connection, name: str, run: int, *, batch: int) -> None:
    """Drop a schema of `run`, and create it again, empty."""
    drop(connection, name, run, batch=batch)
    with connection.transaction():
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        mark(connection, name, Marker(run, MarkerState.BUILDING))


def list_of_run(connection: Connection, run: int) -> list[str]:
    """List the schemas of a run, including those of killed workers, except those of a pool."""
    found = list_own(connection)
    return [own.name for own in found if own.marker.run == run and own.pool is None]


def list_of_worker(connection: Connection, run: int, worker: int) -> list[str]:
    """List the schemas of a worker of `run`, including those of a dead process."""
    found = list_of_run(connection, run)
    return [name for name in found if names.worker_of_schema(name) == worker]


def pool_lock_key(template: str) -> int:
    """Return the key of the advisory lock that every run holds in shared mode on its pool."""
    return locks.key(f"template {template}")


def sweep(
    connection: Connection,
    *,
    batch: int,
    spared: Collection[str] = (),
    alive: Collection[int] = (),
) -> list[str]:
    """Drop the schemas of dead runs and of unused pools; return their names.

    Pools whose templates are in `spared` stay. So do schemas that another session uses or another
    role owns, until a later run. `alive` lists the runs that are alive without a lease: their
    schemas stay, and all pools, because any of them may be in use.
    """
    dropped = []
    for schema in list_own(connection):
        if schema.pool in spared or schema.marker.run in alive or (schema.pool and alive):
            continue
        if drop_unused(connection, schema, batch=batch):
            dropped.append(schema.name)
    return dropped


def drop_unused(connection: Connection, schema: OwnSchema, *, batch: int) -> bool:
    """Drop a schema unless its run, or a run that uses its pool, is alive.

    Return whether it was dropped.
    """
    lock = pool_lock_key(schema.pool) if schema.pool else schema.marker.run
    with locks.try_hold(connection, lock) as is_free:
        # Leases of runs may be in another database.
        if is_free and not locks.is_held(connection, lock):
            with suppress(lock_waits.SchemaInUseError, errors.InsufficientPrivilege):
                # `drop` checks again: the owner may have cleaned up before we took its lock.
                return drop(connection, schema.name, schema.marker.run, batch=batch)
    return False


def drop_remaining(connection: Connection, run: int, *, batch: int) -> None:
    """End the sessions of a run's tests, and drop its remaining schemas, except those of a pool.

    Schemas that cannot be dropped now stay for a later run, as in `sweep`.
    """
    sessions.end_test_sessions(connection, connection.info.dbname, run)
    for name in list_of_run(connection, run):
        with suppress(lock_waits.SchemaInUseError, errors.InsufficientPrivilege):
            drop(connection, name, run, batch=batch)


def _tables(connection: Connection, schema: str) -> list[str]:
    """List a schema's tables, partitions before their parents."""
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
    """Execute a drop; if it is blocked, end the transactions of the schema's worker, and retry.

    A test can leave a transaction open, or prepared, and the backend of a killed worker can still
    be executing a statement. Raises LockNotAvailable if another session blocks the drop.
    """
    for is_retry in (False, True):
        try:
            with connection.transaction():
                lock_waits.set_lock_timeout(connection)
                connection.execute(statement)
        except errors.LockNotAvailable:
            if is_retry:
                raise
            sessions.end_test_sessions(connection, connection.info.dbname, run, worker)
            prepared_transactions.roll_back(
                connection, prepared_transactions.of_schema(connection, name)
            )
        else:
            return
