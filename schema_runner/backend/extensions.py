"""Extensions, of which a database has one each: shared by its worker schemas."""

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import sql

from ..errors import SchemaRunnerError
from ..postgres import locks
from .assignment import Assignment

_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
# Compiled on first use, and then found in the cache of `re`.
_DROP = rf"(?i)\bDROP\s+EXTENSION\s+(?:IF\s+EXISTS\s+)?(?P<names>{_NAME}(?:\s*,\s*{_NAME})*)"
# The name, and what follows it to the end of the statement, of a function's body or of a
# DO block's.
_CREATE = rf"(?i)\bCREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_NAME})(?P<rest>[^;$]*)"
_WHERE = rf"(?i)^\s*(?:WITH\b)?\s*SCHEMA\s+({_NAME})|^\s*WITH\b"
_INSTALLED = "SELECT extname FROM pg_catalog.pg_extension WHERE extname = ANY(%s)"
_FIXED = (
    "SELECT DISTINCT name FROM pg_catalog.pg_available_extension_versions"
    " WHERE name = ANY(%s) AND schema IS NOT NULL"
)
_LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(%s)"

# What Django's execute wrappers are given first, and what they are.
Execute = Callable[[Any, Any, bool, Any], Any]
Wrapper = Callable[[Execute, Any, Any, bool, Any], Any]


def dropping(statement: object) -> str | None:
    """Return the text of a statement that drops an extension; None for any other."""
    text = text_of(statement)
    return " ".join(text.split()) if text and re.search(_DROP, text) else None


def text_of(statement: object) -> str | None:
    """Return the text of what Django's cursors execute, if it is SQL in text."""
    if isinstance(statement, sql.Composable):
        return statement.as_string()
    return statement if isinstance(statement, str) else None


def share(execute: Execute, statement: Any, params: Any, many: bool, context: Any) -> Any:
    """Let an extension be created where another worker may have done so, in the common schema.

    An execute wrapper of Django's, which does nothing where extensions are not shared.
    """
    connection = context["connection"]
    assignment = Assignment.of(connection.settings_dict)
    if assignment is None or assignment.extensions is None:
        return execute(statement, params, many, context)
    text = text_of(statement)
    if text is not None and (dropped := dropped_extensions(text)):
        execute(_INSTALLED, (dropped,), False, context)
        if context["cursor"].fetchall():
            raise SchemaRunnerError(
                f"An extension would be dropped that other workers use: {' '.join(text.split())}. "
                f"Test with --host-database test, and give the class a database of its own with "
                f"@schema_runner.own_database."
            )
    if text is None or not (created := created_extensions(text)):
        return execute(statement, params, many, context)
    with _in_transaction(connection):
        execute(_LOCK, (locks.EXTENSIONS,), False, context)
        execute(_FIXED, (created,), False, context)
        fixed = {name for (name,) in context["cursor"].fetchall()}
        return execute(in_schema(text, assignment.extensions, fixed), params, many, context)


def dropped_extensions(statement: str) -> list[str]:
    """Return the names of the extensions that SQL drops."""
    return [
        _unquoted(name)
        for drop in re.finditer(_DROP, statement)
        for name in re.findall(_NAME, drop["names"])
    ]


@contextmanager
def _in_transaction(connection: Any) -> Iterator[None]:
    """Have the body of the `with` in a transaction: the one under way, if there is one.

    transaction.atomic would be about the thread's own connection, which this need not be, and
    would not let a test that has set a savepoint by itself roll back to it.
    """
    if not connection.get_autocommit():
        yield
        return
    connection.set_autocommit(False)
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    finally:
        connection.set_autocommit(True)


def created_extensions(statement: str) -> list[str]:
    """Return the names of the extensions that SQL creates."""
    return [_unquoted(create["name"]) for create in re.finditer(_CREATE, statement)]


def in_schema(statement: str, schema: str, fixed: Collection[str]) -> str:
    """Have SQL create its extensions in a schema, unless they are there already.

    Those in `fixed` know only one schema, which they need not be told.
    """

    def create(found: re.Match[str]) -> str:
        rest = found["rest"]
        # In `public`, where stock Django has them too, the project's own choice holds.
        given = re.match(_WHERE, rest)
        if _unquoted(found["name"]) not in fixed and not (
            given and given[1] and schema == "public"
        ):
            rest = f" SCHEMA {schema}{re.sub(_WHERE, '', rest)}"
        return f"CREATE EXTENSION IF NOT EXISTS {found['name']}{rest}"

    return re.sub(_CREATE, create, statement)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
