"""Resets in place of flushes, for the database of an alias: Django's creation class, continued."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from django.db import connections
from django.test import TestCase, TransactionTestCase

from ..connections import fresh_sessions, leave_transactions
from ..errors import SchemaRunnerError
from ..search_path import Locations
from .hooks import Flush

if TYPE_CHECKING:
    from django.db.backends.postgresql.creation import DatabaseCreation

    from ..postgres.server import Server
    from ..settings import Settings
    from .resetter import Resetter

    class Base(DatabaseCreation):
        """What the creation classes with this mixin have."""

        runner_settings: ClassVar[Settings]
        _alias: str
        _is_current: bool
        _backend_sets_path: bool

        def _server(self, left_out: Collection[str] = ()) -> Server: ...
        def _current_schema(self) -> str | None: ...
        def _log(self, text: str) -> None: ...

else:
    Base = object


class ResettingCreation(Base):
    """`SchemaCreation` in a process that runs tests: it resets what they have committed."""

    _resets: "Resetter | None" = None
    # How many there have been, and how many seconds they have taken.
    resets_done = 0
    reset_time = 0.0

    @property
    def resets(self) -> "Resetter | None":
        """The resets of the tables that this alias uses; None where a flush stays a flush."""
        locations = Locations.of(self.connection.settings_dict)
        if self.runner_settings.reset == "django" or locations is None:
            return None
        if locations.alias != self._alias:
            primary: Any = connections[locations.alias].creation
            return primary.resets if isinstance(primary, ResettingCreation) else None
        location, worker, run = locations.location, locations.worker, locations.run
        if location is None or worker is None or run is None or self._backend_sets_path:
            return None
        if self._resets is None or self._resets.location != location:
            if not location.path and self._current_schema() != location.schema:
                # A search_path of the project's, which only Django's own flush follows.
                return None
            self.close_resets()
            from .reset_connection import ResetConnection
            from .resetter import Resetter

            self._resets = Resetter(
                location=location,
                run=run,
                worker=worker,
                keeps_all=self.runner_settings.reset == "reference",
                connection=ResetConnection(lambda: self._server().connect(location.database)),
                say=self._log,
            )
        return self._resets

    def prepare_for(self, test_class: type) -> None:
        """Make sure, before a class is set up, that its tests find the structure they should."""
        commits = issubclass(test_class, TransactionTestCase) and not issubclass(
            test_class, TestCase
        )
        if self._resets is None and not commits:
            # No test has committed yet.
            return
        locations, resets = Locations.of(self.connection.settings_dict), self.resets
        if locations is None or locations.alias != self._alias or resets is None:
            return
        resets.finish()
        source = locations.source
        is_renewable = bool(resets.location.path and source and source.template)
        if is_renewable:

            def renew() -> None:
                assert source is not None
                self.connection.close()
                source.recreate(resets.location.schema)

            resets.renew_if_altered(renew)
        if commits:
            resets.begin(watches=is_renewable)

    def note_set_sequences(self) -> set[str]:
        """Note that sequences are about to be set back; return the tables that have rows."""
        resets = self.resets
        if resets is None:
            return set()
        resets.has_set_sequences = True
        return resets.kept_tables()

    def deserialize_db_from_string(self, data: str) -> None:
        """Load what stock Django loads before each test, unless a reset has left it there."""
        is_stock_s = data is getattr(self.connection, "_test_serialized_contents", None)
        if not (is_stock_s and self.resets and self.resets.has_restored):
            super().deserialize_db_from_string(data)

    def destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        self.close_resets()
        super().destroy_test_db(*args, **kwargs)

    def close_resets(self) -> None:
        if self._resets is not None:
            # What cannot be dropped now the run drops, or the next one.
            with suppress(psycopg.Error, SchemaRunnerError):
                self._resets.close()
            self._resets = None

    def note_search_path(self, by: str) -> None:
        """Note that tests have left a connection of this alias elsewhere, which is mended."""
        if self._is_current:
            self._log(
                f"{by} left the search_path of a connection at what is not the worker's: it has "
                f"been set back."
            )


def reset_of(alias: str) -> Callable[[Flush], None] | None:
    """Return what stands in for a flush of an alias; None where nothing does."""
    creation = connections[alias].creation
    if not isinstance(creation, ResettingCreation):
        return None
    resets = creation.resets
    if resets is None:
        return None

    def reset(request: Flush) -> None:
        # What a test has left open in this thread would be in the way, and its settings too.
        begun = time.perf_counter()
        leave_transactions()
        with fresh_sessions():
            resets.do(request)
        creation.resets_done += 1
        creation.reset_time += time.perf_counter() - begun

    return reset
