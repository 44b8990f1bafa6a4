"""Extensions, of which a database has one each: shared by its worker schemas."""

import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from psycopg import sql

from ..errors import SchemaRunnerError
from ..postgres import locks, project_extensions
from ..search_path import Locations, programs

_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
# Compiled on first use, and then found in the cache of `re`.
_CHANGE = r"(?i)\b(?:CREATE|DROP)\s+EXTENSION\b"
_DROP = rf"(?i)\bDROP\s+EXTENSION\s+(?:IF\s+EXISTS\s+)?(?P<names>{_NAME}(?:\s*,\s*{_NAME})*)"
# The name, and what follows it to the end of the statement, of a function's body or of a
# DO block's.
_CREATE = rf"(?i)\bCREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_NAME})(?P<rest>[^;$]*)"
_WHERE = rf"(?i)^\s*(?:WITH\b)?\s*SCHEMA\s+({_NAME})|^\s*WITH\b"
_INSTALLED = """
    SELECT extname, pg_catalog.obj_description(oid, 'pg_extension') FROM pg_catalog.pg_extension
"""
_FIXED = (
    "SELECT DISTINCT name FROM pg_catalog.pg_available_extension_versions"
    " WHERE name OPERATOR(pg_catalog.=) ANY (%s) AND schema IS NOT NULL"
)
# Those that an extension needs, however far, and itself.
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
# Begins the comment on an extension that tests have created; the workers that did so follow.
_OF_TESTS = "django-schema-runner, created by tests of:"
# In place of an extension that is not dropped: IF EXISTS lets it pass.
_PLACEHOLDER = "kept_for_other_workers"

# What Django's execute wrappers are given first.
Execute = Callable[[Any, Any, bool, Any], Any]


def extension_drop(statement: object) -> str | None:
    """Return the text of a statement that drops an extension; None for any other."""
    text = text_of(statement)
    return " ".join(text.split()) if text and re.search(_DROP, text) else None


def text_of(statement: object) -> str | None:
    """Return the text of what Django's cursors execute, if it is SQL in text."""
    if isinstance(statement, sql.Composable):
        return statement.as_string()
    return statement if isinstance(statement, str) else None


class ExtensionSharingMixin:
    """Put before a class of Django's cursors, which then shares extensions among workers."""

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
    """Return a method in place of a connection's `make_cursor`, where extensions are shared."""

    def make(connection: Any, cursor: Any) -> Any:
        made = make_cursor(connection, cursor)
        locations = Locations.of(connection.settings_dict)
        # A run within a test finds the method of the test's own run.
        if locations and locations.extensions and not isinstance(made, ExtensionSharingMixin):
            made.__class__ = _sharing_class(type(made))  # type: ignore[arg-type]
        return made

    return make


@cache
def _sharing_class(chosen: type) -> type:
    return type(
        chosen.__name__, (ExtensionSharingMixin, chosen), {"__module__": chosen.__module__}
    )


class _ExtensionChange:
    """A change of extensions, under a lock to the end of the transaction.

    Whoever creates one is noted in its comment, so the last worker that has created it can drop
    it. An extension without such a note was there before the tests, and all workers may use it.
    """

    def __init__(self, connection: Any, text: str) -> None:
        self._connection = connection
        locations = Locations.of(connection.settings_dict)
        assert locations is not None
        assert locations.extensions is not None
        self._worker = f"{locations.run}/{locations.worker}"
        with connection.wrap_database_errors:
            locks.hold_until_commit(connection.connection, locks.EXTENSIONS)
        self._before = self._workers_of()
        self._created = created_extensions(text)
        fixed = {name for (name,) in self._query(_FIXED, self._created)}
        path = locations.location.path if locations.location else ()
        if path and locations.extensions not in path and {*self._created} - fixed:
            project_extensions.refuse_extensions_of_others(
                connection.connection, {*self._created} - fixed
            )
        kept = self._refuse_or_keep(text)
        self.statement = with_schema(without_drops(text, kept), locations.extensions, fixed)

    def _refuse_or_keep(self, text: str) -> set[str]:
        """Return the extensions that other workers have created too.

        Raise SchemaRunnerError for an extension that was there before the tests.
        """
        kept = set()
        for name in self._before.keys() & set(dropped_extensions(text)):
            workers = self._before[name]
            if workers is None:
                raise SchemaRunnerError(
                    f"An extension would be dropped that other workers use: "
                    f"{' '.join(text.split())}. Test with --host-database test, and give the "
                    f"class a database of its own with @schema_runner.own_database."
                )
            if others := workers - {self._worker}:
                kept.add(name)
                self._note(name, others)
        return kept

    def record_creators(self) -> None:
        """Note what this worker has created, unless that was for its set-up."""
        if not programs.is_testing:
            return
        for (name,) in self._query(_NEEDED, self._created):
            workers = self._before.get(name, set())
            if workers is not None:
                self._note(name, workers | {self._worker})

    def _workers_of(self) -> dict[str, set[str] | None]:
        """Map each extension to the workers that have created it; None for none of tests."""
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
        # On psycopg's own connection, so that the test's cursor keeps its results.
        with self._connection.wrap_database_errors:
            cursor = self._connection.connection.execute(statement, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []


def dropped_extensions(statement: str) -> list[str]:
    """Return the names of the extensions that SQL drops."""
    return [
        _unquoted(name)
        for drop in re.finditer(_DROP, statement)
        for name in re.findall(_NAME, drop["names"])
    ]


def without_drops(statement: str, kept: Collection[str]) -> str:
    """Return SQL that drops the same extensions but for some."""

    def drop(found: re.Match[str]) -> str:
        names = re.findall(_NAME, found["names"])
        if not (stay := [name for name in names if _unquoted(name) in kept]):
            return found[0]
        dropped = ", ".join([name for name in names if name not in stay] or [_PLACEHOLDER])
        return f"DROP EXTENSION IF EXISTS {dropped}"

    return re.sub(_DROP, drop, statement)


def _in_transaction(connection: Any) -> AbstractContextManager[object]:
    """Return a context of a transaction: psycopg's own, unless one is under way.

    transaction.atomic would be about the thread's own connection, which this need not be, would
    not let a test that has set a savepoint by itself roll back to it, and shows among queries.
    """
    is_alone = connection.get_autocommit()
    return connection.connection.transaction() if is_alone else nullcontext()


def created_extensions(statement: str) -> list[str]:
    """Return the names of the extensions that SQL creates."""
    return [_unquoted(create["name"]) for create in re.finditer(_CREATE, statement)]


def with_schema(statement: str, schema: str, fixed: Collection[str]) -> str:
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
