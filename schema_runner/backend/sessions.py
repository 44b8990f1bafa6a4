"""The sessions that this thread has open: ended, or made fit for what comes next."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.util import strclass

from django.db import connections


def disconnect() -> None:
    """Close this thread's connections to PostgreSQL, which would keep a host database in use."""
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql":
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]


def leave_transactions() -> None:
    """Give up what a class has left open: its set-up failed once TestCase's had begun.

    unittest then calls no tearDownClass, and every later class would be within it.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql" and connection.in_atomic_block:
            if connection.connection is not None:
                connection.connection.close()
            # As Django's connect() has it, which comes too late: atomic() asks before.
            connection.connection = None
            connection.in_atomic_block = connection.closed_in_transaction = False
            connection.needs_rollback = False
            connection.savepoint_ids, connection.atomic_blocks = [], []
            connection.run_on_commit = []


def end_sessions() -> None:
    """Close this thread's connections, for tests can have set anything on them.

    The search_path, a role, temporary tables: what follows is to find none of it. After a test
    that can commit, Django is about to close them anyway.
    """
    for connection in connections.all(initialized_only=True):
        if connection.vendor == "postgresql":
            connection.close()


@contextmanager
def fresh_sessions() -> Iterator[None]:
    """End the sessions, and have those of the body of the `with` be where the run wants them.

    Tests can have changed the settings of connections as well, and find them again so.
    """
    from .assignment import Assignment

    end_sessions()
    changed: list[tuple[Any, dict[str, Any]]] = []
    for connection in connections.all(initialized_only=True):
        settings_dict = connection.settings_dict
        assignment = Assignment.of(settings_dict)
        if connection.vendor == "postgresql" and assignment is not None:
            entries = assignment.entries()
            found = {key: settings_dict[key] for key in entries}
            if found != entries:
                changed.append((connection, found))
                settings_dict.update(entries)
    try:
        yield
    finally:
        for connection, found in changed:
            connection.close()
            connection.settings_dict.update(found)


def prepare_for(test_class: type, *, own_database: bool) -> None:
    """Do what has to be done in this process before a class of tests is set up.

    One that wants its `own_database` is taken there.
    """
    creations = list(_resetting())
    if creations:
        from .search_paths import set_back_before

        set_back_before(strclass(test_class))
    for creation in creations:
        creation.prepare_for(test_class, own_database=own_database)


def changes_outside() -> tuple[str, ...]:
    """Name what a class, or another session meanwhile, has changed in the project's database."""
    watching = [one for one in _resetting() if hasattr(one, "changes_outside")]
    return tuple(sorted({name for one in watching for name in one.changes_outside()}))


def resets_so_far() -> tuple[int, float]:
    """Return how many resets this process has done, and how many seconds they have taken."""
    ours = list(_resetting())
    return sum(one.resets_done for one in ours), sum(one.reset_time for one in ours)


def _resetting() -> Iterator[Any]:
    """Yield each `ResettingCreation`, which need not be imported where there is none."""
    for connection in connections.all(initialized_only=True):
        if hasattr(connection.creation, "resets_done"):
            yield connection.creation
