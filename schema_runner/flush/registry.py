"""A mixin for Django's creation class that resets an alias's tables instead of flushing them."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from django.db import connections
from django.test import TestCase, TransactionTestCase

from ..connections import abandon_transactions, fresh_sessions
from ..errors import SchemaRunnerError
from ..search_path import Locations
from .hooks import Flush

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation

    from ..postgres.server import Server
    from ..settings import Settings
    from .resetter import Resetter

    class Base(DatabaseCreation):
        """Members that Django and the other mixins provide."""

        runner_settings: ClassVar[Settings]
        _alias: str
        _is_current: bool
        _backend_sets_path: bool

        def _server(self, excluded: Collection[str] = ()) -> Server: ...
        def _current_schema(self) -> str | None: ...
        def _log(self, text: str) -> None: ...

else:
    Base = object


class ResettingCreation(Base):
    """Mixin for a backend's creation class, in a process that runs tests."""

    _resetter: "Resetter | None" = None
    reset_count = 0
    reset_time = 0.0  # Seconds.

    @property
    def resetter(self) -> "Resetter | None":
        """The resetter of the tables that this alias uses; None if flushes stay Django's own."""
        locations = Locations.of(self.connection.settings_dict)
        if self.runner_settings.reset == "django" or locations is None:
            return None
        if locations.alias != self._alias:
            primary: Any = connections[locations.alias].creation
            return primary.resetter if isinstance(primary, ResettingCreation) else None
        location, worker, run = locations.location, locations.worker, locations.run
        if location is None or worker is None or run is None or self._backend_sets_path:
            return None
        if self._resetter is None or self._resetter.location != location:
            if not location.path and self._current_schema() != location.schema:
                # Only Django's own flush follows a search_path of the project.
                return None
            self.close_resetter()
            from .reset_connection import ResetConnection
            from .resetter import Resetter

            self._resetter = Resetter(
                location=location,
                run=run,
                worker=worker,
                restores_all=self.runner_settings.reset == "reference",
                connection=ResetConnection(lambda: self._server().connect(location.database)),
                log=self._log,
            )
        return self._resetter

    def prepare_for(self, test_class: type) -> None:
        """Before a class is set up, repeat a failed reset and replace an altered schema.

        If tests of the class may commit, record the state that resets restore.
        """
        commits = issubclass(test_class, TransactionTestCase) and not issubclass(
            test_class, TestCase
        )
        if self._resetter is None and not commits:
            return  # No test has committed yet.
        locations, resetter = Locations.of(self.connection.settings_dict), self.resetter
        if locations is None or locations.alias != self._alias or resetter is None:
            return
        resetter.retry_failed()
        source = locations.source
        is_renewable = bool(resetter.location.path and source and source.template)
        if is_renewable:

            def renew() -> None:
                assert source is not None
                self.connection.close()
                source.recreate(resetter.location.schema)

            resetter.renew_if_altered(renew)
        if commits:
            resetter.record_initial_state(watches_structure=is_renewable)

    def prepare_sequence_reset(self) -> set[str]:
        """Record that Django is about to reset sequences; return the tables that have rows."""
        resetter = self.resetter
        if resetter is None:
            return set()
        resetter.sequences_were_reset = True
        return resetter.kept_tables()

    def deserialize_db_from_string(self, data: str) -> None:
        """Load the rows for `serialized_rollback`, unless a reset has restored them."""
        is_rollback = data is getattr(self.connection, "_test_serialized_contents", None)
        if not (is_rollback and self.resetter and self.resetter.has_restored_all):
            super().deserialize_db_from_string(data)

    def destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        self.close_resetter()
        super().destroy_test_db(*args, **kwargs)

    def close_resetter(self) -> None:
        if self._resetter is not None:
            # This run drops the remaining scratch schemas in tear-down, or the next run does.
            with suppress(psycopg.Error, SchemaRunnerError):
                self._resetter.close()
            self._resetter = None

    def log_restored_search_path(self, by: str) -> None:
        """Log that the runner has restored the search_path of a connection that `by` changed."""
        if self._is_current:
            self._log(f"{by} changed the search_path of a connection. The runner has restored it.")


def get_reset(alias: str) -> Callable[[Flush], None] | None:
    """Return the reset of an alias; None if its flushes stay Django's own."""
    creation = connections[alias].creation
    if not isinstance(creation, ResettingCreation):
        return None
    resetter = creation.resetter
    if resetter is None:
        return None

    def reset(request: Flush) -> None:
        started = time.perf_counter()
        # Transactions and session settings that the test has left would interfere.
        abandon_transactions()
        with fresh_sessions():
            resetter.reset(request)
        creation.reset_count += 1
        creation.reset_time += time.perf_counter() - started

    return reset
