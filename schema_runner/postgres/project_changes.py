"""What has changed outside of the schemas of runs between two looks."""

from collections.abc import Iterator

from psycopg import errors

from . import lock_waits
from .project_state import LOCKED_VALUE, ProjectState, Relation
from .reset.changes import has_rows_since
from .server import Connection

# How long to look through a table for rows that are new.
_TIMEOUT = "SET LOCAL statement_timeout = '5s'"


def changed_objects(before: ProjectState, after: ProjectState) -> frozenset[str]:
    """Name what is another than it was, maybe by something that was rolled back."""
    relations = {
        (before.relations.get(oid) or after.relations[oid]).name
        for oid in before.relations.keys() | after.relations.keys()
        if before.relations.get(oid) != after.relations.get(oid)
    }
    keys = before.others.keys() | after.others.keys()
    others = {key[0] for key in keys if before.others.get(key) != after.others.get(key)}
    return frozenset(relations | others)


def changes(connection: Connection, before: ProjectState, after: ProjectState) -> dict[str, str]:
    """Map what has changed for good to what has happened to it, as in "3 rows deleted"."""
    found: dict[str, list[str]] = {}
    for oid in before.relations.keys() | after.relations.keys():
        one, other = before.relations.get(oid), after.relations.get(oid)
        name = (one or after.relations[oid]).name
        found.setdefault(name, []).extend(_relation_changes(connection, before, after, one, other))
    for key in before.others.keys() | after.others.keys():
        old, new = before.others.get(key), after.others.get(key)
        if old != new:
            what = "new" if old is None else "gone" if new is None else "altered"
            found.setdefault(key[0], []).append(what)
    return {name: ", ".join(sorted(set(texts))) for name, texts in sorted(found.items()) if texts}


def has_comparable_statistics(before: ProjectState, after: ProjectState) -> bool:
    """Whether the counters of both looks tell what rows have been written in between."""
    return before.tracks_counts and after.tracks_counts and before.epoch == after.epoch


def _relation_changes(
    connection: Connection,
    before: ProjectState,
    after: ProjectState,
    one: Relation | None,
    other: Relation | None,
) -> Iterator[str]:
    if one is None or other is None:
        yield "new" if one is None else "dropped"
        return
    if (one.name, one.facts, one.parts) != (other.name, other.facts, other.parts):
        yield "altered"
    if one.storage != other.storage:
        yield "restarted" if one.kind == "S" else "truncated, or rewritten"
    if one.value != other.value and LOCKED_VALUE not in (one.value, other.value):
        yield f"went from {_format_value(one.value)} to {_format_value(other.value)}"
    if has_comparable_statistics(before, after):
        yield from _written_rows(connection, before, one, other)


def _written_rows(
    connection: Connection, before: ProjectState, one: Relation, other: Relation
) -> Iterator[str]:
    """Yield how many rows have been written, unless all of that was rolled back.

    The counters count that too, but for those of live rows: they change by what is committed.
    Where as many have been deleted as inserted, rows that are new tell of it.
    """
    numbers = {
        "inserted": other.inserted - one.inserted,
        "updated": other.updated - one.updated,
        "deleted": other.deleted - one.deleted,
    }
    if not any(numbers.values()):
        return
    # The number of live rows does not become negative, where statistics began with none.
    is_estimated = (
        other.estimates != one.estimates or numbers["deleted"] > numbers["inserted"] + one.live
    )
    is_kept = other.live != one.live or _has_new_rows(connection, before, one)
    if is_kept is None:
        is_estimated = True
    if not (is_kept or is_estimated):
        return
    # Of a rolled-back transaction there can be some among them.
    doubt = "" if is_kept and not is_estimated else " (or rolled back)"
    for what, number in numbers.items():
        if number:
            yield f"{number} row{'s' if number > 1 else ''} {what}{doubt}"


def _has_new_rows(connection: Connection, before: ProjectState, one: Relation) -> bool | None:
    """Whether a table has rows that are new; None where the run cannot find that out soon."""
    try:
        with connection.transaction():
            lock_waits.set_lock_timeout(connection)
            connection.execute(_TIMEOUT)
            return has_rows_since(connection, one.schema, [one.table], before.transaction)
    except (errors.InsufficientPrivilege, errors.LockNotAvailable, errors.QueryCanceled):
        return None


def _format_value(value: int | None) -> str:
    # Of a sequence that has given out nothing yet its beginning is kept, negated.
    return "unknown" if value is None else f"{abs(value)}"
