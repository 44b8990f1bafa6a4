"""Sending post_migrate after a reset, and restoring the rows that its handlers make."""

import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import UserSettingsHolder, settings
from django.core.management.base import OutputWrapper
from django.core.management.sql import emit_post_migrate_signal
from django.db import connections, transaction
from django.db.models.signals import post_migrate
from psycopg import sql

from ..postgres.row_copies import MARK
from ..postgres.rows import Table
from ..postgres.server import Connection

# Django's own handlers, which make rows and nothing else, and the tables that those are in.
_OWN = {
    ("django.contrib.auth.management", "create_permissions"),
    ("django.contrib.auth.management", "rename_permissions_after_model_rename"),
    ("django.contrib.contenttypes.management", "create_contenttypes"),
    ("django.contrib.sites.management", "create_default_site"),
}
OWN_TABLES = frozenset(("auth_permission", "django_content_type", "django_site"))
# What they do beside the rows that they make.
_CACHES = (("sites", "Site"), ("contenttypes", "ContentType"))
_ABOUT_ROWS = r"[\s(]*(SELECT|INSERT|UPDATE|DELETE|SAVEPOINT|RELEASE|ROLLBACK)\b"

ALL = sys.maxsize


class SentSignal(NamedTuple):
    """What a sending has shown.

    It `reaches_others` if it has called handlers that are not Django's own. Before one of these
    has named a table of OWN_TABLES there were this many `settled` calls of Django's own: whether
    the others are called after those, or in between, makes no difference. It `alters` the
    structure if one may have executed more than statements about rows.
    """

    reaches_others: bool
    settled: int
    alters: bool


def send(alias: str, own: range = range(ALL), *, others: bool = True, **named: Any) -> SentSignal:
    """Send post_migrate as stock Django's flush does at the end of a test.

    Of the calls of Django's own handlers, in their order, make those whose numbers are in `own`;
    call other handlers only if `others` are wanted. `named` is what they are told besides.
    """
    sending = _Sending(own, others=others)
    sending.begin()
    try:
        emit_post_migrate_signal(verbosity=0, interactive=False, db=alias, **named)
    finally:
        sending.end()
    return SentSignal(sending.reaches_others, sending.settled, sending.alters)


def send_for_memory(alias: str) -> None:
    """Call handlers as `migrate` does, but leave the database, which has all that they make there.

    What they make in memory stays.
    """
    with transaction.atomic(using=alias):
        send(alias, range(0), apps=apps, plan=[], stdout=OutputWrapper(sys.stdout))
        transaction.set_rollback(True, using=alias)


class _Sending:
    """Chooses the handlers to call where the signal looks for them: in `_live_receivers`.

    That returns two lists in all versions from 5.2 to 6.1, and a list is called before the next
    one is asked for.
    """

    def __init__(self, own: range, *, others: bool) -> None:
        self._own, self._others = own, others
        self._signal: Any = post_migrate
        self._own_so_far = 0
        self.reaches_others = self.alters = False
        self.settled = ALL

    def begin(self) -> None:
        self._signal._live_receivers = self._choose

    def end(self) -> None:
        del self._signal._live_receivers

    def _choose(self, sender: Any) -> tuple[list[Any], list[Any]]:
        chosen: list[Any] = []
        found, asynchronous = type(self._signal)._live_receivers(self._signal, sender)
        for receiver in found:
            if _is_own(receiver):
                if self._own_so_far in self._own:
                    chosen.append(receiver)
                self._own_so_far += 1
            elif self._others:
                chosen.append(partial(self._call, receiver, self._own_so_far))
        if not self._others:
            return chosen, []
        if asynchronous:
            # They are called side by side, and not watched.
            self._settle(self._own_so_far)
            self.reaches_others = True
        return chosen, asynchronous

    def _call(self, receiver: Any, number: int, **named: Any) -> Any:
        """Call a handler that is not Django's own, and watch what it executes."""
        __tracebackhide__ = True

        def watch(execute: Any, statement: Any, params: Any, many: bool, context: Any) -> Any:
            text = str(statement)
            if any(table in text for table in OWN_TABLES):
                self._settle(number)
            if not re.match(_ABOUT_ROWS, text, re.IGNORECASE):
                self.alters = True
            return execute(statement, params, many, context)

        self.reaches_others = True
        # What it sends by itself goes to all.
        self.end()
        watched = [connection.execute_wrappers for connection in connections.all()]
        for wrappers in watched:
            wrappers.append(watch)
        try:
            return receiver(**named)
        finally:
            for wrappers in watched:
                wrappers.remove(watch)
            self.begin()

    def _settle(self, number: int) -> None:
        self.settled = min(self.settled, number)


def _is_own(receiver: Any) -> bool:
    name = getattr(receiver, "__module__", None), getattr(receiver, "__qualname__", None)
    return name in _OWN


def stand_in() -> None:
    """Do what an emission does besides, where the rows that it makes are there already."""
    for app, model in _CACHES:
        if apps.is_installed(f"django.contrib.{app}"):
            manager: Any = apps.get_model(app, model)._default_manager
            manager.clear_cache()


def circumstances() -> object:
    """Return what handlers can see, as far as tests change it in this process."""
    overridden: list[str] = []
    holder: Any = vars(settings)["_wrapped"]
    while isinstance(holder, UserSettingsHolder):
        overridden.append(repr(sorted(vars(holder).items(), key=itemgetter(0))))
        holder = holder.default_settings
    return (
        tuple(receiver[0] for receiver in post_migrate.receivers),
        tuple(config.label for config in apps.get_app_configs()),
        tuple(overridden),
    )


# The last of a table's triggers, which are called in the order of their names.
_TRIGGER = sql.Identifier("~schema_runner")
# Keys of one column that a sequence of its own gives out. Generated columns come after triggers.
_KEYS = """
    SELECT c.relname, attname, sequence,
           ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
                 WHERE attrelid = c.oid AND attgenerated <> '' AND NOT attisdropped)
    FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_class c ON c.oid = indrelid
    JOIN pg_catalog.pg_attribute ON attrelid = c.oid AND attnum = indkey[0],
    pg_catalog.pg_get_serial_sequence(c.oid::regclass::text, attname) AS sequence
    WHERE indisprimary AND indnkeyatts = 1 AND sequence IS NOT NULL
      AND relkind = 'r' AND NOT relispartition AND relname = ANY(%s)
      AND pg_catalog.pg_has_role(relowner, 'USAGE')
      AND EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql')
      AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
"""
# Its arguments are the table that knows the rows, the key's column, the sequence, and the columns
# not to be compared. A key that this has not given out just now is chosen by whoever inserts.
# It runs on the search_path of theirs.
_FUNCTION = """
    CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        inserted CONSTANT pg_catalog.jsonb := pg_catalog.to_jsonb(NEW);
        given bigint;
        known bigint;
    BEGIN
        EXECUTE pg_catalog.format('SELECT last_value FROM %s WHERE is_called', TG_ARGV[2])
            INTO given;
        IF given OPERATOR(pg_catalog.=)
                (inserted OPERATOR(pg_catalog.->>) TG_ARGV[1])::bigint THEN
            EXECUTE pg_catalog.format(
                'DELETE FROM %s WHERE ctid OPERATOR(pg_catalog.=) (SELECT ctid FROM %s k'
                ' WHERE rest OPERATOR(pg_catalog.=) $1 AND NOT EXISTS (SELECT FROM ONLY %s t'
                ' WHERE t.%I::bigint OPERATOR(pg_catalog.=) k.key) LIMIT 1) RETURNING key',
                TG_ARGV[0], TG_ARGV[0], TG_RELID::pg_catalog.regclass, TG_ARGV[1])
                INTO known USING inserted OPERATOR(pg_catalog.-) TG_ARGV[3:];
            IF known IS NOT NULL THEN
                NEW := pg_catalog.jsonb_populate_record(
                    NEW, pg_catalog.jsonb_build_object(TG_ARGV[1], known));
            END IF;
        END IF;
        RETURN NEW;
    END
    $$
"""
_KNOW = """
    CREATE TABLE {known} AS
    SELECT pg_catalog.to_jsonb(t) - {left_out}::text[] AS rest, {key}::bigint AS key FROM {copy} t
"""


class _Key(NamedTuple):
    """The key of a table: its column, the sequence, and the table's generated columns."""

    table: str
    column: str
    sequence: str
    generated: list[str]


@contextmanager
def keys_adopted(
    connection: Connection,
    schema: str,
    scratch: str,
    copies: Iterable[tuple[sql.Identifier, Table]],
) -> Iterator[None]:
    """Have what the body of the `with` inserts get the keys that equal rows have in `copies`.

    They are for the tables of `schema`; what is needed meanwhile is in the schema `scratch`.
    """
    known = {table.name: copy for copy, table in copies}
    keys = [_Key(*key) for key in connection.execute(_KEYS, [list(known), schema])]
    function = sql.Identifier(scratch, "adopt_key")
    with connection.transaction():
        connection.execute(sql.SQL(_FUNCTION).format(function=function))
        for number, key in enumerate(keys, start=1):
            left_out = [key.column, MARK, *key.generated]
            noted = sql.Identifier(scratch, f"known_{number}")
            _note(connection, known[key.table], noted, key.column, left_out)
            arguments = [noted.as_string(connection), key.column, key.sequence, *left_out]
            connection.execute(
                sql.SQL(
                    # There is one if something has broken in, as a time limit can.
                    "CREATE OR REPLACE TRIGGER {} BEFORE INSERT ON {} FOR EACH ROW"
                    " EXECUTE FUNCTION {}({})"
                ).format(
                    _TRIGGER,
                    sql.Identifier(schema, key.table),
                    function,
                    sql.SQL(", ").join(map(sql.Literal, arguments)),
                )
            )
    try:
        yield
    finally:
        _forget(connection, function, [sql.Identifier(schema, key.table) for key in keys], scratch)


def _note(
    connection: Connection,
    copy: sql.Identifier,
    noted: sql.Identifier,
    key: str,
    left_out: Collection[str],
) -> None:
    connection.execute(
        sql.SQL(_KNOW).format(
            known=noted, copy=copy, key=sql.Identifier(key), left_out=sql.Literal(list(left_out))
        )
    )
    connection.execute(sql.SQL("CREATE INDEX ON {} USING hash (rest)").format(noted))


def _forget(
    connection: Connection, function: sql.Identifier, tables: list[sql.Identifier], scratch: str
) -> None:
    with connection.transaction():
        for number, table in enumerate(tables, start=1):
            drop = sql.SQL("DROP TRIGGER {} ON {}; DROP TABLE {}").format(
                _TRIGGER, table, sql.Identifier(scratch, f"known_{number}")
            )
            connection.execute(drop)
        connection.execute(sql.SQL("DROP FUNCTION {}()").format(function))
