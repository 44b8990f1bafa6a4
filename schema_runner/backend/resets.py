"""What one process does in place of the flushes of one database: resets."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ..postgres import leftovers, rows, schemas, stamps, structure
from ..postgres.adoption import keys_adopted
from ..postgres.copies import Copies, Kept
from ..postgres.marker import Marker, State
from ..postgres.occupied import Scope
from ..postgres.reset import Reset
from ..postgres.sequences import restart
from ..postgres.server import Connection
from ..postgres.silence import unhidden
from ..postgres.template import Template
from . import emissions
from .assignment import Place
from .flushes import Flush
from .standing import StandingConnection

# How many tables one transaction may drop: few enough for any server.
_BATCH = 20


@dataclass(slots=True)
class Resets:
    """The resets of a place, by a `connection` of their own; `say` tells the user something.

    With `keeps_all` everything in the place is as it was before any test; otherwise it is as stock
    Django's flush leaves it, but that rows of FIXTURES and SEEDERS stay.
    """

    place: Place
    run: int
    worker: int
    keeps_all: bool
    connection: StandingConnection
    say: Callable[[str], None]

    # Whether something has set sequences where they have not been: see `restore_sequences`.
    has_set_sequences: bool = False
    # Whether everything has been brought back to what it was before any test.
    has_restored: bool = False
    _reset: Reset = field(init=False)
    _template: Template | None = None
    # The rows that were there before any test.
    _first: Copies | None = None
    # What post_migrate makes, by what it depends on; None where that is not rows alone.
    _emitted: dict[object, Mapping[str, Kept] | None] = field(default_factory=dict)
    _asides: list[str] = field(default_factory=list)
    _version: structure.Version | None = None
    # The last reset, until it is known whether the tests before it have altered the structure.
    _unchecked: Callable[[Connection], None] | None = None

    def __post_init__(self) -> None:
        self._reset = Reset(self.place.schema, self.place.path[1:])

    def do(self, request: Flush) -> None:
        """Do what is asked for at the end of a test."""
        connection, schema = self.connection.get(), self.place.schema
        for one in leftovers.outlast(connection, schema, self.run, self.worker):
            state = "idle in a transaction" if one.is_idle else "at work"
            self.say(
                f"{request.test} left a connection {state}, which has been ended. Its last "
                f"statement: {one.query.strip()[:200]}"
            )
        self._unchecked = self._restore if self.keeps_all else self._in_place_of(request)
        self._unchecked(connection)
        if request.restarts and not self.keeps_all:
            # Emitting may have taken the connection away.
            connection = self.connection.get()
            cleared, _ = self._reset.tables(connection, request.scope)
            restart(connection, schema, cleared | (request.scope.names or set()))
        self.connection.spare()

    def kept_tables(self) -> set[str]:
        """Return the tables that have rows before each test, as far as that is known."""
        kept = set(self._rows_to_keep(self.connection.get()))
        for emitted in self._emitted.values():
            kept |= (emitted or {}).keys()
        return kept

    def begin(self, *, watches: bool) -> None:
        """Know how everything is before a test can commit; the structure too if it `watches`."""
        if watches and self._version is None:
            self._version = structure.version(self.connection.get(), self.place.schema)
        if self._first is None and not self.keeps_all:
            connection = self.connection.get()
            template = self._read_template(connection)
            self._first = template.copies if template else self._put_aside(connection)
        self.connection.spare()

    def renew_if_altered(self, renew: Callable[[], None]) -> None:
        """Have a fresh schema take the place of one whose structure tests have altered.

        `renew` makes one.
        """
        last, self._unchecked = self._unchecked, None
        if last is None or self._version is None:
            return
        connection, schema = self.connection.get(), self.place.schema
        if structure.version(connection, schema) != self._version:
            renew()
            self._reset.forget()
            last(self.connection.get())
            self._version = structure.version(self.connection.get(), schema)
        self.connection.spare()

    def close(self) -> None:
        """Drop what has been made for the resets, and disconnect."""
        try:
            for aside in self._asides:
                schemas.drop(self.connection.get(), aside, self.run, batch=_BATCH)
        finally:
            self._asides.clear()
            self.connection.close()

    def _restore(self, connection: Connection) -> None:
        template = self._read_template(connection)
        assert template is not None, "a template is made wherever all is to be kept"
        self._reset.restore(connection, template, sequences_exactly=self.has_set_sequences)
        self.has_set_sequences, self.has_restored = False, True
        emissions.stand_in()

    def _in_place_of(self, request: Flush) -> Callable[[Connection], None]:
        """Return what leaves everything as the flush does."""
        scope = request.scope

        def clear(connection: Connection) -> None:
            self._reset.clear(connection, scope, self._rows_to_keep(connection))

        def clear_and_emit(connection: Connection) -> None:
            clear(connection)
            self.connection.spare()
            emissions.emit(request.alias)

        def clear_or_restore(connection: Connection) -> None:
            key = (request.alias, scope, emissions.circumstances())
            if key not in self._emitted:
                self._emitted[key] = self._learn(connection, request.alias, scope)
            elif (emitted := self._emitted[key]) is None:
                clear_and_emit(connection)
            else:
                self._reset.clear(connection, scope, emitted)
                emissions.stand_in()

        if not request.emits:
            return clear
        return clear_and_emit if self.connection.is_scarce else clear_or_restore

    def _learn(
        self, connection: Connection, alias: str, scope: Scope
    ) -> Mapping[str, Kept] | None:
        """Clear, emit post_migrate, and return what that makes: it can be restored from now on.

        Return None where it makes rows in other tables than those that were cleared.
        """
        schema, aside = self.place.schema, self._new_aside(connection)
        first = self._first or Copies(aside, ())
        with keys_adopted(connection, schema, aside, first):
            self._reset.clear(connection, scope, self._rows_to_keep(connection))
            since = stamps.current_transaction(connection.cursor())
            emissions.emit(alias)
        cleared, others = self._reset.tables(connection, scope)
        if stamps.written_since(connection, schema, others, since):
            return None
        emitted = self._put_aside(connection, cleared).rows
        self._reset.remember(connection, emitted)
        return emitted

    def _put_aside(self, connection: Connection, among: Collection[str] | None = None) -> Copies:
        """Copy the rows that are there now."""
        schema, aside = self.place.schema, self._new_aside(connection)
        self._reset.prepare(connection)
        with unhidden(connection, schema):
            tables = rows.tables_with_rows(connection, schema, among)
            copies = Copies.make(connection, aside, schema, tables)
        schemas.mark(connection, aside, Marker(self.run, State.READY))
        return copies

    def _new_aside(self, connection: Connection) -> str:
        self._asides.append(schemas.create_template(connection, self.run))
        return self._asides[-1]

    def _rows_to_keep(self, connection: Connection) -> Mapping[str, Kept]:
        template = self._read_template(connection)
        if template is None:
            return {}
        return template.copies.rows if self.keeps_all else template.copies.marked_rows

    def _read_template(self, connection: Connection) -> Template | None:
        if self._template is None and self.place.template is not None:
            path = self.place.path[1:]
            self._template = Template.read(connection, self.place.template, path)
        return self._template
