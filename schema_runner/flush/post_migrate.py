"""Send post_migrate after a reset, and restore the rows that its handlers create."""

import re
import sys
from collections.abc import Iterable, Iterator
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

from ..postgres.row_copies import MARK, WantedRows
from ..postgres.server import Connection

# Django's own handlers, which only create rows, and the tables of these rows.
_DJANGO_HANDLERS = {
    ("django.contrib.auth.management", "create_permissions"),
    ("django.contrib.auth.management", "rename_permissions_after_model_rename"),
    ("django.contrib.contenttypes.management", "create_contenttypes"),
    ("django.contrib.sites.management", "create_default_site"),
}
DJANGO_TABLES = frozenset(("auth_permission", "django_content_type", "django_site"))
# The models whose caches these handlers clear.
_CACHED_MODELS = (("sites", "Site"), ("contenttypes", "ContentType"))
_ROW_STATEMENT = r"[\s(]*(SELECT|INSERT|UPDATE|DELETE|SAVEPOINT|RELEASE|ROLLBACK)\b"

ALL_CALLS = sys.maxsize


class SentSignal(NamedTuple):
    """Observations while the signal was sent once.

    `called_others`: whether other handlers than Django's own were called.
    `cacheable_calls`: how many calls of Django's own handlers came before the SQL of another
    handler first named a table of DJANGO_TABLES. Resets can restore their rows instead.
    `altered_structure`: whether other handlers may have altered the structure.
    """

    called_others: bool
    cacheable_calls: int
    altered_structure: bool


def send(
    alias: str, django_calls: range = range(ALL_CALLS), *, others: bool = True, **kwargs: Any
) -> SentSignal:
    """Send post_migrate, as stock Django's flush does at the end of a test.

    Number the calls of Django's own handlers from 0, and make only those in `django_calls`. Call
    other handlers only if `others` is true. Pass `kwargs` to the signal.
    """
    handlers = _HandlerFilter(django_calls, others=others)
    handlers.install()
    try:
        emit_post_migrate_signal(verbosity=0, interactive=False, db=alias, **kwargs)
    finally:
        handlers.remove()
    return SentSignal(handlers.called_others, handlers.cacheable_calls, handlers.altered_structure)


def send_and_roll_back(alias: str) -> None:
    """Call the handlers that are not Django's own as `migrate` does, and roll back their writes.

    The database has their rows already; only their effects in memory are needed.
    """
    with transaction.atomic(using=alias):
        send(alias, range(0), apps=apps, plan=[], stdout=OutputWrapper(sys.stdout))
        transaction.set_rollback(True, using=alias)


class _HandlerFilter:
    """Select the handlers to call, in a replacement of the signal's `_live_receivers`.

    In Django 5.2 to 6.1, that method returns the sync and the async handlers of a sender, and the
    signal calls them before it asks for those of the next sender.
    """

    def __init__(self, django_calls: range, *, others: bool) -> None:
        self._django_calls, self._others = django_calls, others
        self._signal: Any = post_migrate
        self._django_count = 0
        self.called_others = self.altered_structure = False
        self.cacheable_calls = ALL_CALLS

    def install(self) -> None:
        self._signal._live_receivers = self._live_receivers_to_call

    def remove(self) -> None:
        del self._signal._live_receivers

    def _live_receivers_to_call(self, sender: Any) -> tuple[list[Any], list[Any]]:
        chosen: list[Any] = []
        receivers, asynchronous = type(self._signal)._live_receivers(self._signal, sender)
        for receiver in receivers:
            if _is_django_handler(receiver):
                if self._django_count in self._django_calls:
                    chosen.append(receiver)
                self._django_count += 1
            elif self._others:
                chosen.append(partial(self._call, receiver, self._django_count))
        if not self._others:
            return chosen, []
        if asynchronous:
            # These run concurrently, so their statements cannot be checked.
            self._limit_cacheable_calls(self._django_count)
            self.called_others = True
        return chosen, asynchronous

    def _call(self, receiver: Any, number: int, **kwargs: Any) -> Any:
        """Call another handler after `number` calls of Django's own, and check its statements."""
        __tracebackhide__ = True

        def watch(execute: Any, statement: Any, params: Any, many: bool, context: Any) -> Any:
            text = str(statement)
            if any(table in text for table in DJANGO_TABLES):
                self._limit_cacheable_calls(number)
            if not re.match(_ROW_STATEMENT, text, re.IGNORECASE):
                self.altered_structure = True
            return execute(statement, params, many, context)

        self.called_others = True
        # If the handler itself sends post_migrate, call all handlers.
        self.remove()
        watched = [connection.execute_wrappers for connection in connections.all()]
        for wrappers in watched:
            wrappers.append(watch)
        try:
            return receiver(**kwargs)
        finally:
            for wrappers in watched:
                wrappers.remove(watch)
            self.install()

    def _limit_cacheable_calls(self, number: int) -> None:
        self.cacheable_calls = min(self.cacheable_calls, number)


def _is_django_handler(receiver: Any) -> bool:
    name = getattr(receiver, "__module__", None), getattr(receiver, "__qualname__", None)
    return name in _DJANGO_HANDLERS


def clear_model_caches() -> None:
    """Clear the caches that Django's own handlers clear when they create rows."""
    for app, model in _CACHED_MODELS:
        if apps.is_installed(f"django.contrib.{app}"):
            manager: Any = apps.get_model(app, model)._default_manager
            manager.clear_cache()


def handler_inputs() -> object:
    """Return what handlers depend on and tests may change: receivers, apps and settings."""
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


# PostgreSQL fires triggers in the order of their names, so this one fires last.
_TRIGGER = sql.Identifier("~schema_runner")
# Single-column primary keys that draw from a sequence of their own, and the tables' generated
# columns, which PostgreSQL computes after triggers have run: they are not compared.
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
# Arguments: the table of keys, the key's column, the sequence, and the columns to ignore. A key
# that is not the sequence's last value was set by the INSERT, and stays. The function runs with
# the search_path of the inserting session.
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
_COPY_KEYS = """
    CREATE TABLE {table} AS
    SELECT pg_catalog.to_jsonb(t) - {excluded}::text[] AS rest, {key}::bigint AS key FROM {copy} t
"""


class _Key(NamedTuple):
    """A primary key that draws from a sequence, and the names of the generated columns."""

    table: str
    column: str
    sequence: str
    generated: list[str]


@contextmanager
def reuse_keys(
    connection: Connection,
    schema: str,
    scratch: str,
    copies: Iterable[WantedRows],
) -> Iterator[None]:
    """Give rows inserted in the `with` block the primary keys of equal rows in `copies`.

    `copies` belong to tables of `schema`. The triggers' function and key tables are created in
    the schema `scratch`, and dropped at the end.
    """
    copies_by_name = {table.name: copy for table, copy in copies}
    keys = [_Key(*key) for key in connection.execute(_KEYS, [list(copies_by_name), schema])]
    function = sql.Identifier(scratch, "adopt_key")
    with connection.transaction():
        connection.execute(sql.SQL(_FUNCTION).format(function=function))
        for number, key in enumerate(keys, start=1):
            excluded = [key.column, MARK, *key.generated]
            key_table = sql.Identifier(scratch, f"known_{number}")
            _copy_keys(connection, copies_by_name[key.table], key_table, key.column, excluded)
            arguments = [key_table.as_string(connection), key.column, key.sequence, *excluded]
            connection.execute(
                sql.SQL(
                    # A trigger is left over if a timeout has interrupted the clean-up.
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
        tables = [sql.Identifier(schema, key.table) for key in keys]
        _drop_triggers(connection, function, tables, scratch)


def _copy_keys(
    connection: Connection,
    copy: sql.Composable,
    key_table: sql.Identifier,
    key: str,
    excluded: list[str],
) -> None:
    connection.execute(
        sql.SQL(_COPY_KEYS).format(
            table=key_table, copy=copy, key=sql.Identifier(key), excluded=sql.Literal(excluded)
        )
    )
    connection.execute(sql.SQL("CREATE INDEX ON {} USING hash (rest)").format(key_table))


def _drop_triggers(
    connection: Connection, function: sql.Identifier, tables: list[sql.Identifier], scratch: str
) -> None:
    with connection.transaction():
        for number, table in enumerate(tables, start=1):
            drop = sql.SQL("DROP TRIGGER {} ON {}; DROP TABLE {}").format(
                _TRIGGER, table, sql.Identifier(scratch, f"known_{number}")
            )
            connection.execute(drop)
        connection.execute(sql.SQL("DROP FUNCTION {}()").format(function))
