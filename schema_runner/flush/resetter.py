"""What one process does in place of the flushes of one database: resets."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from psycopg import errors

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
from .post_migrate import OWN_TABLES, SentSignal, keys_adopted
from .reset_connection import ResetConnection

# How many tables one transaction may drop: few enough for any server.
_BATCH = 20


class HandlerRows(NamedTuple):
    """What Django's own handlers of post_migrate make in their first `settled` calls.

    `rows` is all that is left before tests then; None until it has been put aside. `sends` tells
    whether other calls follow, of theirs or of other handlers.
    """

    settled: int
    rows: Mapping[str, WantedRows] | None = None
    sends: bool = True


@dataclass(slots=True)
class Resetter:
    """The resets of a place, by a `connection` of their own; `say` tells the user something.

    With `keeps_all` everything in the place is as it was before any test; otherwise it is as stock
    Django's flush leaves it, but that rows of FIXTURES and SEEDERS stay.
    """

    location: Location
    run: int
    worker: int
    keeps_all: bool
    connection: ResetConnection
    say: Callable[[str], None]

    # Whether something has set sequences where they have not been: see `restore_sequences`.
    has_set_sequences: bool = False
    # Whether everything has been brought back to what it was before any test.
    has_restored: bool = False
    _reset: Reset = field(init=False)
    _template: Template | None = None
    # The rows that were there before any test.
    _first: Copies | None = None
    # By what it depends on.
    _made: dict[object, HandlerRows] = field(default_factory=dict)
    _scratch_schemas: list[str] = field(default_factory=list)
    _version: structure.Version | None = None
    # Whether handlers of post_migrate alter it, too: as they did the last time, if ever.
    _handlers_alter: bool = True
    # What was asked for last, if that has failed.
    _unfinished: Flush | None = None
    # The last reset, until it is known whether the tests before it have altered the structure.
    _unchecked: Callable[[Connection], None] | None = None

    def __post_init__(self) -> None:
        self._reset = Reset(self.location.schema, self.location.path[1:])

    def do(self, request: Flush) -> None:
        """Do what is asked for at the end of a test."""
        self._unfinished = request
        with self._holders_named():
            self._do(request)
        self._unfinished = None
        self.connection.spare()

    def finish(self) -> None:
        """Do again what has failed, so that no other class finds what it should have removed."""
        if self._unfinished is not None:
            self.do(self._unfinished)

    @contextmanager
    def _holders_named(self) -> Iterator[None]:
        """Say whose locks are in the way of what the body of the `with` does."""
        try:
            yield
        except errors.LockNotAvailable as error:
            # Where connections are scarce it may be another one than before.
            raise lock_waits.schema_in_use_error(
                self.connection.get(), self.location.schema, "reset"
            ) from error

    def _do(self, request: Flush) -> None:
        connection, schema = self.connection.get(), self.location.schema
        for left in sessions.end_open_transactions(connection, schema, self.run, self.worker):
            self.say(f"{request.test} left {left}")
        is_as_known = (
            request.emits
            and self._handlers_alter
            and self._version is not None
            and structure.version(connection, schema) == self._version
        )
        self._unchecked = partial(self._restore if self.keeps_all else self._flush, request)
        self._unchecked(connection)
        if is_as_known and self._handlers_alter:
            # Which is none of the tests' doing.
            self._version = structure.version(self.connection.get(), schema)

    def kept_tables(self) -> set[str]:
        """Return the tables that have rows before each test, as far as that is known."""
        kept = set(self._rows_to_keep(self.connection.get()))
        for made in self._made.values():
            kept |= OWN_TABLES if made.rows is None else made.rows.keys()
        return kept

    def begin(self, *, watches: bool) -> None:
        """Know how everything is before a test can commit; the structure too if it `watches`."""
        with self._holders_named():
            self._begin(watches=watches)
        self.connection.spare()

    def _begin(self, *, watches: bool) -> None:
        if watches and self._version is None:
            self._version = structure.version(self.connection.get(), self.location.schema)
        if self._first is None and not self.keeps_all:
            connection = self.connection.get()
            template = self._read_template(connection)
            self._first = template.copies if template else self._copy_to_scratch(connection)

    def renew_if_altered(self, renew: Callable[[], None]) -> None:
        """Have a fresh schema take the place of one whose structure tests have altered.

        `renew` makes one.
        """
        last, self._unchecked = self._unchecked, None
        if last is None or self._version is None:
            return
        connection, schema = self.connection.get(), self.location.schema
        if structure.version(connection, schema) != self._version:
            renew()
            self._reset.forget()
            with self._holders_named():
                last(self.connection.get())
            self._version = structure.version(self.connection.get(), schema)
        self.connection.spare()

    def close(self) -> None:
        """Drop what has been made for the resets, and disconnect."""
        try:
            for scratch in self._scratch_schemas:
                schemas.drop(self.connection.get(), scratch, self.run, batch=_BATCH)
        finally:
            self._scratch_schemas.clear()
            self.connection.close()

    def _restore(self, request: Flush, connection: Connection) -> None:
        self._restore_all(connection)
        if request.emits and self._send(request.alias, range(0)).reaches_others:
            # They may have made more rows.
            self._restore_all(self.connection.get())

    def _restore_all(self, connection: Connection) -> None:
        template = self._read_template(connection)
        assert template is not None, "a template is made wherever all is to be kept"
        self._reset.restore(connection, template, sequences_exactly=self.has_set_sequences)
        self.has_set_sequences, self.has_restored = False, True
        post_migrate.stand_in()

    def _flush(self, request: Flush, connection: Connection) -> None:
        """Leave everything as the flush does."""
        if not request.emits or self.connection.is_scarce:
            self._clear(connection, request, self._rows_to_keep(connection))
            if request.emits:
                self._send(request.alias)
            return
        key = (request.alias, request.scope, post_migrate.circumstances())
        known = made = self._made.get(key)
        if made is None or made.rows is None:
            made = self._made[key] = self._learn(connection, request, made)
        else:
            self._clear(connection, request, made.rows)
            post_migrate.stand_in()
        if self.has_set_sequences:
            # Before a test, when there may have been none of the rows that are there now.
            advance(connection.cursor(), self.location.schema)
            self.has_set_sequences = False
        if known is not None and made.sends:
            sent = self._send(request.alias, range(made.settled, post_migrate.ALL))
            if sent.settled < made.settled:
                self._made[key] = HandlerRows(sent.settled)

    def _clear(
        self, connection: Connection, request: Flush, kept: Mapping[str, WantedRows]
    ) -> None:
        self._reset.clear(connection, request.scope, kept)
        self._restart(connection, request)

    def _restart(self, connection: Connection, request: Flush) -> None:
        if request.restarts:
            cleared, _ = self._reset.list_tables(connection, request.scope)
            restart(connection, self.location.schema, cleared | (request.scope.names or set()))

    def _learn(
        self, connection: Connection, request: Flush, known: HandlerRows | None
    ) -> HandlerRows:
        """Clear, and put aside what Django's own handlers make.

        The first time, send the signal to all handlers, and learn when to call those that are not
        Django's own.
        """
        schema, scratch = self.location.schema, self._new_scratch_schema(connection)
        settled = post_migrate.ALL if known is None else known.settled
        first = [(copy, table) for copy, table in self._first or () if table.name in OWN_TABLES]
        with keys_adopted(connection, schema, scratch, first):
            self._clear(connection, request, self._rows_to_keep(connection))
            since = changes.current_transaction(connection.cursor())
            sent = self._send(request.alias, range(settled), others=known is None)
        self._restart(connection, request)
        if sent.reaches_others:
            return HandlerRows(sent.settled)
        cleared, others = self._reset.list_tables(connection, request.scope)
        if changes.tables_written_since(connection, schema, others, since):
            # Those are not restored, so nothing is.
            return HandlerRows(0, self._rows_to_keep(connection))
        rows = self._copy_to_scratch(connection, cleared).rows
        self._reset.record(connection, rows)
        return HandlerRows(settled, rows, sends=known is not None)

    def _send(
        self, alias: str, own: range = range(post_migrate.ALL), *, others: bool = True
    ) -> SentSignal:
        self.connection.spare()
        sent = post_migrate.send(alias, own, others=others)
        if others:
            self._handlers_alter = sent.alters
        return sent

    def _copy_to_scratch(
        self, connection: Connection, among: Collection[str] | None = None
    ) -> Copies:
        """Copy the rows that are there now."""
        schema, scratch = self.location.schema, self._new_scratch_schema(connection)
        self._reset.prepare_connection(connection)
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
        template = self._read_template(connection)
        if template is None:
            return {}
        return template.copies.rows if self.keeps_all else template.copies.marked_rows

    def _read_template(self, connection: Connection) -> Template | None:
        if self._template is None and self.location.template is not None:
            path = self.location.path[1:]
            self._template = Template.read(connection, self.location.template, path)
        return self._template
