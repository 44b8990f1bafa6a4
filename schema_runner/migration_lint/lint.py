"""Find SQL that would reach outside a worker schema, before the migrations run."""

import ast
import inspect
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from django.db.migrations import Migration, RunSQL, SeparateDatabaseAndState
from django.db.migrations.loader import MigrationLoader

from ..postgres import names
from .sql import KEYWORDS, Kind, Match, find_matches, may_match


class Finding(NamedTuple):
    """One match in a migration.

    `migration`: "app_label.name".
    `file`: the path of its module, relative to the working directory if it lies there.
    `text`: the matched SQL.
    """

    kind: Kind
    migration: str
    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind} ({self.text})"


def lint_migrations() -> list[Finding]:
    """Return the findings in the migrations that `migrate` runs in an empty schema, by file.

    Check their source and the SQL of their RunSQL operations. Do not check functions that they
    call in other modules, nor reverse operations.
    """
    loader = MigrationLoader(None, ignore_no_migrations=True)
    findings = {
        finding
        for migration in loader.graph.nodes.values()
        if migration is not None
        for finding in _lint_migration(migration)
    }
    return sorted(findings, key=lambda item: (item.file, item.line, item.kind.name, item.text))


def _lint_migration(migration: Migration) -> Iterator[Finding]:
    package, _ = MigrationLoader.migrations_module(migration.app_label)
    module = sys.modules[f"{package}.{migration.name}"]
    source = MigrationSource(_read_source(module))
    operations = list(_run_sql_operations(migration.operations))
    file, name = _display_path(module.__file__), f"{migration.app_label}.{migration.name}"
    reported = []
    run_sql = {sql for operation in operations for sql in _forward_sql(operation)}
    for line, match in source.matches(run_sql):
        reported.append(match)
        yield Finding(match.kind, name, file, line, match.text)
    if not operations:
        return  # Avoid parsing.
    for operation, line in source.operation_lines(operations):
        for sql in _forward_sql(operation):
            for match in find_matches(sql):
                if not any(_is_same_match(match, other) for other in reported):
                    yield Finding(match.kind, name, file, line, match.text)


def _read_source(module: Any) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""  # The module is compiled only, or empty.


def _display_path(file: str | None) -> str:
    path, here = Path(file or "?"), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _run_sql_operations(operations: Iterable[Any]) -> Iterator[RunSQL]:
    """Yield the RunSQL operations, also those in SeparateDatabaseAndState."""
    for operation in operations:
        if isinstance(operation, SeparateDatabaseAndState):
            yield from _run_sql_operations(operation.database_operations)
        elif isinstance(operation, RunSQL):
            yield operation


def _forward_sql(operation: RunSQL) -> list[str]:
    statements: Any = operation.sql
    if not isinstance(statements, list | tuple):
        statements = [statements]
    # An item is a statement, or a statement and its parameters.
    return [str(item[0] if isinstance(item, list | tuple) else item) for item in statements]


def _is_same_match(match: Match, reported: Match) -> bool:
    """Return whether a match in the SQL equals one in the source, which may have placeholders."""
    pattern = re.sub(r"\\\{\w*\\\}|%s", ".*", re.escape(reported.text))
    return match.kind == reported.kind and bool(re.fullmatch(pattern, match.text))


# Replaces the expressions of an f-string, whose values are unknown.
_PLACEHOLDER = "{}"
# The beginning of SQL. A help_text may begin with the same words, but capitalized.
_SQL_START = re.compile(
    rf"(?> [\s(;] | --[^\n]*\n | /\*.*?\*/ | \{{\}} )*+ {KEYWORDS}", re.VERBOSE | re.DOTALL
)
# Arguments, and keys of `options`, whose strings are descriptions or data.
_DESCRIPTIONS = {
    *("choices", "db_comment", "db_table_comment", "default", "error_messages", "help_text"),
    *("message", "permissions", "verbose_name", "verbose_name_plural"),
}


class MigrationSource:
    """Searches the source of a migration, and maps matches to lines."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _tree(self) -> ast.Module:
        with warnings.catch_warnings():
            # The import of the migration has issued the compiler's warnings already.
            warnings.simplefilter("ignore")
            return ast.parse(self._text)

    def matches(self, run_sql: set[str]) -> Iterator[tuple[int, Match]]:
        """Yield matches in strings, with their lines.

        `run_sql`: the statements of RunSQL operations. Other strings are checked if they begin
        like SQL.
        """
        if not may_match(self._text):
            return  # Avoid parsing, which takes most of the time.
        for node, text in _strings(self._tree):
            if names.is_in_public(text):
                yield self._line(node, text, 0), Match(0, Kind.PUBLIC, text)
            elif text in run_sql or _SQL_START.match(text):
                for match in find_matches(text):
                    yield self._line(node, text, match.offset), match

    def operation_lines(self, operations: list[RunSQL]) -> Iterator[tuple[RunSQL, int]]:
        """Yield each operation with the line of its call, or of the class if that is unclear."""
        calls, groups = defaultdict(list), defaultdict(list)
        class_line = 1
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                calls[_called_name(node)].append(node.lineno)
            elif isinstance(node, ast.ClassDef) and node.name == "Migration":
                class_line = node.lineno
        for operation in operations:
            groups[type(operation).__name__].append(operation)
        for name, group in groups.items():
            lines = sorted(calls[name])
            if len(lines) == 1:
                lines *= len(group)
            elif len(lines) != len(group):
                lines = [class_line] * len(group)
            yield from zip(group, lines, strict=True)

    def _line(self, node: ast.expr, text: str, offset: int) -> int:
        """Return the line of an offset in the value of a string expression.

        Escapes and implicit concatenation make offsets differ from those in the source. So count
        the occurrences of the word at the offset, in the value and in the source.
        """
        word = re.compile(r"\w+").search(text, offset)
        assert word is not None, "every match contains a word"
        nth = text.count(word.group(), 0, word.start())
        segment = ast.get_source_segment(self._text, node) or ""
        # Without the comments between strings.
        segment = re.sub("^ *#.*", "", segment, flags=re.MULTILINE)
        positions = [match.start() for match in re.finditer(word.group(), segment)]
        end = positions[nth] if nth < len(positions) else 0
        return node.lineno + segment.count("\n", 0, end)


def _strings(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    """Yield string expressions and their values, except strings that no forward migration runs.

    A concatenation or an f-string is one expression.
    """
    only_reverse = _loaded_names(ast.walk(tree)) - _loaded_names(_forward_nodes(tree))
    for node in _forward_nodes(tree, only_reverse):
        pieces = list(_pieces(node))
        if isinstance(node, ast.expr) and any(isinstance(piece, str) for piece in pieces):
            texts = (piece if isinstance(piece, str) else _PLACEHOLDER for piece in pieces)
            yield node, "".join(texts)


def _loaded_names(nodes: Iterable[ast.AST]) -> set[str]:
    return {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _forward_nodes(tree: ast.Module, skipped: Collection[str] = ()) -> Iterator[ast.AST]:
    """Yield the nodes that a forward migration may run, without the definitions of some names."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                if name in skipped:
                    continue
        yield node
        pending += _forward_children(node)


def _forward_children(node: ast.AST) -> Iterable[ast.AST]:
    match node:
        case (
            ast.Raise()
            | ast.Expr(value=ast.Constant())
            | ast.keyword(arg="reverse_sql" | "reverse_code")
        ):
            return []
        case ast.keyword(arg=str(name), value=value) if name in _DESCRIPTIONS:
            # A name may be that of a function that runs, such as a default.
            return [value] if isinstance(value, ast.Name) else []
        case ast.Dict():
            entries = zip(node.keys, node.values, strict=True)
            return [value for key, value in entries if not _is_skipped_key(key)]
        case ast.Call() if _called_name(node) in {"RunSQL", "RunPython"}:
            # The second argument is for the reverse operation.
            return [*node.args[:1], *node.args[2:], *node.keywords]
        case ast.JoinedStr() | ast.BinOp(op=ast.Add()):
            return [piece for piece in _pieces(node) if isinstance(piece, ast.AST)]
    return ast.iter_child_nodes(node)


def _is_skipped_key(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value in _DESCRIPTIONS


def _pieces(node: ast.AST) -> Iterator[str | ast.AST]:
    """Yield the texts and nodes that make up a string expression; any other node as it is."""
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


def _called_name(node: ast.Call) -> str | None:
    match node.func:
        case ast.Name(id=str(name)) | ast.Attribute(attr=str(name)):
            return name
    return None
