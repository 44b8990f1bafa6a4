"""The flush with which Django ends a test that commits, told from any other."""

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
    """What the flush of an alias is asked for, at the end of the test of that id.

    It is about the tables of `scope`, and `emits` post_migrate afterwards, unless it is told not
    to. Where it `restarts`, sequences begin anew.
    """

    alias: str
    scope: "Scope"
    emits: bool
    restarts: bool
    test: str


# Does something else in place of a flush.
Reset: TypeAlias = Callable[[Flush], None]


def replace_flushes(undo: ExitStack, reset_of: Callable[[str], Reset | None]) -> None:
    """Have the flush at the end of each test be a reset, until the stack is closed.

    `reset_of` returns that of an alias, None where a flush is to stay a flush. What a test itself
    flushes stays as it is. Django calls `_post_teardown` after each test, and
    in that `flush`, in all versions from 5.2 to 6.1; test cases override what is in between.
    """
    # The tests that are being torn down; there are several in a run within a test.
    under_way: list[str] = []
    tear_down, handle = TransactionTestCase._post_teardown, flush.Command.handle  # type: ignore[attr-defined]

    def _post_teardown(test: Any) -> None:
        __tracebackhide__ = True
        under_way.append(test.id())
        try:
            tear_down(test)
        finally:
            under_way.pop()

    def _handle(command: Any, **options: Any) -> None:
        __tracebackhide__ = True
        alias = options["database"]
        is_asked = under_way and not options["interactive"] and _is_django_s(alias)
        reset = reset_of(alias) if is_asked else None
        if reset is None:
            if under_way and _has_path(alias):
                # By a path that a test has left it would empty other tables.
                with fresh_sessions():
                    handle(command, **options)
            else:
                handle(command, **options)
            return
        import_management(ImportError)
        tables = connections[alias].introspection.django_table_names(include_views=False)
        # As in stock Django, there is nothing to be done then, nor to be emitted.
        if tables:
            from ..postgres.reset.changes import Scope

            reset(
                Flush(
                    alias=alias,
                    scope=Scope(frozenset(tables), options.get("allow_cascade", False)),
                    emits=not options.get("inhibit_post_migrate", False),
                    restarts=options.get("reset_sequences", True),
                    test=under_way[-1],
                )
            )

    for owner, name, replacement in (
        (TransactionTestCase, "_post_teardown", _post_teardown),
        (flush.Command, "handle", _handle),
    ):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, replacement)


def _has_path(alias: str) -> bool:
    """Whether the tables of an alias are found by a search_path of ours."""
    locations = Locations.of(connections[alias].settings_dict)
    return locations is not None and locations.search_path is not None


def _is_django_s(alias: str) -> bool:
    """Whether a flush is what Django's PostgreSQL backend makes of it, and not one of its own."""
    ops = type(connections[alias].ops)
    return all(
        getattr(ops, name, None) is getattr(DatabaseOperations, name)
        for name in ("sql_flush", "execute_sql_flush")
    )


# The apps that have been looked at in this process, or before it was forked.
_seen: set[str] = set()


def import_management(*ignored: type[Exception]) -> None:
    """Import what `migrate` and `flush` import first; do it where neither of them runs.

    `migrate` lets errors through, and `flush` ignores an ImportError.
    """
    for config in apps.get_app_configs():
        if config.name not in _seen:
            _seen.add(config.name)
            if module_has_submodule(config.module, "management"):
                with suppress(*ignored):
                    import_module(".management", config.name)
