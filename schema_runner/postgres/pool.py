"""The pool: ready schemas that runs share, or keep, while the fingerprint is the same.

A pool consists of a template marked as shared or kept, and of schemas with the same mark that name
that template.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import psycopg

from ..errors import LockTimeoutError, SchemaRunnerError
from . import lock_waits, locks, names, schemas, structure
from .host_request import PoolCriteria
from .names import Marker, MarkerState
from .reset.changes import current_transaction
from .schemas import OwnSchema
from .sequences import restore_sequences
from .server import Connection
from .structure_script import CopyError
from .template import Template

# Whether every transaction after `since` has aborted, up to the current one, if it has a number.
# Most tests roll back. Checking more than 10,000 transactions would take longer than comparing the
# schema with its template.
_ALL_ABORTED = """
    WITH range AS (
        SELECT %(since)s::bigint + 1 AS first,
               coalesce(pg_catalog.pg_current_xact_id_if_assigned(),
                        pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
               )::text::bigint - 1 AS last
    )
    SELECT last - first < 10000 AND NOT EXISTS (
        SELECT FROM pg_catalog.generate_series(first, least(last, first + 10000)) AS xid
        WHERE pg_catalog.pg_xact_status(xid::text::xid8) IS DISTINCT FROM 'aborted'
    )
    FROM range
"""
# Whether no older transaction is still running.
_IS_OLDEST = """
    SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())
           = pg_catalog.pg_current_xact_id()
"""


@contextmanager
def build_lock(
    opening: AbstractContextManager[Connection], wanted: PoolCriteria, log: Callable[[str], None]
) -> Iterator[None]:
    """Hold the lock for builds with a fingerprint, so that other runs wait for this one's pool.

    If the holder is idle on the server for too long, proceed without the lock.
    """
    lock = locks.key(f"fingerprint {wanted.fingerprint}")
    with opening as connection, ExitStack() as stack:
        with locks.try_hold(connection, lock) as is_free:
            if not is_free:
                log("Waiting for another run that builds the same schemas.")
        try:
            stack.enter_context(locks.hold(connection, lock, while_active=True))
        except LockTimeoutError as error:
            log(f"{error} This run builds the same schemas itself.")
        yield


def list_templates(connection: Connection) -> list[OwnSchema]:
    """List the templates of all pools in this database."""
    return [
        schema
        for schema in schemas.list_own(connection)
        if names.is_template_schema(schema.name)
        and schema.pool is not None
        and schemas.is_private(connection, schema.name)
    ]


def list_kept(connection: Connection) -> dict[str, Marker]:
    """Return the markers of the templates in this database that stay when no run uses them."""
    return {
        schema.name: schema.marker
        for schema in list_templates(connection)
        if schema.marker.state is MarkerState.KEPT
    }


def find_template(
    connection: Connection, wanted: PoolCriteria, path: Sequence[str]
) -> Template | None:
    """Return the template of a pool that the run can use, or None."""
    for schema in list_templates(connection):
        if wanted.accepts(schema.marker):
            template = read_template(connection, schema.name, path)
            if template is None:
                continue
            if template.is_verified is not False and wanted.is_unchanged(template.contents.extra):
                return template
    return None


def report_nearest(connection: Connection, wanted: PoolCriteria) -> None:
    """Call `wanted.report_nearest` for the pool in this database that is most like it."""
    markers = list_kept(connection)
    name = wanted.nearest(markers)
    if name is not None and (template := read_template(connection, name, ())):
        fingerprint, made = str(markers[name].fingerprint), markers[name].made
        wanted.report_nearest(fingerprint, made, template.contents.extra)


def read_template(connection: Connection, name: str, path: Sequence[str]) -> Template | None:
    """Read a template; return None if it is not valid, for instance after manual changes."""
    try:
        return Template.read(connection, name, path)
    except (psycopg.errors.UndefinedTable, LookupError, TypeError, ValueError):
        return None


def lease_schema(connection: Connection, template: str, worker: int, run: int) -> str | None:
    """Lease a kept schema with this worker number; return None if there is no free one."""
    with locks.hold(connection, locks.key(f"pool of {template}")):
        for schema in schemas.list_own(connection):
            if schema.pool == template and names.worker_of_schema(schema.name) == worker:
                with connection.transaction():
                    now = current_transaction(connection.cursor())
                    is_unchanged = _is_unchanged(connection, schema)
                    marker = schema.marker._replace(since=now if is_unchanged else 0)
                    leased = marker._replace(run=run, state=MarkerState.READY, template=None)
                    schemas.mark(connection, schema.name, leased)
                return schema.name
    return None


def return_schema(
    connection: Connection, template: Template, leased: OwnSchema, *, batch: int
) -> str:
    """Return a schema to the pool in the state of the template; return its name.

    If its structure has changed, or rows cannot be restored, a new schema replaces it. Raises
    SchemaRunnerError if that cannot be created.
    """
    with lock_waits.lock_timeout(connection, leased.name, "kept"):
        return _return_schema(connection, template, leased, batch=batch)


def _return_schema(
    connection: Connection, template: Template, leased: OwnSchema, *, batch: int
) -> str:
    kept, run, version = leased.name, leased.marker.run, leased.marker.structure
    if _is_unchanged(connection, leased):
        # Sequences keep their values after a rollback.
        restore_sequences(connection, kept, template.contents.sequences)
    elif structure.version(connection, kept) != version or not _restore(
        connection, template, kept
    ):
        worker = names.worker_of_schema(kept)
        assert worker is not None
        schemas.drop(connection, kept, run, batch=batch)
        kept = schemas.create(connection, worker, run)
        try:
            template.copy(connection, kept, batch=batch)
        except CopyError as error:
            raise SchemaRunnerError(
                f"The template of the pool can no longer be copied: {error}"
            ) from error
        version = structure.version(connection, kept)
    marker = Marker(run, MarkerState.KEPT, template=template.name, structure=version)
    schemas.mark(connection, kept, marker)
    return kept


def _restore(connection: Connection, template: Template, schema: str) -> bool:
    """Restore the rows from the template; return False if that fails."""
    from .reset.reset import Reset

    try:
        Reset(schema, template.path).restore(connection, template)
    except (SchemaRunnerError, psycopg.errors.LockNotAvailable):
        return False
    return True


def _is_unchanged(connection: Connection, schema: OwnSchema) -> bool:
    """Return whether nothing but sequences can have changed since a schema was clean."""
    since = schema.marker.since
    return bool(since) and _query_bool(connection, _ALL_ABORTED, since=since)


def _query_bool(connection: Connection, query: str, **parameters: int) -> bool:
    row = connection.execute(query, parameters).fetchone()
    return row is not None and bool(row[0])


@contextmanager
def record_use(connection: Connection, template: str, run: int, now: int) -> Iterator[bool]:
    """Record that a run has used a pool, or dissolve the pool if its copies are not faithful.

    Yield whether other runs can use it. The `with` block is part of the same transaction. The
    schemas that the run has returned count as unchanged until a later transaction commits.
    """
    with locks.hold(connection, locks.key(f"pool of {template}")), connection.transaction():
        markers = {schema.name: schema.marker for schema in schemas.list_own(connection)}
        marker = markers.get(template)
        if marker is None or marker.state is not MarkerState.KEPT:
            yield False  # Dropped by hand.
            return
        is_usable = Template.read(connection, template, ()).is_verified is not False
        if is_usable:
            schemas.mark(connection, template, marker._replace(used=now))
            since = current_transaction(connection.cursor())
            if _query_bool(connection, _IS_OLDEST):
                for name, kept in markers.items():
                    if kept.run == run and kept.template == template:
                        schemas.mark(connection, name, kept._replace(since=since))
        else:
            schemas.mark(connection, template, Marker(marker.run, MarkerState.READY))
        yield is_usable
