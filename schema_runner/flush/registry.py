"""The resets of a database alias, which replace Django's flushes."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import connections
from django.test import TestCase, TransactionTestCase

from ..alias_connection import AliasConnection
from ..clock import Clock
from ..connections import abandon_transactions, fresh_sessions
from ..errors import SchemaRunnerError
from ..settings import Settings
from .hooks import Flush

if TYPE_CHECKING:
    from .resetter import Resetter


class AliasResets:
    """The resets of one alias, in a process that runs tests.

    `count`, `seconds`: how many resets there were, and their total time.
    `is_suspended`: whether flushes stay Django's own, whatever the settings are.
    """

    def __init__(
        self, connection: AliasConnection, settings: Settings, log: Callable[[str], None]
    ) -> None:
        self.count = 0
        self.seconds = 0.0
        self.is_suspended = False
        self._connection = connection
        self._settings = settings
        self._log = log
        # By the name of the database: classes may have one of their own.
        self._resetters: dict[str, Resetter] = {}

    @property
    def resetter(self) -> "Resetter | None":
        """The resetter of the tables that this alias uses; None if flushes stay Django's own."""
        connection, locations = self._connection, self._connection.locations
        if self._settings.reset == "django" or locations is None or self.is_suspended:
            return None
        if not connection.is_primary:
            primary = resets_of(locations.alias)
            return primary.resetter if primary else None
        location, worker, run = locations.location, locations.worker, locations.run
        if location is None or worker is None or run is None or locations.backend_sets_path:
            return None
        resetter = self._resetters.get(location.database)
        if resetter is None or resetter.location != location:
            if not location.path and connection.current_schema() != location.schema:
                # Only Django's own flush follows a search_path of the project.
                return None
            self.close(location.database)
            from .reset_connection import ResetConnection
            from .resetter import Resetter

            resetter = self._resetters[location.database] = Resetter(
                location=location,
                run=run,
                worker=worker,
                restores_all=self._settings.reset == "reference",
                connection=ResetConnection(lambda: connection.server().connect(location.database)),
                log=self._log,
            )
        return resetter

    @property
    def _active(self) -> "Resetter | None":
        """The resetter of the current database, if it has been needed."""
        location = self._connection.location
        return self._resetters.get(location.database) if location else None

    def prepare_for(self, test_class: type) -> None:
        """Before a class is set up, replace an altered schema or repeat a failed reset.

        If tests of the class may commit, record the state that resets restore.
        """
        commits = issubclass(test_class, TransactionTestCase) and not issubclass(
            test_class, TestCase
        )
        if self._active is None and not commits:
            return  # No test has committed yet.
        locations = self._connection.locations
        if locations is None or not self._connection.is_primary:
            return
        resetter = self.resetter
        if resetter is None:
            return
        source = locations.source
        is_renewable = bool(resetter.location.path and source and source.template)
        if is_renewable:

            def renew() -> None:
                assert source is not None
                self._connection.wrapper.close()
                source.recreate(resetter.location.schema)

            resetter.renew_if_altered(renew)
        resetter.retry_failed()
        if commits:
            resetter.record_initial_state(watches_structure=is_renewable)

    def prepare_sequence_reset(self) -> set[str]:
        """Record that Django is about to reset sequences; return the tables that have rows."""
        resetter = self.resetter
        if resetter is None:
            return set()
        resetter.sequences_were_reset = True
        return resetter.kept_tables()

    def has_restored_all(self) -> bool:
        """Whether the last reset has restored the rows for `serialized_rollback` as well."""
        return self.resetter is not None and self.resetter.has_restored_all

    def reset(self, request: Flush) -> None:
        """Reset the tables in place of a flush."""
        resetter = self.resetter
        assert resetter is not None
        started = Clock.perf_counter()
        # Transactions and session settings that the test has left would interfere.
        abandon_transactions()
        with fresh_sessions():
            resetter.reset(request)
        self.count += 1
        self.seconds += Clock.perf_counter() - started

    def disconnect(self, database: str) -> None:
        """Close the connection that resets in a database use, until the next one."""
        if database in self._resetters:
            self._resetters[database].connection.close()

    def discard(self, database: str) -> None:
        """Forget a database, which is dropped with all that resets have created in it."""
        self.disconnect(database)
        self._resetters.pop(database, None)

    def close(self, *databases: str) -> None:
        """Remove what resets have created in these databases, or in all of them."""
        for database in databases or list(self._resetters):
            if (resetter := self._resetters.pop(database, None)) is not None:
                # This run drops remaining scratch schemas in tear-down, or the next run does.
                with suppress(psycopg.Error, SchemaRunnerError):
                    resetter.close()

    def forget(self) -> None:
        """Forget the state of the parent process."""
        self._resetters.clear()


def resets_of(alias: str) -> AliasResets | None:
    """Return the resets of an alias; None if it is not PostgreSQL's, or during a nested run."""
    creation: Any = connections[alias].creation
    # Not the instance: its class may have been changed for a nested run.
    has_resets = hasattr(type(creation), "worker_database")
    return creation.worker_database.resets if has_resets else None


def get_reset(alias: str) -> Callable[[Flush], None] | None:
    """Return the reset of an alias; None if its flushes stay Django's own."""
    resets = resets_of(alias)
    return resets.reset if resets and resets.resetter else None
