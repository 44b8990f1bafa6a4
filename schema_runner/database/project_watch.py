"""Checks of the project's own database: models that name a schema, and changes by tests."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import psycopg
from django.apps import apps
from django.db import router

from .. import search_path_restore
from ..alias_connection import AliasConnection
from ..connections import disconnect
from ..errors import SchemaRunnerError, advice, listing
from ..flush.registry import AliasResets
from ..flush.reset_connection import ResetConnection
from ..postgres import names, sessions
from ..postgres.host import Host
from ..postgres.project_changes import (
    changed_objects,
    changes,
    has_comparable_statistics,
)
from ..postgres.project_state import ProjectState
from ..postgres.server import Connection
from .context import RunContext
from .usage import ProjectComparison

# pg_stat_force_next_flush() exists from PostgreSQL 15 on.
_STATISTICS_FLUSH_VERSION = 150000
_STATISTICS_FLUSH = b"SELECT pg_catalog.pg_stat_force_next_flush()"
# Seconds to wait for sessions of programs that tests started, after a class and after all tests.
_AFTER_CLASS = 0.1
_AT_END = 1.0


class ProjectWatch:
    """Compares the project's own database before and after tests."""

    def __init__(
        self, context: RunContext, connection: AliasConnection, resets: AliasResets
    ) -> None:
        self._comparisons = context.usage.comparisons
        self._connection = connection
        self._settings = context.settings
        self._resets = resets
        # The state before the tests, and the one that this process read last.
        self._state_before: ProjectState | None = None
        self._last_state: ProjectState | None = None
        # The server's time at the last check.
        self._last_check = ""
        self._other_sessions: Sequence[str] = ()
        # Used if there is no resetter; otherwise checks use its connection.
        self._own_connection: ResetConnection | None = None

    def refuse_models(self) -> None:
        """Raise SchemaRunnerError if an untrusted model names a schema in `db_table`."""
        tables = {
            model._meta.label: model._meta.db_table
            for model in apps.get_models(include_auto_created=True)
            if names.has_schema(model._meta.db_table) and self._is_used(model)
        }
        refused = {
            label: table
            for label, table in tables.items()
            if label not in self._settings.trusted_models
        }
        if refused:
            listed = [f"{label} ({table!r})" for label, table in refused.items()]
            raise SchemaRunnerError(
                f"Models name a schema in db_table, so tests would use the project's own "
                f"tables: {listing(listed, 10)}. Remove the schema name, or use "
                f"{advice().host_test}. If tests only read such a table, list its model in "
                f'SCHEMA_RUNNER["TRUSTED_MODELS"], as "app_label.Model".'
            )

    def _is_used(self, model: Any) -> bool:
        reads, writes = router.db_for_read(model), router.db_for_write(model)
        may_migrate = router.allow_migrate_model(self._connection.alias, model)
        return self._connection.alias in {reads, writes} or may_migrate

    def start(self, host: Host) -> None:
        """Read the state before the tests."""
        self._last_state = ProjectState.read(host.connection)
        self._state_before = ProjectState.read(host.connection, definitions=True)
        self._other_sessions = sessions.other_sessions(host.connection, host.lease.run)
        self._last_check = sessions.server_time(host.connection)

    def finish(self, host: Host) -> None:
        """Compare the state after all tests with the one before."""
        if self._state_before is not None:
            self._compare(host, self._state_before)
            self._state_before = None

    def _compare(self, host: Host, before: ProjectState) -> None:
        connection, run = host.connection, host.lease.run
        changed, others, notes = dict[str, str](), [*self._other_sessions], list[str]()
        self._resets.close()
        self.close()
        disconnect()
        try:
            sessions.end_test_sessions(connection, host.name, run)
            application = names.application_name(run)
            sessions.wait_for_new_sessions(
                connection, self._last_check, application=application, known=(), limit=_AT_END
            )
            after = ProjectState.read(connection, definitions=True)
            changed = changes(connection, before, after)
            others += sessions.other_sessions(connection, run)
            if not (before.tracks_counts and after.tracks_counts):
                notes.append("changed rows cannot be detected, because track_counts is off")
            elif not has_comparable_statistics(before, after):
                notes.append(
                    "changed rows cannot be detected, because statistics were reset during the run"
                )
        except (psycopg.Error, SchemaRunnerError) as error:
            notes.append(f"changes cannot be detected: {str(error).strip()}")
        self._comparisons.append(
            ProjectComparison(
                host.name,
                {name: what for name, what in changed.items() if not self._is_expected(name)},
                sorted(set(others)),
                notes,
            )
        )

    def changes_outside(self) -> frozenset[str]:
        """Return the names of the objects that changed since the last call, by any session."""
        if not (self._connection.is_primary and self._connection.location):
            return frozenset()
        try:
            return self._find_changes(self._check_connection.get())
        except (psycopg.Error, SchemaRunnerError):
            # The comparison at the end of the run covers all changes.
            return frozenset()

    def _find_changes(self, connection: Connection) -> frozenset[str]:
        if connection.info.server_version >= _STATISTICS_FLUSH_VERSION:
            search_path_restore.execute_on_idle(_STATISTICS_FLUSH)
        if self._last_check:
            options = self._connection.wrapper.settings_dict["OPTIONS"]
            sessions.wait_for_new_sessions(
                connection,
                self._last_check,
                application=str(options.get("application_name")),
                known=search_path_restore.open_backend_pids(),
                limit=_AFTER_CLASS,
            )
        self._last_check = sessions.server_time(connection)
        before, self._last_state = self._last_state, ProjectState.read(connection)
        self._check_connection.release()
        changed = changed_objects(before, self._last_state) if before else ()
        return frozenset(name for name in changed if not self._is_expected(name))

    def prepare_for_class(self) -> None:
        if self._last_state is None:
            self.changes_outside()

    def reset_after_fork(self) -> None:
        """Forget the state of the parent process."""
        self._state_before = self._last_state = self._own_connection = None

    @property
    def _check_connection(self) -> ResetConnection:
        if resetter := self._resets.resetter:
            return resetter.connection
        if self._own_connection is None:
            connection, location = self._connection, self._connection.location
            assert location is not None
            self._own_connection = ResetConnection(
                lambda: connection.server().connect(location.database)
            )
        return self._own_connection

    def close(self) -> None:
        if self._own_connection is not None:
            self._own_connection.close()
            self._own_connection = None

    def _is_expected(self, name: str) -> bool:
        """Whether a pattern in EXPECTED_CHANGES matches the name, with or without its type."""
        texts = (name, name.partition(" ")[2])
        patterns = self._settings.expected_changes
        return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)
