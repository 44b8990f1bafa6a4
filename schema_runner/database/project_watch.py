"""The project's own database beside tests: what they may not name, and what they have changed."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import psycopg
from django.apps import apps
from django.db import router

from .. import search_path_restore
from ..connections import disconnect
from ..errors import SchemaRunnerError, listing
from ..flush.reset_connection import ResetConnection
from ..postgres import names, sessions
from ..postgres.project_changes import changed_objects, changes, has_statistics
from ..postgres.project_state import ProjectState, digest
from ..postgres.server import Connection
from .own_database import OwnDatabaseCreation

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base
else:
    Base = object

# From this version on a session can be told to have its statistics counted at once.
_FLUSHES = 150000
_FLUSH = b"SELECT pg_catalog.pg_stat_force_next_flush()"
# How long, in seconds, to wait for the sessions of what a class has started, and of all tests.
_AFTER_CLASS = 0.1
_AT_END = 1.0


class ProjectComparison(NamedTuple):
    """What has changed in a database by the end of a run, outside of its schemas.

    `changes` maps names to what has happened, `sessions` are those of others that were seen, and
    `notes` say what could not be compared.
    """

    database: str
    changes: dict[str, str]
    sessions: Sequence[str]
    notes: Sequence[str]


class ProjectChangesCreation(OwnDatabaseCreation, Base):
    """What `install` mixes in, in place of its base, where the host database is the project's."""

    # The runner's, in the process that runs the suite.
    comparisons: ClassVar[list[ProjectComparison]] = []

    # Before the tests, and as this process has seen it last.
    _before: ProjectState | None = None
    _seen: ProjectState | None = None
    _digest: int | None = None
    _looked = ""
    _others: Sequence[str] = ()
    # Where there are no resets, whose connection would do.
    _own_connection: ResetConnection | None = None

    def _obtain_host(self) -> None:
        # A run within a test finds this class, and may have other settings.
        if self._is_current:
            self._refuse_models()
        super()._obtain_host()

    def _refuse_models(self) -> None:
        """Raise SchemaRunnerError for models whose tables are named with a schema."""
        found = {
            model._meta.label: model._meta.db_table
            for model in apps.get_models(include_auto_created=True)
            if names.has_schema(model._meta.db_table) and self._is_used(model)
        }
        refused = {
            label: table
            for label, table in found.items()
            if label not in self.runner_settings.trusted_models
        }
        if refused:
            listed = [f"{label} ({table!r})" for label, table in refused.items()]
            raise SchemaRunnerError(
                f"Models name a schema in db_table, so that their tests would reach the project's "
                f"own tables: {listing(listed, 10)}. Leave the schema out, so that search_path "
                f"decides, or use --host-database test. Models whose tables are only read can be "
                f'listed in SCHEMA_RUNNER["TRUSTED_MODELS"] as "app_label.Model".'
            )

    def _is_used(self, model: Any) -> bool:
        reads, writes = router.db_for_read(model), router.db_for_write(model)
        may_migrate = router.allow_migrate_model(self._alias, model)
        return self._alias in {reads, writes} or may_migrate

    def create_test_db(self, *args: Any, **kwargs: Any) -> str:
        name = super().create_test_db(*args, **kwargs)
        # For a run within a test this has become stock Django's.
        test_databases = getattr(self, "test_databases", None)
        if test_databases and self._is_current and test_databases.host_name(self._alias):
            host = test_databases.host(self._alias)
            self._seen = ProjectState.seen(host.connection)
            self._before = self._seen.with_definitions(host.connection)
            self._others = sessions.other_applications(host.connection, host.lease.run)
            self._looked = sessions.server_time(host.connection)
        return name

    def destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        suffix = args[3] if len(args) > 3 else kwargs.get("suffix")
        if suffix is None and self._before is not None:
            self._compare(self._before)
            self._before = None
        super().destroy_test_db(*args, **kwargs)

    def _compare(self, before: ProjectState) -> None:
        host = self._databases.host(self._alias)
        connection, run = host.connection, host.lease.run
        found, others, notes = dict[str, str](), [*self._others], list[str]()
        self.close_resets()
        self._close_own()
        disconnect()
        try:
            sessions.end_tests_sessions(connection, host.name, run)
            application = names.application(run)
            sessions.wait_for_programs(
                connection, self._looked, application=application, known=(), limit=_AT_END
            )
            after = ProjectState.seen(connection).with_definitions(connection)
            found = changes(connection, before, after)
            others += sessions.other_applications(connection, run)
            if not (before.counted and after.counted):
                notes.append("rows cannot be told to have changed, for track_counts is off")
            elif not has_statistics(before, after):
                notes.append(
                    "rows cannot be told to have changed, for statistics were reset meanwhile"
                )
        except (psycopg.Error, SchemaRunnerError) as error:
            notes.append(f"it cannot be told what has changed: {str(error).strip()}")
        self.comparisons.append(
            ProjectComparison(
                host.name,
                {name: what for name, what in found.items() if not self._is_expected(name)},
                sorted(set(others)),
                notes,
            )
        )

    def changes_outside(self) -> frozenset[str]:
        """Name what is another than when this was asked last, at the end of the class before."""
        locations = self._locations
        if locations is None or locations.alias != self._alias or not self._location:
            return frozenset()
        try:
            return self._changes_outside(self._standing.get())
        except (psycopg.Error, SchemaRunnerError):
            # In the end all is compared once more.
            return frozenset()

    def _changes_outside(self, connection: Connection) -> frozenset[str]:
        if connection.info.server_version >= _FLUSHES:
            search_path_restore.execute_on_idle(_FLUSH)
        if self._looked:
            sessions.wait_for_programs(
                connection,
                self._looked,
                application=str(self.connection.settings_dict["OPTIONS"].get("application_name")),
                known=search_path_restore.backends_in_use(),
                limit=_AFTER_CLASS,
            )
        self._looked = sessions.server_time(connection)
        before, value = self._seen, digest(connection)
        if value == self._digest:
            return frozenset()
        self._digest, self._seen = value, ProjectState.seen(connection)
        self._standing.spare()
        names_changed = changed_objects(before, self._seen) if before else ()
        return frozenset(name for name in names_changed if not self._is_expected(name))

    def prepare_for(self, test_class: type, *, own_database: bool = False) -> None:
        super().prepare_for(test_class, own_database=own_database)
        if self._seen is None:
            self.changes_outside()

    def forget(self) -> None:
        super().forget()
        self._before = self._seen = self._digest = self._own_connection = None

    def leave(self, *, keep: bool) -> None:
        self._close_own()
        super().leave(keep=keep)

    @property
    def _standing(self) -> ResetConnection:
        if resets := self.resets:
            return resets.connection
        if self._own_connection is None:
            location = self._location
            assert location is not None
            self._own_connection = ResetConnection(
                lambda: self._server().connect(location.database)
            )
        return self._own_connection

    def _close_own(self) -> None:
        if self._own_connection is not None:
            self._own_connection.close()
            self._own_connection = None

    def _is_expected(self, name: str) -> bool:
        """Whether a pattern matches the name, or what is behind its kind."""
        texts = (name, name.partition(" ")[2])
        patterns = self.runner_settings.expected_changes
        return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)
