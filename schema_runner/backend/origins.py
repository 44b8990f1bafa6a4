"""Which migration has made what a message names."""

import re
from collections.abc import Sequence
from typing import Any

from ..wording import listing
from .extensions import Execute, text_of

_APPLIED = 'INSERT INTO "django_migrations"'
# An object as the server identifies it: its kind, and its name as group 1.
_OBJECT = (
    r"(?:[a-z]+[ -])*(?:schema|table|view|index|sequence|function|procedure|trigger|type|domain"
    r"|publication|server|wrapper|language|rule|policy|constraint|collation|aggregate)"
    r' (?:(?:"[^"]+"|[\w$]+)\.)*("[^"]+"|[\w$]+)'
)


class Origins:
    """Follows a build, as one of Django's execute wrappers, and tells what was in which migration.

    It knows that a migration is over by the row that Django writes of it.
    """

    def __init__(self) -> None:
        self._migrations: list[tuple[str, list[str]]] = []
        self._pending: list[str] = []

    def __call__(
        self, execute: Execute, statement: Any, params: Any, many: bool, context: Any
    ) -> Any:
        if isinstance(statement, str) and statement.startswith(_APPLIED):
            self._migrations.append((".".join(params[:2]), self._pending))
            self._pending = []
        elif text := text_of(statement):
            self._pending.append(text)
        return execute(statement, params, many, context)

    def listing(self, things: Sequence[str]) -> str:
        """Name the first few of many things, each with its migration if that is known."""
        shown = [self._with_migration(thing) for thing in things[:3]]
        return listing([*shown, *things[3:]])

    def _with_migration(self, thing: str) -> str:
        found = re.match(_OBJECT, thing)
        name = re.escape(found[1].strip('"') if found else thing)
        mention = re.compile(rf"(?<![\w$]){name}(?![\w$])")
        for migration, texts in self._migrations:
            if any(mention.search(" ".join(text.split())) for text in texts):
                return f"{thing} (migration {migration})"
        return thing
