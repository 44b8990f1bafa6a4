"""Migrations that would reach outside a worker schema, found before one of them runs."""

import ast
import inspect
import io
import re
import sys
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from django.db.migrations import Migration, RunSQL, SeparateDatabaseAndState
from django.db.migrations.loader import MigrationLoader

from ..postgres import names
from .sql import KEYWORDS, Kind, Match, find, is_suspect


class Finding(NamedTuple):
    """A place in a migration: `migration` is "app_label.name", `file` as it is best shown."""

    kind: Kind
    migration: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind} ({self.text})"


def lint_migrations() -> list[Finding]:
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


# Stands for what only a run knows: the expressions of an f-string, for one.
_UNKNOWN = "{}"
# What SQL begins with. A help_text has the same words, but begins with a capital.
_SQL = re.compile(
    rf"(?> [\s(;] | --[^\n]*\n | /\*.*?\*/ | \{{\}} )*+ {KEYWORDS}", re.VERBOSE | re.DOTALL
)
# Arguments, and entries of `options`, that are for people, or for the way back.
_NOT_RUN = {
    *("choices", "db_comment", "db_table_comment", "default", "error_messages", "help_text"),
    *("message", "permissions", "verbose_name", "verbose_name_plural"),
    *("reverse_code", "reverse_sql"),
}
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


class Source:
    """The source of a migration, and where in it what is."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _tree(self) -> ast.Module:
        with warnings.catch_warnings():
            # The compiler's were given when the migration was imported.
            warnings.simplefilter("ignore")
            return ast.parse(self._text)

    def matches(self, known: set[str]) -> Iterator[tuple[int, Match]]:
        """Yield what is found in strings, with its line; `known` are those that are SQL."""
        if not is_suspect(self._text):
            return  # Parsing takes most of the time of a review.
        for node, text in _strings(self._tree):
            if names.is_in_public(text):
                yield self._line(node, text, 0), Match(0, Kind.PUBLIC, text)
            elif text in known or _SQL.match(text):
                for match in find(text):
                    yield self._line(node, text, match.offset), match

    def calls(self, operations: list[RunSQL]) -> Iterator[tuple[RunSQL, int]]:
        """Yield operations with the line that makes them, else that of the class."""
        groups: dict[str, list[RunSQL]] = {}
        for operation in operations:
            groups.setdefault(type(operation).__name__, []).append(operation)
        for name, group in groups.items():
            calls = [node for node in ast.walk(self._tree) if _called(node) == name]
            lines = sorted(node.lineno for node in calls if isinstance(node, ast.Call))
            if len(lines) == 1:
                lines *= len(group)
            if len(lines) != len(group):
                lines = [self._line_of_class] * len(group)
            yield from zip(group, lines, strict=True)

    @property
    def _line_of_class(self) -> int:
        for node in self._tree.body:
            if isinstance(node, ast.ClassDef) and node.name == "Migration":
                return node.lineno
        return 1

    def _line(self, node: ast.expr, text: str, offset: int) -> int:
        """Return the line of what is at an offset of a string expression.

        Escapes and the borders of its parts make offsets differ from those in the source, so
        its first word is counted, in the text and in the source.
        """
        word = re.compile(r"\w+").search(text, offset)
        assert word is not None, "nothing is found that has no word"
        nth = text.count(word.group(), 0, word.start())
        start, end = self._place(node)
        for token in self._tokens:
            if start <= token.start and token.end <= end:
                places = [found.start() for found in re.finditer(word.group(), token.string)]
                if nth < len(places):
                    return token.start[0] + token.string.count("\n", 0, places[nth])
                nth -= len(places)
        return node.lineno

    def _place(self, node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return from where to where a node reaches, in characters; ast counts bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        lines = self._text.split("\n")
        start = lines[node.lineno - 1].encode()[: node.col_offset].decode()
        end = lines[node.end_lineno - 1].encode()[: node.end_col_offset].decode()
        return (node.lineno, len(start)), (node.end_lineno, len(end))

    @cached_property
    def _tokens(self) -> list[tokenize.TokenInfo]:
        """The strings of the source, piece by piece."""
        tokens = tokenize.generate_tokens(io.StringIO(self._text).readline)
        return [token for token in tokens if token.type in _STRINGS]


def _strings(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    """Yield the string expressions of a module, each as one, but for those that are not run."""
    backwards = _reverse_only(tree)
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if _is_idle(node, backwards):
            continue
        pieces = list(_pieces(node))
        if isinstance(node, ast.expr) and any(isinstance(piece, str) for piece in pieces):
            yield node, "".join(one if isinstance(one, str) else _UNKNOWN for one in pieces)
        nodes = _children(node) if pieces == [node] else pieces
        pending += [one for one in nodes if isinstance(one, ast.AST)]


def _pieces(node: ast.AST) -> Iterator[str | ast.AST]:
    """Yield the parts that a string expression consists of; another node is its only one."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            for value in values:
                yield from _pieces(value)
        case ast.FormattedValue(value=value):
            yield value
        case ast.BinOp(op=ast.Add()):
            yield from _pieces(node.left)
            yield from _pieces(node.right)
        case _:
            yield node


def _is_idle(node: ast.AST, backwards: set[str]) -> bool:
    match node:
        case ast.Raise() | ast.Expr(value=ast.Constant()):
            return True
        case ast.keyword(arg=str(name)):
            return name in _NOT_RUN
        case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
            return name in backwards
    return False


def _children(node: ast.AST) -> Iterable[ast.AST]:
    match node:
        case ast.Dict():
            entries = zip(node.keys, node.values, strict=True)
            return [
                value
                for key, value in entries
                if not (isinstance(key, ast.Constant) and key.value in _NOT_RUN)
            ]
        case ast.Call():
            backwards = _reverse_arguments(node)
            return [child for child in ast.iter_child_nodes(node) if child not in backwards]
    return ast.iter_child_nodes(node)


def _called(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id=str(name)) | ast.Attribute(attr=str(name))):
            return name
    return None


def _reverse_arguments(node: ast.AST) -> list[ast.expr]:
    if not isinstance(node, ast.Call) or _called(node) not in {"RunSQL", "RunPython"}:
        return []
    named = [one.value for one in node.keywords if one.arg in {"reverse_sql", "reverse_code"}]
    return [*node.args[1:2], *named]


def _reverse_only(tree: ast.Module) -> set[str]:
    """Return the names that nothing but reverse operations use."""
    backwards = Counter(
        name
        for node in ast.walk(tree)
        for argument in _reverse_arguments(node)
        for name in _names(argument)
    )
    used = Counter(_names(tree))
    return {name for name, times in backwards.items() if used[name] == times}


def _names(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load):
            yield one.id
