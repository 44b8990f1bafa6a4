"""Reuse of pools and snapshots of earlier runs, and keeping them for later runs."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from django.conf import settings

from ..errors import SchemaRunnerError, ago, listing
from ..flush.hooks import import_management
from ..postgres.server import Connection
from ..search_path import project_options
from .snapshot_files import (
    EDITED,
    SnapshotsMixin,
    comparable_parts,
    is_unchanged,
    rebuild_reason,
)

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation as Base

    from ..fingerprint import Recording
    from ..postgres.pool import PoolCriteria
    from ..postgres.snapshot import Snapshot
else:
    Base = object


class ReuseMixin(SnapshotsMixin, Base):
    """The part of `SchemaCreation` that uses and keeps pools and snapshots."""

    _server_facts: Sequence[str] = ()
    # The transaction after which `load_reference_data` loaded rows; None if it loaded none.
    _since: int | None = None
    # Whether this run uses a pool.
    _is_reused = False

    def _pool_criteria(self, connection: Connection) -> "PoolCriteria | None":
        """Compute the fingerprint; return what a pool must match, or None without --keepdb."""
        if not self._serves_other_runs or self.runner_settings.strategy != "template":
            return None
        from ..fingerprint.fingerprint import server_facts

        self._server_facts = server_facts(connection)
        from ..fingerprint import combine_parts

        self._parts = self._current_parts()
        self._fingerprint = combine_parts(self._parts)
        if not self._databases.keeps:
            return None
        from ..postgres.pool import PoolCriteria

        return PoolCriteria(
            fingerprint=self._fingerprint,
            is_unchanged=is_unchanged,
            now=self._now,
            oldest=self._oldest,
            max_others=self.runner_settings.keep_pools - 1,
            report_nearest=self._note_unusable,
        )

    def _current_parts(self) -> dict[str, str]:
        from ..fingerprint import compute_parts

        chosen = self.runner_settings
        shims = f"advisory locks {chosen.isolate_advisory_locks}"
        return compute_parts(
            self._alias,
            runner_settings=chosen,
            facts=[*self._server_facts, shims],
            options=project_options(self.connection.settings_dict),
        )

    def _use_kept(self, verbosity: int, *, serialize: bool) -> str | None:
        """Use a pool in place of a build; return the database's name, or None without a pool."""
        if self._fingerprint is None:
            return None
        from ..postgres.structure_script import CopyError

        test_databases, alias = self._databases, self._alias
        if test_databases.is_kept_for_clones(alias):
            self._log_reuse("database", verbosity)
            test_databases.log(
                test_databases.host_database(alias).clone_reason
                or self._clones_message("an earlier run found that its schema cannot be copied.")
            )
            self._check_backend_sets_path()
            self._use_clone_without_workers()
            return self._finish_reuse(serialize=serialize)
        try:
            if not test_databases.lease_from_pool(alias):
                return None
        except CopyError as error:
            raise SchemaRunnerError(
                f"The pool of alias '{alias}' can no longer be copied: {listing(error.reasons)}. "
                f"Remove it with --clear-pools."
            ) from error
        self._log_reuse("schemas", verbosity)
        self._keep_snapshot(only_if_missing=True)
        return self._finish_reuse(serialize=serialize)

    def _use_snapshot(self, verbosity: int, autoclobber: bool, *, serialize: bool) -> str | None:
        """Use a snapshot in place of a build; return the database's name, or None without one."""
        if self._snapshot_dir is None:
            return None
        from ..postgres.structure_script import CopyError

        def create() -> None:
            self._create_as_stock(verbosity, autoclobber)

        for path, snapshot in self._snapshots():
            self._databases.claim(self._alias, create)
            try:
                if snapshot.template:
                    self._restore_schema(snapshot)
                else:
                    self._restore_database(snapshot, create)
            except CopyError as error:
                self._reject_snapshot(path, listing(error.reasons))
                continue
            self._log_action(f"Using the snapshot {path}", verbosity)
            return self._finish_reuse(serialize=serialize)
        return None

    def _restore_schema(self, snapshot: "Snapshot") -> None:
        schema = self._databases.restore(self._alias, snapshot)
        self._isolate_advisory_locks(schema)
        self._databases.plan(self._alias)

    def _restore_database(self, snapshot: "Snapshot", create: Callable[[], object]) -> None:
        test_databases, alias = self._databases, self._alias
        test_databases.host_database(alias).restore_database(snapshot, create)
        test_databases.log(snapshot.extra["why"])
        self._check_backend_sets_path()
        test_databases.use_clones(alias)
        self._prepare_clone_source(snapshot.extra)

    def _create_as_stock(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        return str(super()._create_test_db(verbosity, autoclobber, keepdb))  # type: ignore[misc]

    def _recording(self) -> "AbstractContextManager[Recording | None]":
        """Return a context that records the dependencies of a build that the run may keep."""
        if self._fingerprint is None:
            return nullcontext()
        from ..fingerprint import Recording

        return Recording(self.runner_settings)

    def _keep_template(self, recording: "Recording | None") -> None:
        """Create the template, and write the snapshot."""
        self._plan_copies(self._facts(recording), self._since)
        self._keep_snapshot()

    def _facts(self, recording: "Recording | None") -> dict[str, Any]:
        """Return the dependencies and fingerprint parts that later runs compare."""
        return {
            "dependencies": self._build_dependencies(recording),
            "parts": comparable_parts(self._parts),
        }

    def _build_dependencies(self, recording: "Recording | None") -> dict[str, str]:
        """Return the recorded dependencies of the build."""
        if recording and self._current_parts() != self._parts:
            # Files changed during the build, so its fingerprint is unknown.
            return {EDITED: ""}
        return recording.dependencies() if recording else {}

    def _keep_for_clones(self, reason: str, recording: "Recording | None") -> None:
        """Prepare the host database for cloning, by this run and later ones."""
        extra = {**self._facts(recording), "why": self._clones_message(reason)}
        self._keep_snapshot(cloned=extra)
        self._prepare_clone_source(extra)

    def _prepare_clone_source(self, extra: Mapping[str, Any]) -> None:
        self._switch_to(None)
        self._databases.host_database(self._alias).prepare_clones(extra)
        self._use_clone_without_workers()

    def _use_clone_without_workers(self) -> None:
        """Without --parallel, use a clone if the host database is kept."""
        test_databases = self._databases
        if test_databases.workers == 1 and test_databases.is_kept_for_clones(self._alias):
            self._clone(1, verbosity=0)

    def _clone(self, worker: int, verbosity: int) -> None:
        raise NotImplementedError

    def _log_reuse(self, what: str, verbosity: int) -> None:
        # An age, not a time of day: TIME_ZONE need not be the user's time zone.
        age = self._now - self._databases.host(self._alias).pool_created_at
        self._log_action(f"Using the {what} from {ago(age)}", verbosity)
        self._is_reused = True

    def _log_rebuild(self, verbosity: int) -> None:
        """Log why no pool or snapshot is used, if the run keeps one."""
        if verbosity < 1 or not self._serves_other_runs:
            return
        if self._fingerprint is None:
            self.log('Building anew: STRATEGY "migrate" reuses nothing.')
            return
        reason = rebuild_reason(
            self._nearest,
            fingerprint=self._fingerprint,
            parts=self._parts,
            days=self.runner_settings.keep_days,
            now=self._now,
        )
        self.log(f"Building anew: {reason}.")

    def _log_action(self, what: str, verbosity: int) -> None:
        """Log an action on the alias's database in stock Django's form."""
        if verbosity >= 1:
            name = self._get_test_db_name()
            display = self._get_database_display_str(verbosity, name)  # type: ignore[attr-defined]
            self.log(f"{what} for alias {display}...")

    def _finish_reuse(self, *, serialize: bool) -> str:
        """Do the rest of stock Django's `create_test_db`, after a build was skipped."""
        import_management()
        self._switch_to(1)
        if not self._databases.is_cloned(self._alias):
            self._verify_search_path()
        self._send_post_migrate()
        assert self._location is not None
        name = self._location.database
        settings.DATABASES[self._alias]["NAME"] = name
        if serialize:
            contents = self.serialize_db_to_string()
            self.connection._test_serialized_contents = contents  # type: ignore[attr-defined]
        self.connection.ensure_connection()
        if os.environ.get("RUNNING_DJANGOS_TEST_SUITE") == "true":
            self.mark_expected_failures_and_skips()
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
