"""Migrations that would reach beyond the worker schema, found before one of them runs."""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django.db.migrations import Migration, RunSQL, SeparateDatabaseAndState
from django.db.migrations.loader import MigrationLoader

from .source import Source
from .statements import Kind, Match, find


class Finding(NamedTuple):
    """A place in a migration: `migration` is "app_label.name", `file` as it is best shown."""

    kind: Kind
    migration: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind} ({self.text})"


def review() -> list[Finding]:
    """Return what the migrations that `migrate` runs in an empty schema would reach, by file.

    It reads their source, and the SQL of their RunSQL operations wherever that comes from.
    What they call in other modules, and what goes backwards, is not read.
    """
    loader = MigrationLoader(None, ignore_no_migrations=True)
    found = {
        finding
        for migration in loader.graph.nodes.values()
        if migration is not None
        for finding in _review(migration)
    }
    return sorted(found, key=lambda one: (one.file, one.line, one.kind.name, one.text))


def _review(migration: Migration) -> Iterator[Finding]:
    package, _ = MigrationLoader.migrations_module(migration.app_label)
    module = sys.modules[f"{package}.{migration.name}"]
    source = Source(_text_of(module))
    operations = list(_operations(migration.operations))
    file, name = _shown(module.__file__), f"{migration.app_label}.{migration.name}"
    told = []
    for line, match in source.matches({sql for one in operations for sql in _sql_of(one)}):
        told.append(match)
        yield Finding(match.kind, name, file, line, match.text)
    for operation, line in source.calls(operations):
        for sql in _sql_of(operation):
            for match in find(sql):
                if not any(_is_same(match, other) for other in told):
                    yield Finding(match.kind, name, file, line, match.text)


def _text_of(module: Any) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""  # Compiled only, or empty.


def _shown(file: str | None) -> str:
    path, here = Path(file or "?"), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _operations(operations: Iterable[Any]) -> Iterator[RunSQL]:
    """Yield those of the operations that send SQL of the project."""
    for operation in operations:
        if isinstance(operation, SeparateDatabaseAndState):
            yield from _operations(operation.database_operations)
        elif isinstance(operation, RunSQL):
            yield operation


def _sql_of(operation: RunSQL) -> list[str]:
    statements: Any = operation.sql
    if not isinstance(statements, list | tuple):
        statements = [statements]
    firsts = (one[0] if isinstance(one, list | tuple) else one for one in statements)
    return [str(one) for one in firsts]


def _is_same(match: Match, told: Match) -> bool:
    """Tell whether the source has shown this already, maybe with placeholders in it."""
    pattern = re.sub(r"\\\{\w*\\\}|%s", ".*", re.escape(told.text))
    return match.kind == told.kind and bool(re.fullmatch(pattern, match.text))
