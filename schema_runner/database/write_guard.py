"""Refuse statements of a build that would change objects outside the worker schema."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

from django.db import transaction
from psycopg.pq import TransactionStatus

from ..errors import SchemaRunnerError, advice
from ..migration_lint.lint import Finding, lint_migrations
from ..migration_lint.sql import Kind, find_matches, mask_statements
from ..postgres.function_bodies import strip_schema
from ..postgres.host import PUBLIC
from ..postgres.host_request import Log
from ..postgres.server import Connection
from ..search_path import Locations
from .extensions import Execute, text_of

_REFERENCE_DATA = "A fixture or seeder"

# Statements that cannot run in a transaction, or end it. In double quotes, a word is a name.
_WITHOUT_TRANSACTION = re.compile(
    r"""
      \s* (?: VACUUM | CALL | COMMIT | ROLLBACK | DO \b .* \b (?: CALL | COMMIT | ROLLBACK ) ) \b
    | .* (?<!") \b CONCURRENTLY \b (?!")
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


class WriteGuard:
    """Refuses statements of a build that reach outside the worker schema.

    It checks the text of a statement for `kinds`, except for matches in `allowed`
    ("public.extra"), and, before a commit, the locks that the transaction holds. Errors begin
    with `source`.
    """

    def __init__(
        self,
        allowed: Collection[str] = (),
        *,
        kinds: Collection[Kind] = (Kind.PUBLIC, Kind.DATABASE),
        source: str = "A migration",
    ) -> None:
        self._allowed = allowed
        self._kinds = kinds
        self._source = source

    @classmethod
    def for_reference_data(cls) -> Self:
        return cls(source=_REFERENCE_DATA)

    @classmethod
    def for_migrations(cls, trusted: Collection[str], log: Log) -> Self:
        """Lint all migrations, before any of them runs, and return a guard for them.

        Raises SchemaRunnerError, with file and line, if a migration that is not in `trusted`
        ("app_label.0001_name") would change other objects; logs a warning for each query that
        may find them.
        """
        findings = lint_migrations()
        untrusted = [finding for finding in findings if finding.migration not in trusted]
        if refused := [finding for finding in untrusted if finding.kind is not Kind.CATALOG]:
            raise SchemaRunnerError(_refusal(refused))
        for finding in untrusted:
            log(f"Warning: {finding}, and may find objects in the project's own schemas.")
        return cls({finding.text for finding in findings if finding.migration in trusted})

    @contextmanager
    def applied_to(self, connection: Any, observer: Connection) -> Iterator[None]:
        """Apply the guard to a Django connection while the context is active.

        `observer` is another connection to the same database.
        """
        permitted: set[str] = set()

        def guard(execute: Execute, statement: Any, params: Any, many: bool, context: Any) -> Any:
            text = text_of(statement) or ""
            if (bare := strip_schema(text, PUBLIC)) != text:
                statement = text = bare
            is_trusted = self._refuse_by_text(text)
            is_alone = connection.get_autocommit()
            if is_alone and any(
                _WITHOUT_TRANSACTION.match(masked) for _, masked in mask_statements(text)
            ):
                return execute(statement, params, many, context)
            # In a transaction, do not nest: it may have savepoints that Django does not know of.
            with transaction.atomic(using=connection.alias) if is_alone else nullcontext():
                result = execute(statement, params, many, context)
                if is_trusted:
                    permitted.update(_changed_elsewhere(observer, connection))
            return result

        commit = connection.commit

        def guarded_commit() -> None:
            # Locks reveal names that SQL assembles, or that PostgreSQL finds on a search_path.
            changed = _changed_elsewhere(observer, connection)
            if refused := [name for name in changed if name not in permitted]:
                connection.rollback()
                raise SchemaRunnerError(
                    f"{self._source} would change the project's own {refused[0]}, so it was "
                    f"rolled back.\n{_remedy(self._source)}"
                )
            commit()

        connection.commit = guarded_commit
        try:
            with connection.execute_wrapper(guard):
                yield
        finally:
            del connection.commit

    def _refuse_by_text(self, text: str) -> bool:
        """Raise SchemaRunnerError if a match is not allowed; return whether one is."""
        matches = [match for match in find_matches(text) if match.kind in self._kinds]
        for match in matches:
            if match.text not in self._allowed:
                raise SchemaRunnerError(
                    f"{self._source} {match.kind} ({match.text}), and so could change the "
                    f"project's own tables: {' '.join(text.split())}\n{_remedy(self._source)}"
                )
        return bool(matches)


def _changed_elsewhere(observer: Connection, connection: Any) -> list[str]:
    raw, locations = connection.connection, Locations.of(connection.settings_dict)
    if raw is None or raw.info.transaction_status != TransactionStatus.INTRANS:
        return []
    assert locations is not None
    assert locations.location is not None
    schemas = [locations.location.schema]
    if locations.extensions is not None:
        schemas.append(locations.extensions)
    # Behind a pooler, libpq may report another process ID.
    (process,) = raw.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return changed_elsewhere(observer, process, schemas)


def _refusal(findings: list[Finding]) -> str:
    lines = "\n".join(f"  {finding}" for finding in findings)
    return f"Migrations would reach outside the worker schema:\n{lines}\n{_remedy('A migration')}"


# Statements that change an object lock it until the transaction ends. Query from another session,
# which still sees dropped objects, and cannot identify new ones yet. Reading, foreign key checks
# and SELECT … FOR SHARE take no more than AccessShare and RowShare locks:
# https://www.postgresql.org/docs/current/explicit-locking.html
_CHANGED = """
    SELECT DISTINCT found.type || ' ' || found.identity
    FROM pg_catalog.pg_locks
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(
        coalesce(classid, 'pg_catalog.pg_class'::regclass), coalesce(objid, relation), 0
    ) AS found
    WHERE pid = %s AND locktype IN ('relation', 'object')
      AND mode NOT IN ('AccessShareLock', 'RowShareLock')
      AND database = (SELECT oid FROM pg_catalog.pg_database
                      WHERE datname = pg_catalog.current_database())
      AND found.schema <> ALL (%s) AND found.schema !~ '^(pg_|information_schema$)'
    ORDER BY 1
"""


def changed_elsewhere(observer: Connection, process: int, schemas: Sequence[str]) -> list[str]:
    """List objects outside of `schemas` that the transaction of backend `process` has changed.

    Temporary and system objects are left out. Objects that are only locked, as by LOCK TABLE,
    are listed too.
    """
    return [name for (name,) in observer.execute(_CHANGED, [process, list(schemas)])]


def _remedy(source: str) -> str:
    if source == _REFERENCE_DATA:
        return (
            f"Write only to tables that migrations create, and name no schema in SQL; or use "
            f"{advice().host_test}."
        )
    return (
        f"Remove the schema name, or replace it with current_schema() where SQL needs one; or use "
        f"{advice().host_test}. List migrations that do no harm in "
        f'SCHEMA_RUNNER["TRUSTED_MIGRATIONS"], as "app_label.0001_name".'
    )
