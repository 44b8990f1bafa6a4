"""Hooks that replace the flush at the end of a `TransactionTestCase` test with a reset."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from django.apps import apps
from django.core.management.commands import flush
from django.db import connections
from django.db.backends.postgresql.operations import DatabaseOperations
from django.test import TransactionTestCase
from django.utils.module_loading import module_has_submodule

from ..connections import fresh_sessions
from ..search_path import Locations

if TYPE_CHECKING:
    from ..postgres.reset.changes import Scope


class Flush(NamedTuple):
    """The flush that Django requests at the end of a test.

    `alias`: the database alias.
    `scope`: the tables to flush.
    `sends_post_migrate`: whether the flush sends post_migrate afterwards.
    `restarts_sequences`: whether the flush restarts sequences.
    `test_id`: the id of the test that has ended.
    """

    alias: str
    scope: "Scope"
    sends_post_migrate: bool
    restarts_sequences: bool
    test_id: str


ResetFunction: TypeAlias = Callable[[Flush], None]


def replace_flushes(undo: ExitStack, get_reset: Callable[[str], ResetFunction | None]) -> None:
    """Replace the flush at the end of each test with a reset, until the stack is closed.

    `get_reset` returns the reset of an alias, or None if its flushes stay Django's own. Flushes
    that a test itself calls are not replaced.

    Patch `_post_teardown` and the command, because test cases override the methods in between.
    In Django 5.2 to 6.1, `_post_teardown` runs after each test and calls `flush`.
    """
    # The ids of the tests in tear-down: more than one if a test runs a suite itself.
    tearing_down: list[str] = []
    tear_down, handle = TransactionTestCase._post_teardown, flush.Command.handle  # type: ignore[attr-defined]

    def _post_teardown(test: Any) -> None:
        __tracebackhide__ = True
        tearing_down.append(test.id())
        try:
            tear_down(test)
        finally:
            tearing_down.pop()

    def _handle(command: Any, **options: Any) -> None:
        __tracebackhide__ = True
        alias = options["database"]
        is_test_flush = tearing_down and not options["interactive"] and _uses_django_flush(alias)
        reset = get_reset(alias) if is_test_flush else None
        if reset is None:
            if tearing_down and _has_worker_path(alias):
                # With a search_path that the test has set, the flush could empty other tables.
                with fresh_sessions():
                    handle(command, **options)
            else:
                handle(command, **options)
            return
        import_management(ImportError)
        tables = connections[alias].introspection.django_table_names(include_views=False)
        if tables:  # Without tables, stock Django's flush does not send post_migrate either.
            from ..postgres.reset.changes import Scope

            reset(
                Flush(
                    alias=alias,
                    scope=Scope(frozenset(tables), options.get("allow_cascade", False)),
                    sends_post_migrate=not options.get("inhibit_post_migrate", False),
                    restarts_sequences=options.get("reset_sequences", True),
                    test_id=tearing_down[-1],
                )
            )

    for owner, name, replacement in (
        (TransactionTestCase, "_post_teardown", _post_teardown),
        (flush.Command, "handle", _handle),
    ):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, replacement)


def _has_worker_path(alias: str) -> bool:
    """Return whether the runner sets the search_path of an alias."""
    locations = Locations.of(connections[alias].settings_dict)
    return locations is not None and locations.search_path is not None


def _uses_django_flush(alias: str) -> bool:
    """Return whether the backend of an alias inherits Django's flush without overriding it."""
    ops = type(connections[alias].ops)
    return all(
        getattr(ops, name, None) is getattr(DatabaseOperations, name)
        for name in ("sql_flush", "execute_sql_flush")
    )


# The apps whose management package this process, or the one that forked it, has imported.
_imported_apps: set[str] = set()


def import_management(*ignored: type[Exception]) -> None:
    """Import the `management` package of each app, as `migrate` and `flush` do.

    Suppress exceptions of the `ignored` types: `migrate` ignores none, `flush` an ImportError.
    """
    for config in apps.get_app_configs():
        if config.name not in _imported_apps:
            _imported_apps.add(config.name)
            if module_has_submodule(config.module, "management"):
                with suppress(*ignored):
                    import_module(".management", config.name)
