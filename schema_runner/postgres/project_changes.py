"""Compare two states of the project's own database."""

from collections.abc import Iterator

from psycopg import errors

from . import lock_waits
from .project_state import LOCKED_VALUE, ProjectState, Relation
from .reset.changes import has_rows_since
from .server import Connection

# The limit for searching a table for new rows.
_TIMEOUT = "SET LOCAL statement_timeout = '5s'"


def changed_objects(before: ProjectState, after: ProjectState) -> frozenset[str]:
    """Return the names of objects that differ, even if their changes were rolled back."""
    relations = {
        (before.relations.get(oid) or after.relations[oid]).name
        for oid in before.relations.keys() | after.relations.keys()
        if before.relations.get(oid) != after.relations.get(oid)
    }
    keys = before.others.keys() | after.others.keys()
    others = {key[0] for key in keys if before.others.get(key) != after.others.get(key)}
    return frozenset(relations | others)


def changes(connection: Connection, before: ProjectState, after: ProjectState) -> dict[str, str]:
    """Map the names of objects with committed changes to descriptions, as in "3 rows deleted"."""
    descriptions: dict[str, list[str]] = {}
    for oid in before.relations.keys() | after.relations.keys():
        old, new = before.relations.get(oid), after.relations.get(oid)
        name = (old or after.relations[oid]).name
        descriptions.setdefault(name, []).extend(
            _relation_changes(connection, before, after, old, new)
        )
    for key in before.others.keys() | after.others.keys():
        was, now = before.others.get(key), after.others.get(key)
        if was != now:
            change = "created" if was is None else "dropped" if now is None else "altered"
            descriptions.setdefault(key[0], []).append(change)
    return {
        name: ", ".join(sorted(set(texts)))
        for name, texts in sorted(descriptions.items())
        if texts
    }


def has_comparable_statistics(before: ProjectState, after: ProjectState) -> bool:
    """Return whether the counters of two states show which rows were written in between."""
    return before.tracks_counts and after.tracks_counts and before.epoch == after.epoch


def _relation_changes(
    connection: Connection,
    before: ProjectState,
    after: ProjectState,
    old: Relation | None,
    new: Relation | None,
) -> Iterator[str]:
    if old is None or new is None:
        yield "created" if old is None else "dropped"
        return
    if (old.name, old.properties, old.parts) != (new.name, new.properties, new.parts):
        yield "altered"
    if old.storage != new.storage:
        yield "restarted" if old.kind == "S" else "truncated or rewritten"
    if old.value != new.value and LOCKED_VALUE not in (old.value, new.value):
        yield f"changed from {_format_value(old.value)} to {_format_value(new.value)}"
    if has_comparable_statistics(before, after):
        yield from _written_rows(connection, before, old, new)


def _written_rows(
    connection: Connection, before: ProjectState, old: Relation, new: Relation
) -> Iterator[str]:
    """Yield the numbers of rows written, unless all of them were rolled back.

    PostgreSQL also counts rows that are rolled back, except as live rows. If as many rows were
    deleted as inserted, search the table for new ones.
    """
    numbers = {
        "inserted": new.inserted - old.inserted,
        "updated": new.updated - old.updated,
        "deleted": new.deleted - old.deleted,
    }
    if not any(numbers.values()):
        return
    # PostgreSQL does not count below zero if statistics started without the existing rows.
    is_estimated = (
        new.estimates != old.estimates or numbers["deleted"] > numbers["inserted"] + old.live
    )
    is_committed = new.live != old.live or _has_new_rows(connection, before, old)
    if is_committed is None:
        is_estimated = True
    if not (is_committed or is_estimated):
        return
    # The numbers can still include rows of other transactions that were rolled back.
    doubt = "" if is_committed and not is_estimated else " (or rolled back)"
    for action, number in numbers.items():
        if number:
            yield f"{number} row{'s' if number > 1 else ''} {action}{doubt}"


def _has_new_rows(connection: Connection, before: ProjectState, table: Relation) -> bool | None:
    """Return whether a table has new rows; None if privileges, locks or its size prevent it."""
    try:
        with connection.transaction():
            lock_waits.set_lock_timeout(connection)
            connection.execute(_TIMEOUT)
            return has_rows_since(connection, table.schema, [table.table], before.transaction)
    except (errors.InsufficientPrivilege, errors.LockNotAvailable, errors.QueryCanceled):
        return None


def _format_value(value: int | None) -> str:
    # The start of an unused sequence is stored negated.
    return "unknown" if value is None else f"{abs(value)}"
