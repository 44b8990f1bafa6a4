"""The first schema of an alias: from a pool, from a snapshot, or from a build."""

import os
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from ..errors import ago, listing
from ..flush.hooks import import_management
from ..postgres.server import Connection
from .build import Build, clones_message, host_request
from .kept_builds import KeptBuilds
from .snapshot_files import SnapshotFolder

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation

    from ..postgres.snapshot import Snapshot
    from .write_guard import WriteGuard


class FirstSchema:
    """Gets the first schema of an alias: from a pool, from a snapshot, or from a build.

    It is the target of the build's migrations.
    """

    def __init__(
        self, build: Build, creation: "DatabaseCreation", verbosity: int, autoclobber: bool
    ) -> None:
        self._build = build
        self._creation = creation
        self._migrator = build.migrator
        self._database = build.database
        self._settings = build.database.settings
        self._log = build.database.log
        self._kept = KeptBuilds(build.database.connection, build.database.context)
        self._verbosity = verbosity
        self._autoclobber = autoclobber

    @property
    def _alias(self) -> str:
        return self._database.alias

    @property
    def name(self) -> str:
        return self._database.name

    def connect(self) -> Connection:
        return self._database.host.connect()

    def create(self, build: Callable[[], str], *, serialize: bool) -> str:
        """Create the host database and its first schema; return the name of the database.

        `build` calls Django's own `create_test_db`.
        """
        database, guard = self._database, None
        if self._settings.is_current:
            guard = self._migrator.migrations_guard(self._log)
        self._open()
        if self._settings.is_current:
            self._build.refuse_backend_path()
        if self._use_kept() or self._use_snapshot():
            name = self._finish_reuse(serialize=serialize)
        else:
            name = self._build_anew(build, guard)
        database.release_build_lock()
        return name

    def _open(self) -> None:
        self._database.open(host_request(self._database, self._kept.criteria))

    def create_database(self, verbosity: int, autoclobber: bool) -> str:
        if verbosity >= 1 and (reason := self._kept.rebuild_reason()):
            self._creation.log(f"Building anew: {reason}.")
        self._create_host()
        self._build.begin()
        return self.name

    def _create_host(self) -> None:
        self._database.create_host(self._create_as_stock)

    def _create_as_stock(self) -> None:
        # Do not pass keepdb: a database without a run's marker must not be reused.
        self._migrator.stock._create_test_db(self._verbosity, self._autoclobber, False)

    def _build_anew(self, build: Callable[[], str], guard: "WriteGuard | None") -> str:
        """Build the schema, and the template that other workers copy."""
        database = self._database
        dropped: list[str] = []
        with self._kept.recording() as recording:
            with self._migrator.watching(guard, dropped):
                name = build()
            reason = self._build.clone_reason(dropped)
            if reason:
                self._build.use_clones(clones_message(self._alias, reason))
            else:
                self._build.finish()
                if self._verbosity >= 2:
                    schema = database.schemas[database.number]
                    self._creation.log(f"Built schema {schema} for alias '{self._alias}'.")
                self._build.plan_without_template()
            since = self._migrator.load_reference()
        extra = self._kept.describe(recording)
        if not reason:
            self._build.add_template(extra, since)
            self._keep_snapshot()
        self._build.add_reference(since)
        if reason:
            extra["why"] = clones_message(self._alias, reason)
            self._keep_snapshot(of_database=extra)
            self._build.prepare_clones(extra)
        database.switch_to(database.number)
        return name

    def _use_kept(self) -> bool:
        """Use a pool in place of a build; return whether there is one."""
        if self._kept.facts is None:
            return False
        from ..postgres.structure_script import CopyError

        database = self._database
        if database.is_kept_for_clones:
            self._log_reuse("database")
            found = "an earlier run found that its schema cannot be copied."
            why = database.test_host.clone_reason
            self._log(why or clones_message(self._alias, found))
            self._build.sets_backend_path()
            self._build.use_kept_clone()
            return True
        host = database.host if database.is_created else None
        if host is None or host.template is None:
            return False
        try:
            database.add_schema(host.own_schema or self._copy_template())
        except CopyError as error:
            host.schema_source("").reject(database.number)
            reasons = listing(error.reasons)
            self._log(f"The pool of alias '{self._alias}' cannot be copied: {reasons}")
            assert self._kept.facts is not None
            self._kept.note_unusable(self._kept.facts.fingerprint, host.pool_created_at, {})
            database.release()
            self._open()
            return self._use_kept()
        database.plan()
        self._log_reuse("schemas")
        if self._folder is not None and self._folder.is_missing():
            self._keep_snapshot()
        return True

    @cached_property
    def _folder(self) -> SnapshotFolder | None:
        folder, kept = self._settings.snapshot_dir, self._kept
        if folder is None or kept.facts is None:
            return None
        return SnapshotFolder(Path(folder), kept.facts, self._log, kept.note_unusable)

    def _copy_template(self) -> str:
        return self._database.host.schema_source("").lease_or_copy(self._database.number)

    def _use_snapshot(self) -> bool:
        """Use a snapshot in place of a build; return whether there is one."""
        if self._folder is None:
            return False
        from ..postgres.structure_script import CopyError

        for path, snapshot in self._folder.usable():
            self._create_host()
            try:
                if snapshot.template:
                    self._restore_schema(snapshot)
                else:
                    self._database.test_host.restore_database(snapshot, self._create_as_stock)
                    self._build.sets_backend_path()
                    self._database.is_cloned = True
                    self._log(snapshot.extra["why"])
                    self._build.prepare_clones(snapshot.extra)
            except CopyError as error:
                self._folder.reject(path, listing(error.reasons))
                continue
            self._log_action(f"Using the snapshot {path}")
            return True
        if (newest := self._folder.newest()) is not None:
            self._kept.note_unusable(*newest)
        return False

    def _restore_schema(self, snapshot: "Snapshot") -> None:
        """Create the schema from a snapshot. If that fails, undo it."""
        from ..postgres.structure_script import CopyError

        undo = self._database.host.restore(snapshot)
        try:
            schema = self._copy_template()
        except CopyError:
            undo()
            raise
        self._database.add_schema(schema)
        self._build.isolate_advisory_locks(schema)
        self._database.plan()

    def _keep_snapshot(self, *, of_database: Mapping[str, Any] | None = None) -> None:
        """Write a snapshot of the template, if SNAPSHOT_DIR is set.

        If workers use clones, pass the extra facts as `of_database`: the snapshot then contains a
        dump of the host database.
        """
        if self._folder is not None:
            self._folder.write(self._alias, partial(self._snapshot, of_database))

    def _snapshot(self, of_database: Mapping[str, Any] | None) -> "Snapshot | None":
        from ..postgres.structure_script import CopyError

        assert self._kept.facts is not None
        fingerprint, now = self._kept.facts.fingerprint, self._kept.facts.now
        host = self._database.host
        if of_database is None:
            if host.template is None:
                return None
            snapshot = host.snapshot(fingerprint, now)
            # A snapshot that cannot be copied would be rejected by every later run.
            host.verify_template()
            return snapshot
        if self._build.pg_dump is None:
            raise CopyError(str(self._build.pg_dump_error))
        return self._database.test_host.dump_database(
            self._build.pg_dump, fingerprint=fingerprint, made=now, extra=of_database
        )

    def _log_reuse(self, what: str) -> None:
        # An age, not a time of day: TIME_ZONE need not be the user's time zone.
        assert self._kept.facts is not None
        age = self._kept.facts.now - self._database.host.pool_created_at
        self._log_action(f"Using the {what} from {ago(age)}")
        self._database.is_reused = True

    def _log_action(self, what: str) -> None:
        """Log an action on the alias's database in stock Django's form."""
        if self._verbosity >= 1:
            creation: Any = self._creation
            display = creation._get_database_display_str(self._verbosity, self.name)
            self._creation.log(f"{what} for alias {display}...")

    def _finish_reuse(self, *, serialize: bool) -> str:
        """Do the rest of stock Django's `create_test_db`, after a build was skipped."""
        import_management()
        database, creation = self._database, self._creation
        database.switch_to(database.number)
        if not database.is_cloned:
            database.connection.verify_search_path()
        self._send_post_migrate()
        assert database.connection.location is not None
        name = database.connection.location.database
        settings.DATABASES[self._alias]["NAME"] = name
        wrapper: Any = creation.connection
        if serialize:
            wrapper._test_serialized_contents = creation.serialize_db_to_string()
        wrapper.ensure_connection()
        if os.environ.get("RUNNING_DJANGOS_TEST_SUITE") == "true":
            creation.mark_expected_failures_and_skips()
        return name

    def _send_post_migrate(self) -> None:
        from ..flush import post_migrate

        try:
            post_migrate.send_and_roll_back(self._alias)
        except Exception as error:
            # With stock Django, handlers run on empty tables, where this one did not fail.
            self._log(
                f"Warning: a post_migrate handler failed on the reused rows of alias "
                f"'{self._alias}', so objects that handlers create in memory may be missing: "
                f"{error!r}"
            )
