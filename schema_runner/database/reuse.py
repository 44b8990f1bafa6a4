"""What runs keep for each other, and how they know that it still holds."""

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
    from ..postgres.database_snapshot import DatabaseSnapshot
    from ..postgres.pool import Wanted
    from ..postgres.snapshot import Snapshot
else:
    Base = object


class ReuseMixin(SnapshotsMixin, Base):
    """The part of `SchemaCreation` that uses what an earlier run has kept, and keeps it."""

    _server_facts: Sequence[str] = ()
    # What `reference.load` has returned.
    _since: int | None = None
    # Whether tests use what an earlier run has kept.
    _is_reused = False

    def _want(self, connection: Connection) -> "Wanted | None":
        """Return which kept schemas the run can use; None if it uses none."""
        if not self._serves_other_runs or self.runner_settings.strategy != "template":
            return None
        from ..fingerprint.fingerprint import server_facts

        self._server_facts = server_facts(connection)
        from ..fingerprint import combined

        self._parts = self._current_parts()
        self._fingerprint = combined(self._parts)
        if not self._databases.keeps:
            return None
        from ..postgres.pool import Wanted

        return Wanted(
            fingerprint=self._fingerprint,
            is_unchanged=is_unchanged,
            now=self._now,
            oldest=self._oldest,
            others=self.runner_settings.keep_pools - 1,
            pass_over=self._note_unusable,
        )

    def _current_parts(self) -> dict[str, str]:
        from ..fingerprint import parts

        chosen = self.runner_settings
        shims = f"advisory locks {chosen.isolate_advisory_locks}"
        return parts(
            self._alias,
            runner_settings=chosen,
            facts=[*self._server_facts, shims],
            options=project_options(self.connection.settings_dict),
        )

    def _use_kept(self, verbosity: int, *, serialize: bool) -> str | None:
        """Do what stock Django's `create_test_db` does, where a pool has all that it makes."""
        if self._fingerprint is None:
            return None
        from ..postgres.structure_script import CopyError

        test_databases, alias = self._databases, self._alias
        if test_databases.is_kept_for_clones(alias):
            self._log_reuse("database", verbosity)
            test_databases.log(
                test_databases.host_database(alias).why_clones
                or self._clones_message("a schema cannot be copied, as an earlier run has found.")
            )
            self._check_backend_sets_path()
            self._use_clone_without_workers()
            return self._finish_reuse(serialize=serialize)
        try:
            if not test_databases.lease_from_pool(alias):
                return None
        except CopyError as error:
            raise SchemaRunnerError(
                f"What is kept for alias '{alias}' cannot be copied any more, because of "
                f"{listing(error.reasons)}. Run once with --clear-pools, which removes it."
            ) from error
        self._log_reuse("schemas", verbosity)
        self._keep_snapshot(only_first=True)
        return self._finish_reuse(serialize=serialize)

    def _use_snapshot(self, verbosity: int, autoclobber: bool, *, serialize: bool) -> str | None:
        """Do the same where a snapshot has all."""
        if self._snapshot_dir is None:
            return None
        from ..postgres.snapshot import Snapshot, SnapshotError
        from ..postgres.structure_script import CopyError

        def create() -> None:
            self._create_as_stock(verbosity, autoclobber)

        for path, snapshot in self._snapshots():
            self._databases.claim(self._alias, create)
            try:
                if isinstance(snapshot, Snapshot):
                    self._restore_schema(snapshot)
                else:
                    self._restore_database(snapshot, create)
            except CopyError as error:
                self._reject_snapshot(path, listing(error.reasons))
                continue
            except SnapshotError as error:
                self._reject_snapshot(path, error)
                continue
            self._log_action(f"Using the snapshot {path}", verbosity)
            return self._finish_reuse(serialize=serialize)
        return None

    def _restore_schema(self, snapshot: "Snapshot") -> None:
        schema = self._databases.restore(self._alias, snapshot)
        self._isolate_advisory_locks(schema)
        self._databases.plan(self._alias)

    def _restore_database(
        self, snapshot: "DatabaseSnapshot", create: Callable[[], object]
    ) -> None:
        test_databases, alias = self._databases, self._alias
        test_databases.host_database(alias).fill(snapshot, create)
        test_databases.log(snapshot.extra["why"])
        self._check_backend_sets_path()
        test_databases.use_clones(alias)
        self._prepare_clone_source(snapshot.extra)

    def _create_as_stock(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        return str(super()._create_test_db(verbosity, autoclobber, keepdb))  # type: ignore[misc]

    def _recording(self) -> "AbstractContextManager[Recording | None]":
        """Record what the build in the body of the `with` depends on, if anybody is to know."""
        if self._fingerprint is None:
            return nullcontext()
        from ..fingerprint import Recording

        return Recording(self.runner_settings)

    def _keep_template(self, recording: "Recording | None") -> None:
        """Make the template, also for other runs if nothing has been edited in the meantime."""
        self._plan_copies(self._facts(recording), self._since)
        self._keep_snapshot()

    def _facts(self, recording: "Recording | None") -> dict[str, Any]:
        """Return what later runs compare with theirs."""
        return {
            "dependencies": self._build_dependencies(recording),
            "parts": comparable_parts(self._parts),
        }

    def _build_dependencies(self, recording: "Recording | None") -> dict[str, str]:
        """Return what the build has depended on."""
        if recording and self._current_parts() != self._parts:
            # Nobody could say which of the two fingerprints it is of.
            return {EDITED: ""}
        return recording.dependencies() if recording else {}

    def _keep_for_clones(self, why: str, recording: "Recording | None") -> None:
        """Leave the host database to be cloned, also by other runs."""
        extra = {**self._facts(recording), "why": self._clones_message(why)}
        self._keep_snapshot(cloned=extra)
        self._prepare_clone_source(extra)

    def _prepare_clone_source(self, extra: Mapping[str, Any]) -> None:
        self._switch_to(None)
        self._databases.host_database(self._alias).prepare_clones(extra)
        self._use_clone_without_workers()

    def _use_clone_without_workers(self) -> None:
        """Use a clone without --parallel too, so that a kept database stays as it was built."""
        test_databases = self._databases
        if test_databases.workers == 1 and test_databases.is_kept_for_clones(self._alias):
            self._clone(1, verbosity=0)

    def _clone(self, worker: int, verbosity: int) -> None:
        raise NotImplementedError

    def _log_reuse(self, what: str, verbosity: int) -> None:
        # Not a time of day: that of TIME_ZONE need not be the user's.
        age = self._now - self._databases.host(self._alias).made
        self._log_action(f"Using the {what} of {ago(age)}", verbosity)
        self._is_reused = True

    def _log_rebuild(self, verbosity: int) -> None:
        """Say why nothing that is kept is used, where that was asked for."""
        if verbosity < 1 or not self._serves_other_runs:
            return
        if self._fingerprint is None:
            self.log('Building anew: with STRATEGY "migrate" nothing is used again.')
            return
        why = rebuild_reason(
            self._nearest,
            fingerprint=self._fingerprint,
            parts=self._parts,
            days=self.runner_settings.keep_days,
            now=self._now,
        )
        self.log(f"Building anew: {why}.")

    def _log_action(self, what: str, verbosity: int) -> None:
        """Say what is done about the alias, as stock Django says it."""
        if verbosity >= 1:
            name = self._get_test_db_name()
            display = self._get_database_display_str(verbosity, name)  # type: ignore[attr-defined]
            self.log(f"{what} for alias {display}...")

    def _finish_reuse(self, *, serialize: bool) -> str:
        """Use a schema that has been made without stock Django, and do the rest as that does."""
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
            post_migrate.send_for_memory(self._alias)
        except Exception as error:
            # It has not failed where the tables were empty, as they are for stock Django.
            self._log(
                f"Warning: a handler of post_migrate has failed with what is kept for alias "
                f"'{self._alias}', so what handlers make in memory may be missing: {error!r}"
            )
