"""The pool: ready schemas that runs keep, and lease again while their fingerprint is the same.

What belongs to it is a template that is marked as kept, and kept schemas whose markers name that.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import psycopg

from .. import names
from ..errors import SchemaRunnerError
from . import locks, schemas
from .marker import Marker, State
from .reset import Reset
from .schemas import OwnSchema
from .server import Connection
from .template import Template


class Wanted(NamedTuple):
    """Which ready schemas a run can use: those of this `fingerprint`.

    What only a build shows has to be as it was then, which `is_unchanged` tells of the extra
    facts in a template. `now` is in seconds since the Unix epoch. What was made before `oldest`
    is used no more, and `others` is how many other pools stay.
    """

    fingerprint: str
    is_unchanged: Callable[[Mapping[str, Any]], bool]
    now: int
    oldest: int
    others: int

    def marker(self, run: int, request: str | None = None) -> Marker:
        """Return the marker of a pool that is made now: its template's, or its database's."""
        return Marker(
            run,
            State.KEPT,
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
def turn(
    opening: AbstractContextManager[Connection], wanted: Wanted, log: Callable[[str], None]
) -> Iterator[None]:
    """Build in the body of the `with` what others with the same fingerprint wait for."""
    lock = locks.key(f"fingerprint {wanted.fingerprint}")
    with opening as connection:
        with locks.held_if_free(connection, lock) as is_free:
            if not is_free:
                log("Waiting for another run, which builds the same schemas.")
        with locks.held(connection, lock):
            yield


def templates(connection: Connection) -> list[OwnSchema]:
    """List the templates of all pools in this database."""
    return [
        schema
        for schema in schemas.found(connection)
        if names.is_template_schema(schema.name) and schema.pool is not None
    ]


def find(connection: Connection, wanted: Wanted, path: Sequence[str]) -> Template | None:
    """Return the template of a pool that can be used."""
    for schema in templates(connection):
        marker = schema.marker
        if marker.fingerprint == wanted.fingerprint and marker.made >= wanted.oldest:
            template = _read(connection, schema.name, path)
            if template is None:
                continue
            if template.is_proved is not False and wanted.is_unchanged(template.contents.extra):
                return template
    return None


def _read(connection: Connection, name: str, path: Sequence[str]) -> Template | None:
    """Read a template; None where somebody has changed it by hand."""
    try:
        return Template.read(connection, name, path)
    except (psycopg.errors.UndefinedTable, AssertionError, LookupError, TypeError, ValueError):
        return None


def take(connection: Connection, template: str, worker: int, run: int) -> str | None:
    """Lease a schema of that worker to a run; None where all are leased."""
    with locks.held(connection, locks.key(f"pool of {template}")):
        for schema in schemas.found(connection):
            if schema.pool == template and names.worker_of_schema(schema.name) == worker:
                schemas.mark(connection, schema.name, Marker(run, State.READY))
                return schema.name
    return None


def give_back(
    connection: Connection, template: Template, schema: str, run: int, *, batch: int
) -> str:
    """Return a schema to the pool as it was, or another one in its place."""
    kept = schema
    if not _restore(connection, template, schema):
        worker = names.worker_of_schema(schema)
        assert worker is not None
        schemas.drop(connection, schema, run, batch=batch)
        kept = schemas.create(connection, worker, run)
        template.copy(connection, kept, batch=batch)
    schemas.mark(connection, kept, Marker(run, State.KEPT, template=template.name))
    return kept


def _restore(connection: Connection, template: Template, schema: str) -> bool:
    """Bring a schema to what the template has; return False where that is not possible."""
    if not template.describes(connection, schema):
        return False
    try:
        Reset(schema, template.path).restore(connection, template)
    except SchemaRunnerError:
        return False
    return True


def close(connection: Connection, template: str, now: int) -> bool:
    """Note that a pool has been used; dissolve it, and return False, if nobody can use it."""
    markers = {one.name: one.marker for one in templates(connection)}
    if template not in markers:
        return False  # Somebody has dropped it by hand.
    marker = markers[template]
    is_usable = Template.read(connection, template, ()).is_proved is not False
    marker = marker._replace(used=now) if is_usable else Marker(marker.run, State.READY)
    schemas.mark(connection, template, marker)
    return is_usable
