"""Names of test databases, and the choice between copies, builds and clone databases."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from django.apps import apps
from django.db import router
from psycopg import sql

from ..errors import listing
from ..postgres import names
from ..settings import Settings
from .extensions import Execute, text_of
from .location import LocationMixin

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base

    from ..postgres.host_request import Log
    from ..postgres.pg_dump import DumpError, PgDump
    from .write_guard import WriteGuard
else:
    Base = object


class NamesMixin(LocationMixin, Base):
    """The part of `SchemaCreation` that names databases in Django's hooks."""

    runner_settings: ClassVar[Settings] = Settings()

    @property
    def _is_stock(self) -> bool:
        """Whether `--isolation database` selects stock Django's databases."""
        return self.runner_settings.isolation == "database"

    @property
    def _is_current(self) -> bool:
        """Whether `--host-database current` selects the project's own database."""
        return self.runner_settings.host_database == "current"

    def test_db_signature(self) -> tuple[Any, ...]:
        # Aliases that would have separate test databases under stock Django get separate schemas.
        *server, name = super().test_db_signature()
        return (*server, super()._get_test_db_name() if self._is_current else name)  # type: ignore[misc]

    def _get_test_db_name(self) -> str:
        # Once NAME in settings_dict is that of the host database, Django would prefix it again.
        if self.test_databases and (host := self.test_databases.host_name(self._alias)):
            return host
        if self._is_current:
            return str(self.connection.settings_dict["NAME"]) or self._current_database()
        name = str(super()._get_test_db_name())  # type: ignore[misc]
        return name if self._is_stock else names.database_name(name)

    def _current_database(self) -> str:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_database()")
            (name,) = cursor.fetchone()
        return str(name)

    def _execute_create_test_db(self, cursor: Any, parameters: Any, keepdb: bool = False) -> None:
        name = self._get_test_db_name()
        if not self._is_stock and parameters["dbname"] == self.connection.ops.quote_name(name):
            # Django calls `_quote_name` for clones only. The caller's DROP DATABASE uses the same
            # `parameters`.
            parameters["dbname"] = self._quote_name(name)
        super()._execute_create_test_db(cursor, parameters, keepdb)  # type: ignore[misc]

    def _quote_name(self, name: str) -> str:
        if self._is_stock:
            return str(super()._quote_name(name))  # type: ignore[misc]
        return sql.Identifier(name).as_string()


_APPLIED = 'INSERT INTO "django_migrations"'
# An object as pg_identify_object describes it: its type, and its name as group 1.
_OBJECT = (
    r"(?:[a-z]+[ -])*(?:schema|table|view|index|sequence|function|procedure|trigger|type|domain"
    r"|publication|server|wrapper|language|rule|policy|constraint|collation|aggregate)"
    r' (?:(?:"[^"]+"|[\w$]+)\.)*("[^"]+"|[\w$]+)'
)


class MigrationOrigins:
    """Execute wrapper that records which migration executed which statements.

    A migration ends when Django inserts its row into `django_migrations`.
    """

    def __init__(self) -> None:
        self._migrations: list[tuple[str, list[str]]] = []
        self._pending: list[str] = []

    def __call__(
        self, execute: Execute, statement: Any, params: Any, many: bool, context: Any
    ) -> Any:
        if isinstance(statement, str) and statement.startswith(_APPLIED):
            self._migrations.append((".".join(params[:2]), self._pending))
            self._pending = []
        elif text := text_of(statement):
            self._pending.append(text)
        return execute(statement, params, many, context)

    def listing(self, objects: Sequence[str]) -> str:
        """List objects, the first three with the migration that created them, if known."""
        shown = [self._with_migration(name) for name in objects[:3]]
        return listing([*shown, *objects[3:]])

    def _with_migration(self, description: str) -> str:
        match = re.match(_OBJECT, description)
        name = re.escape(match[1].strip('"') if match else description)
        mention = re.compile(rf"(?<![\w$]){name}(?![\w$])")
        for migration, texts in self._migrations:
            if any(mention.search(" ".join(text.split())) for text in texts):
                return f"{description} (migration {migration})"
        return description


class BuildMixin(NamesMixin):
    """The part of `SchemaCreation` that decides between copies, builds and clone databases."""

    # Whether the run has classes that need their own database.
    has_own_databases: ClassVar[bool] = False
    # Recorded during the first build.
    _origins: "MigrationOrigins | None" = None

    @property
    def _wants_template(self) -> bool:
        if self.runner_settings.strategy != "template":
            return False
        has_others = self._databases.workers > 1 or self._serves_other_runs
        return has_others or (self.has_own_databases and not self._is_current)

    @property
    def _serves_other_runs(self) -> bool:
        """Whether this run keeps its schemas or a snapshot for other runs."""
        return self._databases.keeps or self.runner_settings.snapshot_dir is not None

    @cached_property
    def _pg_dump(self) -> "PgDump | DumpError | None":
        """The pg_dump to use, or the error if there is none; None if no template is needed."""
        if not self._wants_template:
            return None
        from ..postgres.pg_dump import DumpError, PgDump

        version = self._databases.host(self._alias).connection.info.server_version
        try:
            return PgDump.find(version, self.runner_settings.pg_dump)
        except DumpError as error:
            return error

    def _clone_reason(self, dropped: list[str]) -> str | None:
        """Return why workers need clones, with the remedy, or None if they can use schemas.

        `dropped` lists the statements of the build that drop extensions.
        """
        if self._is_current:
            return None
        if self._check_backend_sets_path():
            return f"{self._backend_reason}. The tests run as with stock Django."
        if (current := self._current_schema()) != "public":
            return (
                f"{current} comes first on the project's own search_path. To use schemas, leave "
                f"the search_path to the runner."
            )
        if obstacles := dropped + self._obstacles():
            return (
                f"schemas cannot isolate {self._list_with_migrations(obstacles)}. To use schemas, "
                f"remove that from migrations and from TEST['TEMPLATE']."
            )
        return f"{self._pg_dump}." if isinstance(self._pg_dump, Exception) else None

    def _list_with_migrations(self, objects: Sequence[str]) -> str:
        return self._origins.listing(objects) if self._origins else listing(objects)

    def _obstacles(self) -> list[str]:
        """List the objects of the first build that a worker schema cannot hold."""
        tables = [f"table {table} of a model" for table in _tables_in_public(self._alias)]
        return tables + self._databases.obstacles(self._alias)

    def _isolate_advisory_locks(self, schema: str) -> None:
        test_databases, alias = self._databases, self._alias
        if test_databases.is_shared(alias) and self.runner_settings.isolate_advisory_locks:
            collisions = test_databases.host(alias).add_shims(schema)
            if collisions:
                test_databases.log(
                    f"Workers of alias '{alias}' share advisory locks, because the project uses "
                    f"names of PostgreSQL's catalog: {listing(collisions)}."
                )

    def _plan_copies(self, extra: Mapping[str, Any], since: int | None) -> None:
        from ..postgres.structure_script import CopyError

        test_databases, alias = self._databases, self._alias
        try:
            test_databases.add_template(alias, extra, since)
        except CopyError as error:
            if test_databases.workers == 1 and not self._serves_other_runs:
                return
            reason = f"a schema cannot be copied: {self._list_with_migrations(error.reasons)}"
            if test_databases.workers == 1:
                test_databases.log(
                    f"Alias '{alias}' keeps nothing for other runs, because {reason}."
                )
            elif self._is_current:
                self._plan_builds(reason)
            else:
                self._plan_databases(reason, error.reasons)

    def _plan_builds(self, reason: object) -> None:
        if self._databases.workers == 1:
            return
        if reason:
            self._log(
                f"Every worker of alias '{self._alias}' runs the migrations, because {reason}."
            )
        if reasons := self._reasons_for_clones():
            self._plan_databases(
                f"migrations cannot build a second schema: {listing(reasons)}",
                reasons,
            )
        else:
            self._databases.plan(self._alias)

    def _plan_databases(self, reason: str, reasons: Sequence[str]) -> None:
        self._log(self._databases_message(reason))
        self._databases.plan(self._alias, reasons=tuple(reasons))

    def _clones_message(self, reason: str) -> str:
        return f"Alias '{self._alias}' uses clone databases, because {reason}"

    def _databases_message(self, reason: str) -> str:
        return (
            f"All workers but the first use clone databases for alias '{self._alias}', because "
            f"{reason}. Fix that, or use --isolation database."
        )

    def _reasons_for_clones(self) -> list[str]:
        """List the statements of migrations that prevent a build in a second schema.

        Leave out those that affect the whole database: `_obstacles` has found their objects.
        """
        if self._is_current or not self._has_migrations:
            return []
        from ..migration_lint.lint import lint_migrations
        from ..migration_lint.sql import Kind

        trusted = self.runner_settings.trusted_migrations
        return [
            str(finding)
            for finding in lint_migrations()
            if finding.migration not in trusted and finding.kind is not Kind.DATABASE
        ]

    def _guard_of_migrations(self, log: "Log") -> "WriteGuard":
        from .write_guard import WriteGuard

        if not self._has_migrations:
            return WriteGuard()
        return WriteGuard.for_migrations(self.runner_settings.trusted_migrations, log)

    @property
    def _has_migrations(self) -> bool:
        return self.connection.settings_dict["TEST"]["MIGRATE"] is not False


def _tables_in_public(alias: str) -> list[str]:
    """List the tables of an alias's models whose `db_table` names the schema `public`."""
    tables = {
        model._meta.db_table
        for app in apps.get_app_configs()
        for model in router.get_migratable_models(app, alias, include_auto_created=True)
    }
    return sorted(table for table in tables if names.is_in_public(table))
