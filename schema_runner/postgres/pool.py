"""The pool: ready schemas that runs keep, and lease again while their fingerprint is the same.

What belongs to it is a template that is marked as kept, and kept schemas whose markers name that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import psycopg

from ..errors import LockTimeoutError, SchemaRunnerError
from . import lock_waits, locks, names, schemas, structure
from .names import Marker, MarkerState
from .reset.changes import current_transaction
from .rows import restore_sequences
from .schemas import OwnSchema
from .server import Connection
from .template import Template

# Whether no transaction of the server has committed since another one, or may yet: up to the one
# under way, if it has a number. Most tests roll back. To look at more transactions takes longer
# than to compare what they may have altered.
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
# Whether there is none that began earlier than this one and goes on.
_IS_OLDEST = """
    SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())
           = pg_catalog.pg_current_xact_id()
"""


class PoolCriteria(NamedTuple):
    """Which ready schemas a run can use: those of this `fingerprint`.

    What only a build shows has to be as it was then, which `is_unchanged` tells of the extra
    facts in a template. `now` is in seconds since the Unix epoch. What was made before `oldest`
    is used no more, and `others` is how many other pools stay. Where nothing can be used,
    `pass_over` is called with the `fingerprint` of what comes nearest, when that was made, and its
    extra facts.
    """

    fingerprint: str
    is_unchanged: Callable[[Mapping[str, Any]], bool]
    now: int
    oldest: int
    others: int
    pass_over: Callable[[str, int, Mapping[str, Any]], None]

    def nearest(self, pools: Mapping[str, Marker]) -> str | None:
        """Return the name of the pool that is most like what is wanted, or was used last."""

        def likeness(name: str) -> tuple[bool, int]:
            return pools[name].fingerprint == self.fingerprint, pools[name].used

        return max(pools, key=likeness, default=None)

    def marker(self, run: int, request: str | None = None) -> Marker:
        """Return the marker of a pool that is made now: its template's, or its database's."""
        return Marker(
            run,
            MarkerState.KEPT,
            request=request,
            fingerprint=self.fingerprint,
            made=self.now,
            used=self.now,
        )

    def that_stay(self, others: Mapping[str, Marker]) -> list[str]:
        """Return the names of those pools, not used by this run, that may be used again."""
        recent = [name for name, marker in others.items() if marker.made >= self.oldest]
        return sorted(recent, key=lambda name: others[name].used, reverse=True)[: self.others]


@contextmanager
def build_lock(
    opening: AbstractContextManager[Connection], wanted: PoolCriteria, log: Callable[[str], None]
) -> Iterator[None]:
    """Build in the body of the `with` what others with the same fingerprint wait for.

    They wait as long as this run does something on the server.
    """
    lock = locks.key(f"fingerprint {wanted.fingerprint}")
    with opening as connection, ExitStack() as stack:
        with locks.held_if_free(connection, lock) as is_free:
            if not is_free:
                log("Waiting for another run, which builds the same schemas.")
        try:
            stack.enter_context(locks.held(connection, lock, while_at_work=True))
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


def find_template(
    connection: Connection, wanted: PoolCriteria, path: Sequence[str]
) -> Template | None:
    """Return the template of a pool that can be used."""
    for schema in list_templates(connection):
        marker = schema.marker
        if marker.fingerprint == wanted.fingerprint and marker.made >= wanted.oldest:
            template = read_template(connection, schema.name, path)
            if template is None:
                continue
            if template.is_proved is not False and wanted.is_unchanged(template.contents.extra):
                return template
    return None


def report_nearest(connection: Connection, wanted: PoolCriteria) -> None:
    """Tell which pool in this database comes nearest to what is wanted, where none can be used."""
    markers = {one.name: one.marker for one in list_templates(connection)}
    name = wanted.nearest(markers)
    if name is not None and (template := read_template(connection, name, ())):
        fingerprint, made = str(markers[name].fingerprint), markers[name].made
        wanted.pass_over(fingerprint, made, template.contents.extra)


def read_template(connection: Connection, name: str, path: Sequence[str]) -> Template | None:
    """Read a template; None where somebody has changed it by hand."""
    try:
        return Template.read(connection, name, path)
    except (psycopg.errors.UndefinedTable, AssertionError, LookupError, TypeError, ValueError):
        return None


def lease_schema(connection: Connection, template: str, worker: int, run: int) -> str | None:
    """Lease a schema of that worker to a run; None where all are leased."""
    with locks.held(connection, locks.key(f"pool of {template}")):
        for schema in schemas.list_own(connection):
            if schema.pool == template and names.worker_of_schema(schema.name) == worker:
                with connection.transaction():
                    now = current_transaction(connection.cursor())
                    is_as_kept = _is_unchanged(connection, schema)
                    marker = schema.marker._replace(since=now if is_as_kept else 0)
                    leased = marker._replace(run=run, state=MarkerState.READY, template=None)
                    schemas.mark(connection, schema.name, leased)
                return schema.name
    return None


def return_schema(
    connection: Connection, template: Template, leased: OwnSchema, *, batch: int
) -> str:
    """Return a schema to the pool as it was, or another one in its place."""
    with lock_waits.lock_timeout(connection, leased.name, "kept"):
        return _return_schema(connection, template, leased, batch=batch)


def _return_schema(
    connection: Connection, template: Template, leased: OwnSchema, *, batch: int
) -> str:
    kept, run, version = leased.name, leased.marker.run, leased.marker.structure
    if _is_unchanged(connection, leased):
        # But for sequences, which keep what an aborted transaction has taken.
        restore_sequences(connection, kept, template.contents.sequences)
    elif structure.version(connection, kept) != version or not _restore(
        connection, template, kept
    ):
        worker = names.worker_of_schema(kept)
        assert worker is not None
        schemas.drop(connection, kept, run, batch=batch)
        kept = schemas.create(connection, worker, run)
        template.copy(connection, kept, batch=batch)
        version = structure.version(connection, kept)
    marker = Marker(run, MarkerState.KEPT, template=template.name, structure=version)
    schemas.mark(connection, kept, marker)
    return kept


def _restore(connection: Connection, template: Template, schema: str) -> bool:
    """Bring the rows to what the template has; return False where that is not possible."""
    from .reset.reset import Reset

    try:
        Reset(schema, template.path).restore(connection, template)
    except SchemaRunnerError:
        return False
    return True


def _is_unchanged(connection: Connection, schema: OwnSchema) -> bool:
    """Whether nothing can have altered a schema, but for its sequences, since its marker says."""
    since = schema.marker.since
    return bool(since) and _query_bool(connection, _ALL_ABORTED, since=since)


def _query_bool(connection: Connection, query: str, **parameters: int) -> bool:
    row = connection.execute(query, parameters).fetchone()
    return row is not None and bool(row[0])


@contextmanager
def record_use(connection: Connection, template: str, run: int, now: int) -> Iterator[bool]:
    """Note that a run has used a pool; dissolve it if no run can use it.

    Yield whether runs can. The body of the `with` is part of the same transaction. The schemas
    that the run has returned are unaltered as long as no later transaction commits.
    """
    with locks.held(connection, locks.key(f"pool of {template}")), connection.transaction():
        found = {one.name: one.marker for one in schemas.list_own(connection)}
        marker = found.get(template)
        if marker is None or marker.state is not MarkerState.KEPT:
            yield False  # Somebody has dropped it by hand.
            return
        is_usable = Template.read(connection, template, ()).is_proved is not False
        if is_usable:
            schemas.mark(connection, template, marker._replace(used=now))
            since = current_transaction(connection.cursor())
            if _query_bool(connection, _IS_OLDEST):
                for name, one in found.items():
                    if one.run == run and one.template == template:
                        schemas.mark(connection, name, one._replace(since=since))
        else:
            schemas.mark(connection, template, Marker(marker.run, MarkerState.READY))
        yield is_usable
