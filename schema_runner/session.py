"""The test databases of a process, from their set-up to their end."""

import gc
import os
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack

from django.db import connections

from .connections import disconnect, project_databases, refuse_unsafe_mirrors
from .database.context import RunContext
from .database.creation import WorkerCreation
from .database.patching import migrations_disabled, patch_backends
from .database.test_database import TestDatabase
from .database.usage import Usage
from .errors import count, set_advice
from .postgres import locks
from .postgres.lease import LeaseWatcher
from .search_path import programs
from .workers.current import set_up_worker


class Session:
    """The test databases of a process that is no descendant of another session's.

    A front end calls `begin`, Django's `setup_databases`, `ready` if it runs tests in this
    process, Django's `teardown_databases`, and `end`.

    `databases`: the open test databases, by alias.
    """

    def __init__(self, context: RunContext) -> None:
        self.databases: dict[str, TestDatabase] = {}
        self._context = context._replace(
            project_databases=project_databases(), process=os.getpid(), usage=Usage()
        )
        self._patches = ExitStack()

    @property
    def usage(self) -> Usage:
        """What the session has used."""
        return self._context.usage

    def begin(self, aliases: Collection[str] | None = None) -> None:
        """Patch the database backends, so that Django's `setup_databases` creates schemas.

        `aliases`: those that the tests use; None for all. Raises SchemaRunnerError if tests would
        use the project's own database.
        """
        refuse_unsafe_mirrors(aliases)
        settings = self._context.settings
        self._patches = patch_backends(self._context, self.databases)
        if self._context.workers > 1:
            # What has been imported by now stays. A collection would visit all of it, and forked
            # workers would copy the pages that it marks.
            gc.freeze()
            self._patches.callback(gc.unfreeze)
        lock_wait = locks.LockWait(settings.lock_timeout, self._context.log)
        self._patches.callback(locks.set_lock_wait, locks.set_lock_wait(lock_wait))
        self._patches.callback(set_advice, set_advice(self._context.advice))
        self._patches.callback(self._close_databases)
        if not self._context.runs_migrations:
            self._patches.enter_context(migrations_disabled())

    def ready(self) -> None:
        """Let this process run tests: set up its environment, and call WORKER_SETUP."""
        programs.export()
        set_up_worker(self._context.settings)

    def watch(self) -> LeaseWatcher:
        """Return a check that the session still holds its leases."""
        databases = self.databases
        return LeaseWatcher(lambda: [each.host for each in databases.values() if each.is_created])

    def clear_pools(self, aliases: Collection[str] | None = None) -> str:
        """Remove the pools of these aliases, or of all if None; return a line for the log."""
        from .database.build import host_request
        from .postgres import removal

        cleared = Counter[str]()
        for alias in connections:
            creation = connections[alias].creation
            if isinstance(creation, WorkerCreation) and (aliases is None or alias in aliases):
                request = host_request(creation.test_database)
                if self._context.settings.is_current:
                    cleared += removal.clear_schemas(request)
                else:
                    cleared += removal.clear_databases(request)
        parts = [count(cleared[what], what) for what in ("schema", "database") if cleared[what]]
        sentences = []
        if parts or cleared["pool"]:
            inner = f" ({', '.join(parts)})" if parts else ""
            sentences.append(f"Removed {count(cleared['pool'], 'pool')}{inner}.")
        if cleared["pool in use"]:
            sentences.append(f"Kept {count(cleared['pool in use'], 'pool')} that other runs use.")
        return " ".join(sentences) or "There are no pools to remove."

    def end(self) -> None:
        """Release the databases that are still open, and restore the database backends."""
        with self._patches:
            disconnect()

    def _close_databases(self) -> None:
        for alias, database in list(self.databases.items()):
            del self.databases[alias]
            database.close()
