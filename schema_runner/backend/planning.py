"""What the workers of a run are to make their places by, once worker 1 has a schema."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from django.apps import apps
from django.db import router

from ..postgres import names
from ..wording import listing
from .naming import Naming

if TYPE_CHECKING:
    from ..postgres.host_request import Log
    from ..postgres.pg_dump import DumpError, PgDump
    from .guard import Guard
    from .origins import Origins


class Planning(Naming):
    """The part of `SchemaCreation` that decides between copies, builds and databases."""

    # Whether the run has classes that each worker has a database for.
    has_own_databases: ClassVar[bool] = False
    # Of the first build.
    _origins: "Origins | None" = None

    @property
    def _wants_template(self) -> bool:
        if self.runner_settings.strategy != "template":
            return False
        has_others = self._workspace.workers > 1 or self._is_wanted_later
        return has_others or (self.has_own_databases and not self._is_current)

    @property
    def _is_wanted_later(self) -> bool:
        """Whether other runs are to use what this one makes."""
        return self._workspace.keeps or self.runner_settings.snapshot_dir is not None

    @cached_property
    def _pg_dump(self) -> "PgDump | DumpError | None":
        """What makes a template, or why nothing does; None where there is no need for one."""
        if not self._wants_template:
            return None
        from ..postgres.pg_dump import DumpError, PgDump

        version = self._workspace.host(self._alias).connection.info.server_version
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
        return named + self._workspace.obstacles(self._alias)

    def _isolate_advisory_locks(self, schema: str) -> None:
        workspace, alias = self._workspace, self._alias
        if workspace.is_shared(alias) and self.runner_settings.isolate_advisory_locks:
            collisions = workspace.host(alias).add_shims(schema)
            if collisions:
                workspace.log(
                    f"The workers of alias '{alias}' share advisory locks, because the project "
                    f"has names that are PostgreSQL's own: {listing(collisions)}."
                )

    def _plan_copies(self, extra: Mapping[str, Any], since: int | None) -> None:
        from ..postgres.structure_script import CopyError

        workspace, alias = self._workspace, self._alias
        try:
            workspace.add_template(alias, extra, since)
        except CopyError as error:
            if workspace.workers == 1 and not self._is_wanted_later:
                return
            why = f"a schema cannot be copied: {self._listed(error.reasons)}"
            if workspace.workers == 1:
                workspace.log(f"Alias '{alias}' has nothing for other runs, because {why}.")
            elif self._is_current:
                self._plan_builds(why)
            else:
                self._plan_databases(why, error.reasons)

    def _plan_builds(self, why: object) -> None:
        if self._workspace.workers == 1:
            return
        if why:
            self._workspace.log(
                f"Every worker of alias '{self._alias}' runs the migrations, because {why}."
            )
        if reasons := self._reasons_for_databases():
            self._plan_databases(
                f"schemas cannot keep a second build apart: {listing(reasons)}",
                reasons,
            )
        else:
            self._workspace.plan(self._alias)

    def _plan_databases(self, why: str, reasons: Sequence[str]) -> None:
        self._workspace.log(self._of_databases(why))
        self._workspace.plan(self._alias, reasons=tuple(reasons))

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

    def _guard_of_migrations(self, log: "Log") -> "Guard":
        from .guard import Guard

        if not self._has_migrations:
            return Guard()
        return Guard.of_migrations(self.runner_settings.trusted_migrations, log)

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
