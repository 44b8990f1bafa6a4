"""The first build of an alias: create the schema of this process, and what others copy."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import router

from ..connections import is_project_database
from ..errors import SchemaRunnerError, advice, listing
from ..postgres import names
from ..postgres.host import PUBLIC
from ..postgres.host_request import HostRequest
from ..postgres.server import Connection
from .migrator import Migrator
from .test_database import TestDatabase

if TYPE_CHECKING:
    from ..postgres.host_request import PoolCriteria
    from ..postgres.pg_dump import DumpError, PgDump


class Build:
    """Builds the schema of this process, and what other workers copy.

    If schemas cannot isolate the workers of this alias, workers get clone databases.
    """

    def __init__(self, database: TestDatabase, migrator: Migrator) -> None:
        self.database = database
        self.migrator = migrator
        self._context, self._settings = database.context, database.context.settings
        self._connection, self._log = database.connection, database.context.log

    @property
    def _alias(self) -> str:
        return self.database.alias

    def begin(self) -> None:
        """Begin a build, in a new schema or in `public`, and switch connections to it."""
        database = self.database
        schema = database.host.begin_build(database.number)
        if schema is not None:
            # Recorded now, so that tear-down also drops the schema of a failed build.
            database.schemas[database.number] = schema
        database.switch_to(None if schema is None else database.number, is_built=False)
        self._connection.verify_search_path()

    def finish(self) -> None:
        """Turn the tables of the build into the schema of this process."""
        database = self.database
        schema = database.host.finish_build(database.number)
        database.add_schema(schema)
        if (pg_dump := self.pg_dump) is not None:
            # It runs in the background.
            database.host.start_dump(schema, pg_dump)
        self.isolate_advisory_locks(schema)
        database.switch_to(database.number)
        self._connection.verify_search_path()

    def plan_without_template(self) -> None:
        """If there is no template, plan that each worker runs the migrations."""
        if self.pg_dump is None:
            # Workers load the reference data in their own builds.
            self._plan_builds(self.pg_dump_error)

    def isolate_advisory_locks(self, schema: str) -> None:
        if not (self.database.is_shared and self._settings.isolate_advisory_locks):
            return
        if collisions := self.database.host.add_shims(schema):
            self._log(
                f"Workers of alias '{self._alias}' share advisory locks, because the project uses "
                f"names of PostgreSQL's catalog: {listing(collisions)}."
            )

    def add_template(self, extra: Mapping[str, Any], since: int | None) -> None:
        """Create the template with the `extra` facts, if it is needed and can be copied.

        `since` is the transaction after which reference data was loaded, or None.
        """
        database = self.database
        if self.pg_dump is not None:
            from ..postgres.structure_script import CopyError

            is_alone = self._context.workers == 1
            try:
                schema = database.schemas[database.number]
                database.host.create_template(schema, extra, since)
                if self._context.sharing and (is_alone or not self._context.keeps):
                    # Otherwise, this run's next worker verifies it.
                    database.host.verify_template()
                database.plan()
            except CopyError as error:
                self._do_without_template(error.reasons)

    def _do_without_template(self, reasons: Sequence[str]) -> None:
        is_alone = self._context.workers == 1
        if is_alone and not self._context.serves_other_runs:
            return
        reason = f"a schema cannot be copied: {self.migrator.list_with_migrations(reasons)}"
        if is_alone:
            self._log(f"Alias '{self._alias}' keeps nothing for other runs, because {reason}.")
        elif self._settings.is_current:
            self._plan_builds(reason)
        else:
            self._plan_databases(reason, reasons)

    def add_reference(self, since: int | None) -> None:
        """Store copies of reference data for resets, unless there is a template."""
        if self.migrator.needs_copies(since):
            schema = self.database.schemas.get(self.database.number, PUBLIC)
            self.database.host.create_reference(schema, since)

    @property
    def pg_dump(self) -> "PgDump | None":
        """The pg_dump for the template; None if no template is needed, or there is no pg_dump."""
        found = self._found_pg_dump
        return None if isinstance(found, Exception) else found

    @property
    def pg_dump_error(self) -> "DumpError | None":
        found = self._found_pg_dump
        return found if isinstance(found, Exception) else None

    @cached_property
    def _found_pg_dump(self) -> "PgDump | DumpError | None":
        if not self._wants_template:
            return None
        from ..postgres.pg_dump import DumpError, PgDump

        version = self.database.host.connection.info.server_version
        try:
            return PgDump.find(version, self._settings.pg_dump)
        except DumpError as error:
            return error

    @property
    def _wants_template(self) -> bool:
        context, settings = self._context, self._settings
        if settings.strategy != "template":
            return False
        has_others = context.workers > 1 or context.serves_other_runs
        return has_others or (context.has_own_databases and not settings.is_current)

    def refuse_backend_path(self) -> None:
        """Raise SchemaRunnerError if the backend sets the search_path itself."""
        if self.sets_backend_path():
            raise SchemaRunnerError(
                f"Alias '{self._alias}' cannot use schemas, because {self._backend_reason}. "
                f"Use {advice().host_test}, where workers get clone databases."
            )

    def sets_backend_path(self) -> bool:
        """Whether the backend sets the search_path itself; afterwards, use the host database."""
        if self._connection.engine.startswith("django."):
            return False  # Checking takes a connection.
        host = self.database.host
        self._connection.detect_path(host.name, self.database.number, host.lease.run)
        self.database.switch_to(None)
        return self._connection.backend_sets_path

    @property
    def _backend_reason(self) -> str:
        return f"the database backend {self._connection.engine} sets the search_path itself"

    def clone_reason(self, dropped: list[str]) -> str | None:
        """Return why workers need clones, with the remedy, or None if they can use schemas.

        `dropped` lists the statements of the build that drop extensions.
        """
        if self._settings.is_current:
            return None
        if self.sets_backend_path():
            return f"{self._backend_reason}. The tests run as with stock Django."
        if (current := self._connection.current_schema()) != PUBLIC:
            return (
                f"{current} comes first on the project's own search_path. To use schemas, leave "
                f"the search_path to the runner."
            )
        if obstacles := dropped + self._obstacles():
            return (
                f"schemas cannot isolate {self.migrator.list_with_migrations(obstacles)}. To use "
                f"schemas, remove that from migrations and from TEST['TEMPLATE']."
            )
        return f"{self.pg_dump_error}." if self.pg_dump_error else None

    def _obstacles(self) -> list[str]:
        """List the objects of the first build that a worker schema cannot hold."""
        tables = [f"table {table} of a model" for table in _tables_in_public(self._alias)]
        return tables + self.database.test_host.obstacles()

    def use_clones(self, reason: str) -> None:
        """Give each worker a clone of the host database, as stock Django does."""
        self._log(reason)
        self._connection.wrapper.close()
        self.database.is_cloned = True
        self.database.switch_to(self.database.number)

    def prepare_clones(self, extra: Mapping[str, Any]) -> None:
        """Let this run and later ones clone the host database, which keeps the `extra` facts."""
        self.database.switch_to(None)
        self.database.test_host.prepare_clones(extra)
        self.use_kept_clone()

    def use_kept_clone(self) -> None:
        """Without other workers, use a clone if the host database is kept."""
        if self._context.workers == 1 and self.database.is_kept_for_clones:
            self.database.clone(self.database.number, verbosity=0)

    def _plan_builds(self, reason: object) -> None:
        if self._context.workers == 1:
            return
        if reason:
            self._log(
                f"Every worker of alias '{self._alias}' runs the migrations, because {reason}."
            )
        if reasons := self._reasons_for_clones():
            listed = listing(reasons)
            self._plan_databases(f"migrations cannot build a second schema: {listed}", reasons)
        else:
            self.database.plan()

    def _plan_databases(self, reason: str, reasons: Sequence[str]) -> None:
        self._log(self.migrator.databases_message(reason))
        self.database.plan(reasons=tuple(reasons))

    def _reasons_for_clones(self) -> list[str]:
        """List the statements of migrations that prevent a build in a second schema.

        Leave out those that affect the whole database: `_obstacles` has found their objects.
        """
        if self._settings.is_current or not self.migrator.has_migrations:
            return []
        from ..migration_lint.lint import lint_migrations
        from ..migration_lint.sql import Kind

        return [
            str(finding)
            for finding in lint_migrations()
            if finding.migration not in self._settings.trusted_migrations
            and finding.kind is not Kind.DATABASE
        ]


def host_request(
    database: TestDatabase,
    wanted_for: "Callable[[Connection], PoolCriteria | None] | None" = None,
) -> HostRequest:
    """Return the request for the host database of an alias.

    `wanted_for`: returns the pools that the run can use.
    """
    connection, context, name = database.connection, database.context, database.name
    # Django removes "service" from OPTIONS for good when it connects to create a database.
    server = connection.server(() if context.settings.is_current else ("service",))
    return HostRequest(
        server=server,
        name=name,
        is_projects_own=is_project_database(context.project_databases, server, name),
        worker=context.number,
        workers=context.workers,
        oldest_version=_version(connection.wrapper.features.minimum_database_version),
        log=context.log,
        wanted_for=wanted_for,
        pg_dump=context.settings.pg_dump,
        keeps_existing=context.keeps,
    )


def clones_message(alias: str, reason: str) -> str:
    return f"Alias '{alias}' uses clone databases, because {reason}"


def _tables_in_public(alias: str) -> list[str]:
    """List the tables of an alias's models whose `db_table` names the schema `public`."""
    tables = {
        model._meta.db_table
        for app in apps.get_app_configs()
        for model in router.get_migratable_models(app, alias, include_auto_created=True)
    }
    return sorted(table for table in tables if names.is_in_public(table))


def _version(version: tuple[int, ...] | None) -> int:
    """Convert Django's (14,) or (14, 2) to libpq's server version number, such as 140002."""
    major, minor = (*(version or ()), 0, 0)[:2]
    return major * 10000 + minor
