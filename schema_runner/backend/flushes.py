"""The flush with which Django ends a test that commits, told from any other."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.core.management.commands import flush
from django.core.management.sql import emit_post_migrate_signal
from django.db import connections
from django.db.backends.postgresql.operations import DatabaseOperations
from django.test import TransactionTestCase


@dataclass(frozen=True, slots=True)
class Flush:
    """What the flush of an alias is asked for, at the end of the test of that id.

    It is about the tables with these names, and what refers to them if it `cascades`. Afterwards
    it `emits` post_migrate, unless it is told not to. Where it `restarts`, so do the sequences.
    """

    alias: str
    tables: frozenset[str]
    cascades: bool
    emits: bool
    restarts: bool
    test: str

    def emit(self) -> None:
        emit_post_migrate_signal(verbosity=0, interactive=False, db=self.alias)


class Resetting(Protocol):
    """A creation that can do something else in place of a flush."""

    @property
    def replaces_flushes(self) -> bool: ...

    def reset(self, request: Flush) -> None: ...


@dataclass(slots=True)
class _UnderWay:
    """The tests that are being torn down; there are several in a run within a test."""

    tests: list[str] = field(default_factory=list)

    @contextmanager
    def teardown_of(self, test: str) -> Iterator[None]:
        self.tests.append(test)
        try:
            yield
        finally:
            self.tests.pop()


def replace_flushes(undo: ExitStack) -> None:
    """Have the flush at the end of each test be what `Resetting` does, until the stack is closed.

    What a test itself flushes stays as it is. Django calls `_post_teardown` after each test, and
    in that `flush`, in all versions from 5.2 to 6.1; test cases override what is in between.
    """
    under_way = _UnderWay()
    tear_down, handle = TransactionTestCase._post_teardown, flush.Command.handle  # type: ignore[attr-defined]

    def _post_teardown(test: Any) -> None:
        with under_way.teardown_of(test.id()):
            tear_down(test)

    def _handle(command: Any, **options: Any) -> None:
        creation: Any = connections[options["database"]].creation
        is_asked = under_way.tests and not options["interactive"] and _is_django_s(creation)
        if not is_asked or not getattr(creation, "replaces_flushes", False):
            handle(command, **options)
            return
        tables = creation.connection.introspection.django_table_names(include_views=False)
        # As in stock Django, there is nothing to be done then, nor to be emitted.
        if tables:
            creation.reset(
                Flush(
                    alias=options["database"],
                    tables=frozenset(tables),
                    cascades=options.get("allow_cascade", False),
                    emits=not options.get("inhibit_post_migrate", False),
                    restarts=options.get("reset_sequences", True),
                    test=under_way.tests[-1],
                )
            )

    for owner, name, replacement in (
        (TransactionTestCase, "_post_teardown", _post_teardown),
        (flush.Command, "handle", _handle),
    ):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, replacement)


def _is_django_s(creation: Any) -> bool:
    """Whether a flush is what Django's PostgreSQL backend makes of it, and not one of its own."""
    ops = type(creation.connection.ops)
    return all(
        getattr(ops, name, None) is getattr(DatabaseOperations, name)
        for name in ("sql_flush", "execute_sql_flush")
    )
