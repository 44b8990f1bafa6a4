"""What one process does in place of the flushes of one database: resets."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import psycopg
from django.apps import apps
from django.conf import UserSettingsHolder
from django.conf import settings as django_settings
from django.db.models.signals import post_migrate

from ..errors import SchemaRunnerError
from ..postgres import backends, rows, schemas, stamps, structure
from ..postgres.adoption import keys_adopted
from ..postgres.capacity import connections_left
from ..postgres.copies import Copies, Kept
from ..postgres.marker import Marker, State
from ..postgres.reset import Reset, Scope
from ..postgres.sequences import restart
from ..postgres.server import Connection
from ..postgres.template import Template
from .assignment import Place
from .flushes import Flush
from .sessions import disconnect

# How long, in seconds, what a test has left open may stay idle in a transaction, and how long it
# may be at work. Stock Django's flush waits for ever.
_IDLE = 2.0
_AT_WORK = 30.0
_SOON = 0.02
# How many connections have to be left where one is kept between tests.
_RESERVE = 10
# How many tables one transaction may drop: few enough for any server.
_BATCH = 20
# What handlers of Django's own do beside the rows that they make.
_CACHES = (("sites", "Site"), ("contenttypes", "ContentType"))


@dataclass(slots=True)
class Resets:
    """The resets of a place, by a connection of their own.

    Tests never see that one, and it lasts: its plans are ready, and its catalogs read. `say` tells
    the user something. With `keeps_all` everything in the place is as it was before any test;
    otherwise it is as stock Django's flush leaves it, but that rows of FIXTURES and SEEDERS stay.
    """

    place: Place
    run: int
    worker: int
    keeps_all: bool
    connect: Callable[[], Connection]
    say: Callable[[str], None]

    # Whether something has set sequences where they have not been: see `restore_sequences`.
    has_set_sequences: bool = False
    has_restored: bool = False
    _reset: Reset = field(init=False)
    _connection: Connection | None = None
    _template: Template | None = None
    # What post_migrate makes, by what it depends on; None where that is not rows alone.
    _known: Copies | None = None
    _emitted: dict[object, Mapping[str, Kept] | None] = field(default_factory=dict)
    _asides: list[str] = field(default_factory=list)
    _version: structure.Version | None = None
    _again: Callable[[], None] | None = None
    _is_checked: bool = True
    # Whether the server has no room for one connection more.
    _is_scarce: bool = False

    def __post_init__(self) -> None:
        self._reset = Reset(self.place.schema, self.place.path[1:])

    def do(self, request: Flush) -> None:
        """Do what is asked for at the end of a test."""
        self._await_others(request.test)
        self._is_checked = False
        if self.keeps_all:
            self._restore()
        else:
            scope = Scope(request.tables, request.cascades)
            self._again = self._clear(request, scope)
            self._again()
            if request.restarts:
                tables = request.tables | self._names(scope)
                restart(self._connected(), self.place.schema, tables)
        self._spare_connections()

    def kept_tables(self) -> set[str]:
        """Return the tables that have rows before each test, as far as that is known."""
        kept = set(self._rows_to_keep)
        for emitted in self._emitted.values():
            kept |= (emitted or {}).keys()
        return kept

    def begin(self, *, watches: bool) -> None:
        """Know how everything is before a test can commit; the structure too if it `watches`."""
        if watches and self._version is None:
            self._version = structure.version(self._connected(), self.place.schema)
        if self._known is None and not self.keeps_all:
            template = self._read_template()
            self._known = template.copies if template else self._put_aside()
        self._spare_connections()

    def renew_if_altered(self, renew: Callable[[], None]) -> None:
        """Have a fresh schema take the place of one whose structure tests have altered.

        `renew` makes one.
        """
        if self._is_checked or self._version is None or self._again is None:
            return
        self._is_checked = True
        version = structure.version(self._connected(), self.place.schema)
        if version != self._version:
            if not self._is_as_template():
                renew()
                self._reset.forget()
                self._again()
            self._version = structure.version(self._connected(), self.place.schema)
        self._spare_connections()

    def close(self) -> None:
        """Drop what has been made for the resets, and disconnect."""
        try:
            for aside in self._asides:
                schemas.drop(self._connected(), aside, self.run, batch=_BATCH)
        finally:
            self._asides.clear()
            self._disconnect()

    def _restore(self) -> None:
        template = self._read_template()
        assert template is not None, "a template is made wherever all is to be kept"
        self._reset.restore(self._connected(), template, sequences_exactly=self.has_set_sequences)
        self.has_set_sequences, self.has_restored, self._again = False, True, self._restore
        _clear_caches()

    def _clear(self, request: Flush, scope: Scope) -> Callable[[], None]:
        """Return what leaves everything as the flush does."""

        def clear(kept: Mapping[str, Kept] = self._rows_to_keep) -> None:
            self._reset.clear(self._connected(), scope, kept)

        def clear_and_emit() -> None:
            clear()
            self._spare_connections()
            request.emit()

        if not request.emits:
            return clear
        if self._is_scarce:
            return clear_and_emit
        key = _what_handlers_see(request)
        if key not in self._emitted:
            self._emitted[key] = self._learn(request, scope)
        emitted = self._emitted[key]
        if emitted is None:
            return clear_and_emit

        def restore() -> None:
            clear(emitted)
            _clear_caches()

        return restore

    def _learn(self, request: Flush, scope: Scope) -> Mapping[str, Kept] | None:
        """Clear, emit post_migrate, and note what that makes: it is not emitted another time.

        Return None where it makes rows in other tables than those that were cleared.
        """
        connection, schema, aside = self._connected(), self.place.schema, self._new_aside()
        known = self._known or Copies(aside, ())
        with keys_adopted(connection, schema, aside, known):
            self._reset.clear(connection, scope, self._rows_to_keep)
            since = current_transaction(connection)
            request.emit()
        cleared, others = self._reset.tables(connection, scope)
        if stamps.written_since(connection, schema, others, since):
            return None
        emitted = self._put_aside(cleared).rows
        self._reset.remember(connection, emitted)
        return emitted

    def _put_aside(self, among: Collection[str] | None = None) -> Copies:
        """Copy the rows that are there now."""
        connection, schema, aside = self._connected(), self.place.schema, self._new_aside()
        self._reset.prepare(connection)
        tables = rows.tables_with_rows(connection, schema, among)
        copies = Copies.make(connection, aside, schema, tables)
        schemas.mark(connection, aside, Marker(self.run, State.READY))
        return copies

    def _new_aside(self) -> str:
        self._asides.append(schemas.create_template(self._connected(), self.run))
        return self._asides[-1]

    def _names(self, scope: Scope) -> set[str]:
        cleared, _ = self._reset.tables(self._connected(), scope)
        return cleared

    @property
    def _rows_to_keep(self) -> Mapping[str, Kept]:
        template = self._read_template()
        if template is None:
            return {}
        return template.copies.rows if self.keeps_all else template.copies.marked_rows

    def _read_template(self) -> Template | None:
        if self._template is None and self.place.template is not None:
            self._template = Template.read(
                self._connected(), self.place.template, self.place.path[1:]
            )
        return self._template

    def _is_as_template(self) -> bool:
        template = self._read_template()
        return template is not None and template.describes(self._connected(), self.place.schema)

    def _connected(self) -> Connection:
        """Return the connection; another one where a test has ended it."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT")
            except psycopg.OperationalError:
                self._disconnect()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Connection:
        if self._is_scarce:
            # Django closes this thread's own after each test anyway.
            disconnect()
        try:
            connection = self.connect()
        except SchemaRunnerError:
            if self._is_scarce:
                raise
            self._is_scarce = True
            return self._connect()
        self._is_scarce = self._is_scarce or connections_left(connection) < _RESERVE
        return connection

    def _spare_connections(self) -> None:
        """Leave others the one that the server can spare."""
        if self._is_scarce:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _await_others(self, test: str) -> None:
        """Wait for what a test has left open in the schema; end it if that takes too long."""
        begun = time.monotonic()
        while found := self._others():
            waited = time.monotonic() - begun
            if waited > _IDLE:
                ended = [one for one in found if one.is_idle or waited > _AT_WORK]
                backends.end_these(self._connected(), ended)
                for one in ended:
                    state = "idle in a transaction" if one.is_idle else "at work"
                    self.say(
                        f"{test} left a connection {state}, which has been ended. Its last "
                        f"statement: {one.query.strip()[:200]}"
                    )
            time.sleep(_SOON)

    def _others(self) -> Sequence[backends.Backend]:
        connection = self._connected()
        return backends.of_worker_in(connection, self.place.schema, self.run, self.worker)


def current_transaction(connection: Connection) -> int:
    """Return the number of a transaction that is over: what is written later has a later one."""
    row = connection.execute("SELECT pg_catalog.pg_current_xact_id()::text").fetchone()
    assert row is not None
    return int(row[0])


def _what_handlers_see(request: Flush) -> object:
    """Return what post_migrate depends on, as far as tests change it in this process."""
    overridden: list[str] = []
    holder: Any = vars(django_settings)["_wrapped"]
    while isinstance(holder, UserSettingsHolder):
        overridden.append(repr(sorted(vars(holder).items(), key=itemgetter(0))))
        holder = holder.default_settings
    return (
        request.alias,
        request.tables,
        request.cascades,
        tuple(receiver[0] for receiver in post_migrate.receivers),
        tuple(config.label for config in apps.get_app_configs()),
        tuple(overridden),
    )


def _clear_caches() -> None:
    for app, model in _CACHES:
        if apps.is_installed(f"django.contrib.{app}"):
            manager: Any = apps.get_model(app, model)._default_manager
            manager.clear_cache()
