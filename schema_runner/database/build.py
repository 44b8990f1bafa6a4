"""Names of test databases, and how the first schema is built and copied."""

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
    """The part of `SchemaCreation` that names databases as Django's methods ask for them."""

    runner_settings: ClassVar[Settings] = Settings()

    @property
    def _is_stock(self) -> bool:
        """Whether stock Django's clone databases are asked for."""
        return self.runner_settings.isolation == "database"

    @property
    def _is_current(self) -> bool:
        """Whether schemas are to be made in the project's own database."""
        return self.runner_settings.host_database == "current"

    def test_db_signature(self) -> tuple[Any, ...]:
        # Aliases that have databases of their own under stock Django have schemas of their own.
        *where, name = super().test_db_signature()
        return (*where, super()._get_test_db_name() if self._is_current else name)  # type: ignore[misc]

    def _get_test_db_name(self) -> str:
        # NAME is the host database's once there is one.
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
            # Django's quoting leaves quotes within and around a name as they are, but not that of
            # a clone's. The caller's DROP has the name from here too.
            parameters["dbname"] = self._quote_name(name)
        super()._execute_create_test_db(cursor, parameters, keepdb)  # type: ignore[misc]

    def _quote_name(self, name: str) -> str:
        if self._is_stock:
            return str(super()._quote_name(name))  # type: ignore[misc]
        return sql.Identifier(name).as_string()


_APPLIED = 'INSERT INTO "django_migrations"'
# An object as the server identifies it: its kind, and its name as group 1.
_OBJECT = (
    r"(?:[a-z]+[ -])*(?:schema|table|view|index|sequence|function|procedure|trigger|type|domain"
    r"|publication|server|wrapper|language|rule|policy|constraint|collation|aggregate)"
    r' (?:(?:"[^"]+"|[\w$]+)\.)*("[^"]+"|[\w$]+)'
)


class MigrationOrigins:
    """Follows a build, as one of Django's execute wrappers, and tells what was in which migration.

    It knows that a migration is over by the row that Django writes of it.
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

    def listing(self, things: Sequence[str]) -> str:
        """Name the first few of many things, each with its migration if that is known."""
        shown = [self._with_migration(thing) for thing in things[:3]]
        return listing([*shown, *things[3:]])

    def _with_migration(self, thing: str) -> str:
        found = re.match(_OBJECT, thing)
        name = re.escape(found[1].strip('"') if found else thing)
        mention = re.compile(rf"(?<![\w$]){name}(?![\w$])")
        for migration, texts in self._migrations:
            if any(mention.search(" ".join(text.split())) for text in texts):
                return f"{thing} (migration {migration})"
        return thing


class BuildMixin(NamesMixin):
    """The part of `SchemaCreation` that decides between copies, builds and databases."""

    # Whether the run has classes that each worker has a database for.
    has_own_databases: ClassVar[bool] = False
    # Of the first build.
    _origins: "MigrationOrigins | None" = None

    @property
    def _wants_template(self) -> bool:
        if self.runner_settings.strategy != "template":
            return False
        has_others = self._databases.workers > 1 or self._is_wanted_later
        return has_others or (self.has_own_databases and not self._is_current)

    @property
    def _is_wanted_later(self) -> bool:
        """Whether other runs are to use what this one makes."""
        return self._databases.keeps or self.runner_settings.snapshot_dir is not None

    @cached_property
    def _pg_dump(self) -> "PgDump | DumpError | None":
        """What makes a template, or why nothing does; None where there is no need for one."""
        if not self._wants_template:
            return None
        from ..postgres.pg_dump import DumpError, PgDump

        version = self._databases.host(self._alias).connection.info.server_version
        try:
            return PgDump.find(version, self.runner_settings.pg_dump)
        except DumpError as error:
            return error

    def _why_clones(self, dropped: list[str]) -> str | None:
        """Say why workers cannot have schemas, and what would help.

        `dropped` is what the build has dropped.
        """
        if self._is_current:
            return None
        if self._sets_path():
            return f"{self._path_of_backend}. The tests run as with stock Django."
        if (current := self._current_schema()) != "public":
            return (
                f"schemas cannot keep apart the search_path of the project, on which {current} "
                f"comes first. To have schemas, leave it to the runner."
            )
        if obstacles := dropped + self._obstacles():
            return (
                f"schemas cannot keep apart {self._listed(obstacles)}. To have schemas, make "
                f"none of that in migrations, or in TEST['TEMPLATE']."
            )
        return f"{self._pg_dump}." if isinstance(self._pg_dump, Exception) else None

    def _listed(self, things: Sequence[str]) -> str:
        return self._origins.listing(things) if self._origins else listing(things)

    def _obstacles(self) -> list[str]:
        """Name what the first build has done that worker schemas cannot each have."""
        named = [f"table {table} of a model" for table in _tables_in_public(self._alias)]
        return named + self._databases.obstacles(self._alias)

    def _isolate_advisory_locks(self, schema: str) -> None:
        test_databases, alias = self._databases, self._alias
        if test_databases.is_shared(alias) and self.runner_settings.isolate_advisory_locks:
            collisions = test_databases.host(alias).add_shims(schema)
            if collisions:
                test_databases.log(
                    f"The workers of alias '{alias}' share advisory locks, because the project "
                    f"has names that are PostgreSQL's own: {listing(collisions)}."
                )

    def _plan_copies(self, extra: Mapping[str, Any], since: int | None) -> None:
        from ..postgres.structure_script import CopyError

        test_databases, alias = self._databases, self._alias
        try:
            test_databases.add_template(alias, extra, since)
        except CopyError as error:
            if test_databases.workers == 1 and not self._is_wanted_later:
                return
            why = f"a schema cannot be copied: {self._listed(error.reasons)}"
            if test_databases.workers == 1:
                test_databases.log(f"Alias '{alias}' has nothing for other runs, because {why}.")
            elif self._is_current:
                self._plan_builds(why)
            else:
                self._plan_databases(why, error.reasons)

    def _plan_builds(self, why: object) -> None:
        if self._databases.workers == 1:
            return
        if why:
            self._log(f"Every worker of alias '{self._alias}' runs the migrations, because {why}.")
        if reasons := self._reasons_for_databases():
            self._plan_databases(
                f"schemas cannot keep a second build apart: {listing(reasons)}",
                reasons,
            )
        else:
            self._databases.plan(self._alias)

    def _plan_databases(self, why: str, reasons: Sequence[str]) -> None:
        self._log(self._of_databases(why))
        self._databases.plan(self._alias, reasons=tuple(reasons))

    def _of_clones(self, why: str) -> str:
        return f"Alias '{self._alias}' uses clone databases, because {why}"

    def _of_databases(self, why: str) -> str:
        return (
            f"Workers from the second on use databases of their own for alias '{self._alias}', "
            f"because {why}. Mend that, or have clone databases with --isolation database."
        )

    def _reasons_for_databases(self) -> list[str]:
        """Name what cannot be built a second time beside the first, in another schema.

        What is about the whole database the first build has shown: see `_obstacles`.
        """
        if self._is_current or not self._has_migrations:
            return []
        from ..migration_lint.lint import lint_migrations
        from ..migration_lint.sql import Kind

        trusted = self.runner_settings.trusted_migrations
        return [
            str(found)
            for found in lint_migrations()
            if found.migration not in trusted and found.kind is not Kind.DATABASE
        ]

    def _guard_of_migrations(self, log: "Log") -> "WriteGuard":
        from .write_guard import WriteGuard

        if not self._has_migrations:
            return WriteGuard()
        return WriteGuard.of_migrations(self.runner_settings.trusted_migrations, log)

    @property
    def _has_migrations(self) -> bool:
        return self.connection.settings_dict["TEST"]["MIGRATE"] is not False


def _tables_in_public(alias: str) -> list[str]:
    """List the tables of an alias's models that queries name with `public`."""
    tables = {
        model._meta.db_table
        for app in apps.get_app_configs()
        for model in router.get_migratable_models(app, alias, include_auto_created=True)
    }
    return sorted(table for table in tables if names.is_in_public(table))
