"""Refusal of builds that would write to the project's own tables."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

from django.db import transaction
from psycopg.pq import TransactionStatus

from ..errors import SchemaRunnerError
from ..migration_lint.lint import Finding, lint_migrations
from ..migration_lint.sql import Kind, find
from ..postgres.function_bodies import without_schema
from ..postgres.host import PUBLIC
from ..postgres.host_request import Log
from ..postgres.server import Connection
from ..search_path import Locations
from .extensions import Execute, text_of

_REMEDY = (
    "Leave the schema out, so that search_path decides; use current_schema() where SQL asks for "
    "one; or use --host-database test. What you know to be harmless goes into "
    'SCHEMA_RUNNER["TRUSTED_MIGRATIONS"] as "app_label.0001_name".'
)
_REMEDY_OF_REFERENCE_DATA = (
    "Fill only tables that migrations make, and leave the schema out of SQL; or use "
    "--host-database test."
)

# What cannot be executed within a transaction, or ends it. In quotes it would be a column.
_WITHOUT_TRANSACTION = re.compile(
    r'(?<!")\b(?:CONCURRENTLY|VACUUM|CALL|COMMIT|ROLLBACK)\b(?!")', re.IGNORECASE
)


class WriteGuard:
    """What refuses the statements of a build that reach beyond the worker schema.

    Texts in `allowed` ("public.extra") are let through. `kinds` are told by their texts, and
    others by what they lock. `source` is what the statements are of, and `remedy` what can be
    done about them.
    """

    def __init__(
        self,
        allowed: Collection[str] = (),
        *,
        kinds: Collection[Kind] = (Kind.PUBLIC, Kind.DATABASE),
        source: str = "A migration",
        remedy: str = _REMEDY,
    ) -> None:
        self._allowed = allowed
        self._kinds = kinds
        self._source = source
        self._remedy = remedy

    @classmethod
    def for_reference_data(cls) -> Self:
        return cls(source="A fixture or a seeder", remedy=_REMEDY_OF_REFERENCE_DATA)

    @classmethod
    def for_migrations(cls, trusted: Collection[str], log: Log) -> Self:
        """Read all migrations before any of them runs.

        Raises SchemaRunnerError with what must not be executed, by file and line, unless it is
        in `trusted` ("app_label.0001_name"); tells `log` what may find the wrong objects.
        """
        findings = lint_migrations()
        suspect = [found for found in findings if found.migration not in trusted]
        if refused := [found for found in suspect if found.kind is not Kind.CATALOG]:
            raise SchemaRunnerError(_refusal(refused))
        for found in suspect:
            log(f"Warning: {found}, and would find the objects of the project's own schemas too.")
        return cls({found.text for found in findings if found.migration in trusted})

    @contextmanager
    def applied_to(self, connection: Any, observer: Connection) -> Iterator[None]:
        """Refuse what is executed on a Django connection, as long as the body of the `with` runs.

        `observer` is another connection to the same database.
        """
        permitted: set[str] = set()

        def guard(execute: Execute, statement: Any, params: Any, many: bool, context: Any) -> Any:
            text = text_of(statement) or ""
            if (bare := without_schema(text, PUBLIC)) != text:
                statement = text = bare
            is_trusted = self._refuse_by_text(text)
            is_alone = connection.get_autocommit()
            if is_alone and _WITHOUT_TRANSACTION.search(text):
                return execute(statement, params, many, context)
            # A transaction under way may have savepoints that Django does not know of.
            with transaction.atomic(using=connection.alias) if is_alone else nullcontext():
                result = execute(statement, params, many, context)
                if is_trusted:
                    permitted.update(_changed_elsewhere(observer, connection))
            return result

        commit = connection.commit

        def guarded_commit() -> None:
            # Names that are put together, or that a search_path resolves, show in what is locked.
            changed = _changed_elsewhere(observer, connection)
            if beyond := [name for name in changed if name not in permitted]:
                connection.rollback()
                raise SchemaRunnerError(
                    f"{self._source} would change the project's own {beyond[0]}, so it was "
                    f"rolled back.\n{self._remedy}"
                )
            commit()

        connection.commit = guarded_commit
        try:
            with connection.execute_wrapper(guard):
                yield
        finally:
            del connection.commit

    def _refuse_by_text(self, text: str) -> bool:
        """Raise SchemaRunnerError for what is not let through; return whether something is."""
        matches = [match for match in find(text) if match.kind in self._kinds]
        for match in matches:
            if match.text not in self._allowed:
                raise SchemaRunnerError(
                    f"{self._source} {match.kind} ({match.text}), which would reach the "
                    f"project's own tables: {' '.join(text.split())}\n{self._remedy}"
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
    # A pooler may have told the client another number.
    (process,) = raw.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return changed_elsewhere(observer, process, schemas)


def _refusal(findings: list[Finding]) -> str:
    lines = "\n".join(f"  {found}" for found in findings)
    return f"Migrations would reach beyond the schema they are run for:\n{lines}\n{_REMEDY}"


# Whatever changes an object locks it until the transaction ends. Seen from another session, for
# to its own a dropped object is gone; one that is new has no identity here yet. Reading, checks
# of foreign keys and SELECT … FOR SHARE lock no more than AccessShare and RowShare do:
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
    """Name what the transaction of another server process has changed outside of `schemas`.

    It names temporary and the system's own objects never, and also what is locked as if it were
    to be changed.
    """
    return [name for (name,) in observer.execute(_CHANGED, [process, list(schemas)])]
