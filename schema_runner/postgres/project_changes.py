"""Compare two states of the project's own database."""

from collections import defaultdict
from collections.abc import Iterator

from psycopg import errors

from . import lock_waits
from .project_state import LOCKED_VALUE, ProjectObject, ProjectState
from .reset.changes import has_rows_since
from .server import Connection

# The limit for searching a table for new rows.
_TIMEOUT = "SET LOCAL statement_timeout = '5s'"
_Pair = tuple[ProjectObject | None, ProjectObject | None]


def changed_objects(before: ProjectState, after: ProjectState) -> frozenset[str]:
    """Return the names of objects that differ, even if their changes were rolled back."""
    return frozenset(_name(pair) for pair in _differences(before, after))


def changes(connection: Connection, before: ProjectState, after: ProjectState) -> dict[str, str]:
    """Map the names of objects with committed changes to descriptions, as in "3 rows deleted"."""
    descriptions: dict[str, set[str]] = defaultdict(set)
    for pair in _differences(before, after):
        descriptions[_name(pair)] |= set(_describe(connection, before, after, *pair))
    return {
        name: ", ".join(sorted(texts)) for name, texts in sorted(descriptions.items()) if texts
    }


def has_comparable_statistics(before: ProjectState, after: ProjectState) -> bool:
    """Return whether the counters of two states show which rows were written in between."""
    return before.tracks_counts and after.tracks_counts and before.epoch == after.epoch


def _differences(before: ProjectState, after: ProjectState) -> Iterator[_Pair]:
    for key in before.objects.keys() | after.objects.keys():
        old, new = before.objects.get(key), after.objects.get(key)
        if old != new:
            yield old, new


def _name(pair: _Pair) -> str:
    return next(item.name for item in pair if item)


def _describe(
    connection: Connection,
    before: ProjectState,
    after: ProjectState,
    old: ProjectObject | None,
    new: ProjectObject | None,
) -> Iterator[str]:
    if old is None or new is None:
        yield "created" if old is None else "dropped"
        return
    if (old.name, old.definition) != (new.name, new.definition):
        yield "altered"
    if old.storage != new.storage:
        yield "restarted" if old.kind == "S" else "truncated or rewritten"
    if old.value != new.value and LOCKED_VALUE not in (old.value, new.value):
        yield f"changed from {_format_value(old.value)} to {_format_value(new.value)}"
    if has_comparable_statistics(before, after):
        yield from _written_rows(connection, before, old, new)


def _written_rows(
    connection: Connection, before: ProjectState, old: ProjectObject, new: ProjectObject
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


def _has_new_rows(
    connection: Connection, before: ProjectState, table: ProjectObject
) -> bool | None:
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
