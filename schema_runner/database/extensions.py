"""Sharing of extensions, which a database has only once, among its worker schemas."""

import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from psycopg import sql

from ..errors import SchemaRunnerError, advice
from ..postgres import locks, project_extensions
from ..postgres.function_bodies import unquote
from ..search_path import Locations, programs

_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
# Patterns are strings: `re` compiles them on first use and caches them.
_CHANGE = r"(?i)\b(?:CREATE|DROP)\s+EXTENSION\b"
_DROP = rf"(?i)\bDROP\s+EXTENSION\s+(?:IF\s+EXISTS\s+)?(?P<names>{_NAME}(?:\s*,\s*{_NAME})*)"
# The name, and the rest of the statement, or of a function's body or a DO block.
_CREATE = rf"(?i)\bCREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_NAME})(?P<rest>[^;$]*)"
_SCHEMA_CLAUSE = rf"(?i)^\s*(?:WITH\b)?\s*SCHEMA\s+({_NAME})|^\s*WITH\b"
_INSTALLED = """
    SELECT extname, pg_catalog.obj_description(oid, 'pg_extension') FROM pg_catalog.pg_extension
"""
_FIXED = (
    "SELECT DISTINCT name FROM pg_catalog.pg_available_extension_versions"
    " WHERE name OPERATOR(pg_catalog.=) ANY (%s) AND schema IS NOT NULL"
)
# The extensions themselves, and those that they require, directly or not.
_NEEDED = """
    WITH RECURSIVE needed (oid) AS (
        SELECT oid FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) ANY (%s)
        UNION
        SELECT refobjid FROM needed
        JOIN pg_catalog.pg_depend ON objid OPERATOR(pg_catalog.=) needed.oid
            AND classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
            AND refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
    )
    SELECT extname FROM pg_catalog.pg_extension WHERE oid OPERATOR(pg_catalog.=) ANY (TABLE needed)
"""
# Start of the comment on an extension that tests created, before the list of workers.
_OF_TESTS = "django-schema-runner, created by tests of:"
# In DROP EXTENSION IF EXISTS, this replaces the name of an extension that must stay.
_PLACEHOLDER = "kept_for_other_workers"

# First argument of Django's execute wrappers.
Execute = Callable[[Any, Any, bool, Any], Any]


def extension_drop(statement: object) -> str | None:
    """Return the text of a statement that drops an extension; None for any other."""
    text = text_of(statement)
    return " ".join(text.split()) if text and re.search(_DROP, text) else None


def text_of(statement: object) -> str | None:
    """Return the SQL of a `str` or psycopg `Composable`; None for other types."""
    if isinstance(statement, sql.Composable):
        return statement.as_string()
    return statement if isinstance(statement, str) else None


class ExtensionSharingMixin:
    """Mixin for Django's cursor classes that shares extensions among workers."""

    db: Any

    def _execute(self, statement: Any, params: Any, *ignored: Any) -> Any:
        __tracebackhide__ = True
        text = text_of(statement)
        if text is None or not re.search(_CHANGE, text):
            return super()._execute(statement, params, *ignored)  # type: ignore[misc]
        with _in_transaction(self.db):
            change = _ExtensionChange(self.db, text)
            result = super()._execute(change.statement, params, *ignored)  # type: ignore[misc]
            change.record_creators()
            return result


def share_extensions(make_cursor: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Wrap a connection's `make_cursor` so that its cursors share extensions."""

    def make(connection: Any, cursor: Any) -> Any:
        wrapper = make_cursor(connection, cursor)
        locations = Locations.of(connection.settings_dict)
        # In a nested run, within a test, the outer run's wrapper has added the mixin.
        if locations and locations.extensions and not isinstance(wrapper, ExtensionSharingMixin):
            wrapper.__class__ = _sharing_class(type(wrapper))  # type: ignore[arg-type]
        return wrapper

    return make


@cache
def _sharing_class(wrapper: type) -> type:
    return type(
        wrapper.__name__, (ExtensionSharingMixin, wrapper), {"__module__": wrapper.__module__}
    )


class _ExtensionChange:
    """A statement that creates or drops extensions, under a lock until the transaction ends.

    The comment on an extension lists the workers that created it, so that the last of them can
    drop it. An extension without such a comment existed before the tests, and must stay.
    """

    def __init__(self, connection: Any, text: str) -> None:
        self._connection = connection
        locations = Locations.of(connection.settings_dict)
        assert locations is not None
        assert locations.extensions is not None
        self._worker = f"{locations.run}/{locations.worker}"
        with connection.wrap_database_errors:
            locks.acquire_until_commit(connection.connection, locks.EXTENSIONS)
        self._before = self._workers_of()
        self._created = created_extensions(text)
        fixed = {name for (name,) in self._query(_FIXED, self._created)}
        path = locations.location.path if locations.location else ()
        if path and locations.extensions not in path and {*self._created} - fixed:
            project_extensions.refuse_extensions_of_others(
                connection.connection, {*self._created} - fixed
            )
        kept = self._extensions_to_keep(text)
        self.statement = with_schema(without_drops(text, kept), locations.extensions, fixed)

    def _extensions_to_keep(self, text: str) -> set[str]:
        """Return the extensions that must stay, because other workers created them too.

        Raises SchemaRunnerError if an extension existed before the tests.
        """
        kept = set()
        for name in self._before.keys() & set(dropped_extensions(text)):
            workers = self._before[name]
            if workers is None:
                raise SchemaRunnerError(
                    f"Cannot drop an extension that other workers use: "
                    f"{' '.join(text.split())}. Use {advice().host_test}, and give the class "
                    f"its own database with @schema_runner.own_database."
                )
            if others := workers - {self._worker}:
                kept.add(name)
                self._note(name, others)
        return kept

    def record_creators(self) -> None:
        """Add this worker to the comments of the extensions that it created during tests."""
        if not programs.is_testing:
            return
        for (name,) in self._query(_NEEDED, self._created):
            workers = self._before.get(name, set())
            if workers is not None:
                self._note(name, workers | {self._worker})

    def _workers_of(self) -> dict[str, set[str] | None]:
        """Map each extension to the workers that created it; None if it existed before."""
        return {
            name: set(comment.removeprefix(_OF_TESTS).split())
            if (comment or "").startswith(_OF_TESTS)
            else None
            for name, comment in self._query(_INSTALLED)
        }

    def _note(self, name: str, workers: set[str]) -> None:
        comment = sql.SQL("COMMENT ON EXTENSION {} IS {}").format(
            sql.Identifier(name), sql.Literal(" ".join([_OF_TESTS, *sorted(workers)]))
        )
        self._query(comment)

    def _query(self, statement: str | sql.Composed, *parameters: Any) -> list[Any]:
        # Use psycopg's connection: the test's cursor keeps its results.
        with self._connection.wrap_database_errors:
            cursor = self._connection.connection.execute(statement, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []


def dropped_extensions(statement: str) -> list[str]:
    """Return the names of the extensions that a statement drops."""
    return [
        unquote(name)
        for drop in re.finditer(_DROP, statement)
        for name in re.findall(_NAME, drop["names"])
    ]


def without_drops(statement: str, kept: Collection[str]) -> str:
    """Return the statement without dropping the extensions in `kept`."""

    def drop(match: re.Match[str]) -> str:
        names = re.findall(_NAME, match["names"])
        if not (stay := [name for name in names if unquote(name) in kept]):
            return match[0]
        dropped = ", ".join([name for name in names if name not in stay] or [_PLACEHOLDER])
        return f"DROP EXTENSION IF EXISTS {dropped}"

    return re.sub(_DROP, drop, statement)


def _in_transaction(connection: Any) -> AbstractContextManager[object]:
    """Return psycopg's transaction context, or a null context inside a transaction.

    Django's `transaction.atomic` would use the thread's connection, break savepoints that the test
    set itself, and appear among counted queries.
    """
    is_alone = connection.get_autocommit()
    return connection.connection.transaction() if is_alone else nullcontext()


def created_extensions(statement: str) -> list[str]:
    """Return the names of the extensions that a statement creates."""
    return [unquote(create["name"]) for create in re.finditer(_CREATE, statement)]


def with_schema(statement: str, schema: str, fixed: Collection[str]) -> str:
    """Add IF NOT EXISTS and a SCHEMA clause to CREATE EXTENSION.

    Extensions in `fixed` get no clause: their control files fix the schema.
    """

    def create(match: re.Match[str]) -> str:
        rest = match["rest"]
        # Extensions belong in `public` under stock Django too, so keep the project's own clause.
        clause = re.match(_SCHEMA_CLAUSE, rest)
        if unquote(match["name"]) not in fixed and not (
            clause and clause[1] and schema == "public"
        ):
            rest = f" SCHEMA {schema}{re.sub(_SCHEMA_CLAUSE, '', rest)}"
        return f"CREATE EXTENSION IF NOT EXISTS {match['name']}{rest}"

    return re.sub(_CREATE, create, statement)
