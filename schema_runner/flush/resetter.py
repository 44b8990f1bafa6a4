"""Reset one worker's schema, or clone database, after tests that commit."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import psycopg
from psycopg import errors

from ..errors import SchemaRunnerError
from ..postgres import lock_waits, rows, schemas, sessions, structure
from ..postgres.names import Marker, MarkerState
from ..postgres.reset import changes
from ..postgres.reset.reset import Reset
from ..postgres.reset.triggers import row_security_disabled
from ..postgres.row_copies import Copies, WantedRows
from ..postgres.sequences import advance, restart
from ..postgres.server import Connection
from ..postgres.template import Template
from ..search_path import Location
from . import post_migrate
from .hooks import Flush
from .post_migrate import DJANGO_TABLES, SentSignal, reuse_keys
from .reset_connection import ResetConnection

# Tables to drop in one transaction: few enough for the smallest lock table of a server.
_TABLES_PER_DROP = 20


class HandlerRows(NamedTuple):
    """The rows that the first calls of Django's own post_migrate handlers create.

    `cacheable_calls`: the number of these calls.
    `rows`: all rows to restore before a test, by table; None until they have been copied.
    `sends_signal`: whether the signal is sent too, for later calls and for other handlers.
    """

    cacheable_calls: int
    rows: Mapping[str, WantedRows] | None = None
    sends_signal: bool = True


@dataclass(slots=True)
class Resetter:
    """Resets the tables at a location.

    `location`: the worker's schema or database.
    `run`: the number of the run.
    `worker`: the number of the worker.
    `restores_all`: restore the state before any test (RESET = "reference"). Otherwise leave the
    state that stock Django's flush leaves, plus the rows of FIXTURES and SEEDERS.
    `connection`: the connection to reset with.
    `log`: prints a line for the user.
    """

    location: Location
    run: int
    worker: int
    restores_all: bool
    connection: ResetConnection
    log: Callable[[str], None]

    # Whether Django's `reset_sequences` has set sequences since the last reset.
    sequences_were_reset: bool = False
    # Whether a reset has restored the state before any test.
    has_restored_all: bool = False
    _schema_reset: Reset = field(init=False)
    _template: Template | None = None
    # The rows before any test; at least those of DJANGO_TABLES.
    _initial_rows: Copies | None = None
    # By alias, scope and handler inputs.
    _handler_rows: dict[object, HandlerRows] = field(default_factory=dict)
    _scratch_schemas: list[str] = field(default_factory=list)
    _structure_version: structure.Version | None = None
    # Whether post_migrate handlers may alter the structure; from the last signal, if any.
    _handlers_alter_structure: bool = True
    # The flush whose reset has failed.
    _failed_flush: Flush | None = None
    # The last reset, until `renew_if_altered` has checked the structure.
    _last_reset: Callable[[Connection], None] | None = None

    def __post_init__(self) -> None:
        self._schema_reset = Reset(self.location.schema, self.location.path[1:])

    def reset(self, request: Flush) -> None:
        """Reset the tables that a test has changed.

        Raises SchemaRunnerError if another session's locks or altered tables prevent it.
        """
        self._failed_flush = request
        try:
            with self._naming_lock_holders():
                self._reset_tables(request)
        except (psycopg.ProgrammingError, psycopg.IntegrityError, psycopg.DataError) as error:
            raise SchemaRunnerError(
                f"Schema {self.location.schema} cannot be reset: {error.diag.message_primary}. If "
                f"a test alters a table whose rows a reset restores, it must undo that."
            ) from error
        self._failed_flush = None
        self.connection.release()

    def retry_failed(self) -> None:
        """Repeat a reset that failed, so that the next class does not see its rows."""
        if self._failed_flush is not None:
            self.reset(self._failed_flush)

    @contextmanager
    def _naming_lock_holders(self) -> Iterator[None]:
        """Turn a lock timeout into a SchemaRunnerError that names the holder of the lock."""
        try:
            yield
        except errors.LockNotAvailable as error:
            # Get the connection again: a temporary one may have been replaced.
            raise lock_waits.schema_in_use_error(
                self.connection.get(), self.location.schema, "reset"
            ) from error

    def _reset_tables(self, request: Flush) -> None:
        connection, schema = self.connection.get(), self.location.schema
        for leftover in sessions.end_open_transactions(connection, schema, self.run, self.worker):
            self.log(f"{request.test_id} left {leftover}")
        is_unaltered = (
            request.sends_post_migrate
            and self._handlers_alter_structure
            and self._structure_version is not None
            and structure.version(connection, schema) == self._structure_version
        )
        self._last_reset = partial(self._restore if self.restores_all else self._flush, request)
        self._last_reset(connection)
        if is_unaltered and self._handlers_alter_structure:
            # Handlers, not tests, have altered the structure.
            self._structure_version = structure.version(self.connection.get(), schema)

    def kept_tables(self) -> set[str]:
        """Return the names of the tables that are known to have rows before each test."""
        kept = set(self._rows_to_keep(self.connection.get()))
        for recorded in self._handler_rows.values():
            kept |= DJANGO_TABLES if recorded.rows is None else recorded.rows.keys()
        return kept

    def record_initial_state(self, *, watches_structure: bool) -> None:
        """Record the rows, if resets need them, before a test can commit.

        With `watches_structure`, record the structure for `renew_if_altered` too.
        """
        with self._naming_lock_holders():
            if watches_structure and self._structure_version is None:
                connection = self.connection.get()
                self._structure_version = structure.version(connection, self.location.schema)
            if self._initial_rows is None and not self.restores_all:
                connection = self.connection.get()
                template = self._get_template(connection)
                self._initial_rows = (
                    template.copies
                    if template
                    else self._copy_to_scratch(connection, DJANGO_TABLES)
                )
        self.connection.release()

    def renew_if_altered(self, renew: Callable[[], None]) -> None:
        """Call `renew` to replace the schema if tests have altered its structure."""
        if self._last_reset is None or self._structure_version is None:
            return
        schema = self.location.schema
        if structure.version(self.connection.get(), schema) != self._structure_version:
            renew()
            self._schema_reset.forget()
            with self._naming_lock_holders():
                self._last_reset(self.connection.get())
            self._structure_version = structure.version(self.connection.get(), schema)
            self._failed_flush = None
        self._last_reset = None
        self.connection.release()

    def close(self) -> None:
        """Drop the scratch schemas and close the connection."""
        try:
            for scratch in self._scratch_schemas:
                schemas.drop(self.connection.get(), scratch, self.run, batch=_TABLES_PER_DROP)
        finally:
            self._scratch_schemas.clear()
            self.connection.close()

    def _restore(self, request: Flush, connection: Connection) -> None:
        self._restore_all(connection)
        if request.sends_post_migrate and self._send(request.alias, range(0)).called_others:
            # These handlers may have created rows.
            self._restore_all(self.connection.get())

    def _restore_all(self, connection: Connection) -> None:
        template = self._get_template(connection)
        assert template is not None, 'RESET = "reference" requires a template'
        self._schema_reset.restore(
            connection, template, sequences_exactly=self.sequences_were_reset
        )
        self.sequences_were_reset, self.has_restored_all = False, True
        post_migrate.clear_model_caches()

    def _flush(self, request: Flush, connection: Connection) -> None:
        """Leave the state that Django's flush leaves."""
        if not request.sends_post_migrate or self.connection.is_temporary:
            self._clear(connection, request, self._rows_to_keep(connection))
            if request.sends_post_migrate:
                self._send(request.alias)
            return
        key = (request.alias, request.scope, post_migrate.handler_inputs())
        previous = recorded = self._handler_rows.get(key)
        if recorded is None or recorded.rows is None:
            recorded = self._handler_rows[key] = self._record_handler_rows(
                connection, request, recorded
            )
        else:
            self._clear(connection, request, recorded.rows)
            post_migrate.clear_model_caches()
        if self.sequences_were_reset:
            # Django set them before the test, when the rows restored now may have been missing.
            advance(connection.cursor(), self.location.schema, unused=True)
            self.sequences_were_reset = False
        if previous is not None and recorded.sends_signal:
            sent = self._send(
                request.alias, range(recorded.cacheable_calls, post_migrate.ALL_CALLS)
            )
            if sent.cacheable_calls < recorded.cacheable_calls:
                self._handler_rows[key] = HandlerRows(sent.cacheable_calls)

    def _clear(
        self, connection: Connection, request: Flush, kept: Mapping[str, WantedRows]
    ) -> None:
        self._schema_reset.clear(connection, request.scope, kept)
        self._restart_sequences(connection, request)

    def _restart_sequences(self, connection: Connection, request: Flush) -> None:
        if request.restarts_sequences:
            cleared, _ = self._schema_reset.list_tables(connection, request.scope)
            restart(connection, self.location.schema, cleared | (request.scope.names or set()))

    def _record_handler_rows(
        self, connection: Connection, request: Flush, previous: HandlerRows | None
    ) -> HandlerRows:
        """Clear the tables, send post_migrate, and copy the rows of Django's own handlers.

        The first time (`previous` is None), call all handlers, to find out how many calls of
        Django's own come before another handler's SQL names their tables.
        """
        schema, scratch = self.location.schema, self._new_scratch_schema(connection)
        cacheable_calls = post_migrate.ALL_CALLS if previous is None else previous.cacheable_calls
        initial = self._initial_rows.rows if self._initial_rows else {}
        copies = [rows for name, rows in initial.items() if name in DJANGO_TABLES]
        self._clear(connection, request, self._rows_to_keep(connection))
        with reuse_keys(connection, schema, scratch, copies):
            first_transaction = changes.current_transaction(connection.cursor())
            sent = self._send(request.alias, range(cacheable_calls), others=previous is None)
        self._restart_sequences(connection, request)
        if sent.called_others:
            return HandlerRows(sent.cacheable_calls)
        cleared, others = self._schema_reset.list_tables(connection, request.scope)
        if changes.tables_written_since(connection, schema, others, first_transaction):
            # Resets of this scope do not restore these tables, so call the handlers each time.
            return HandlerRows(0, self._rows_to_keep(connection))
        rows = self._copy_to_scratch(connection, cleared).rows
        self._schema_reset.record(connection, rows)
        return HandlerRows(cacheable_calls, rows, sends_signal=previous is not None)

    def _send(
        self, alias: str, calls: range = range(post_migrate.ALL_CALLS), *, others: bool = True
    ) -> SentSignal:
        self.connection.release()
        sent = post_migrate.send(alias, calls, others=others)
        if others:
            self._handlers_alter_structure = sent.altered_structure
        return sent

    def _copy_to_scratch(self, connection: Connection, among: Collection[str]) -> Copies:
        """Copy the current rows of the tables in `among` to a scratch schema."""
        schema, scratch = self.location.schema, self._new_scratch_schema(connection)
        self._schema_reset.prepare_connection(connection)
        with row_security_disabled(connection, schema):
            path = self.location.path[1:]
            tables = rows.read_tables(connection, schema, path, among)
            copies = Copies(scratch, tables).create(connection, schema, path)
        schemas.mark(connection, scratch, Marker(self.run, MarkerState.READY))
        return copies

    def _new_scratch_schema(self, connection: Connection) -> str:
        self._scratch_schemas.append(schemas.create_template(connection, self.run))
        return self._scratch_schemas[-1]

    def _rows_to_keep(self, connection: Connection) -> Mapping[str, WantedRows]:
        template = self._get_template(connection)
        if template is None:
            return {}
        return template.copies.rows if self.restores_all else template.copies.marked_rows

    def _get_template(self, connection: Connection) -> Template | None:
        if self._template is None and self.location.template is not None:
            path = self.location.path[1:]
            self._template = Template.read(connection, self.location.template, path)
        return self._template
