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
# Integer primary keys that draw from a sequence of their own, and the tables' generated columns,
# which PostgreSQL computes after triggers have run: they are not compared.
_KEYS = """
    SELECT c.relname, attname, sequence,
           ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
                 WHERE attrelid = c.oid AND attgenerated <> '' AND NOT attisdropped)
    FROM pg_catalog.pg_index
    JOIN pg_catalog.pg_class c ON c.oid = indrelid
    JOIN pg_catalog.pg_attribute ON attrelid = c.oid AND attnum = indkey[0],
    pg_catalog.pg_get_serial_sequence(c.oid::regclass::text, attname) AS sequence
    WHERE indisprimary AND indnkeyatts = 1 AND sequence IS NOT NULL
      AND atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
      AND relkind = 'r' AND NOT relispartition AND relname = ANY(%s)
      AND pg_catalog.pg_has_role(relowner, 'USAGE')
      AND EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql')
      AND relnamespace = pg_catalog.to_regnamespace(%s)
"""
_COPY_KEYS = """
    CREATE TABLE {known} AS
    SELECT pg_catalog.to_jsonb(t) - {ignored}::text[] AS rest, {key} AS key FROM {copy} t;
    CREATE INDEX ON {known} USING hash (rest)
"""
# A key that is not the sequence's last value was set by the INSERT, and stays. The function runs
# with the search_path of the inserting session. A trigger is left over if a timeout has
# interrupted the clean-up.
_ADOPT_KEYS = """
    CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        adopted bigint;
    BEGIN
        IF NEW.{key} OPERATOR(pg_catalog.=) (SELECT last_value FROM {sequence} WHERE is_called)
        THEN
            DELETE FROM {known} WHERE ctid OPERATOR(pg_catalog.=) (
                SELECT k.ctid FROM {known} k
                WHERE rest OPERATOR(pg_catalog.=)
                      (pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.-) {ignored}::text[])
                  AND NOT EXISTS (SELECT FROM ONLY {table} t
                                  WHERE t.{key} OPERATOR(pg_catalog.=) k.key)
                LIMIT 1
            ) RETURNING key INTO adopted;
            NEW.{key} := coalesce(adopted, NEW.{key});
        END IF;
        RETURN NEW;
    END
    $$;
    CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT ON {table}
    FOR EACH ROW EXECUTE FUNCTION {function}()
"""


@contextmanager
def reuse_keys(
    connection: Connection,
    schema: str,
    scratch: str,
    copies: Iterable[WantedRows],
) -> Iterator[None]:
    """Give rows inserted in the `with` block the primary keys of equal rows in `copies`.

    `copies` belong to tables of `schema`. The triggers' functions and tables of keys are created
    in the schema `scratch`, and dropped at the end.
    """
    copies_by_name = {table.name: copy for table, copy in copies}
    keys = connection.execute(_KEYS, [list(copies_by_name), schema]).fetchall()
    functions = [sql.Identifier(scratch, f"adopt_key_{table}") for table, *_ in keys]
    known_keys = [sql.Identifier(scratch, f"known_{table}") for table, *_ in keys]
    with connection.transaction():
        for (table, key, sequence, generated), function, known in zip(
            keys, functions, known_keys, strict=True
        ):
            names = {
                "copy": copies_by_name[table],
                "function": function,
                "ignored": [key, MARK, *generated],
                "key": sql.Identifier(key),
                "known": known,
                "sequence": sql.SQL(sequence),
                "table": sql.Identifier(schema, table),
                "trigger": _TRIGGER,
            }
            connection.execute(sql.SQL(_COPY_KEYS + ";" + _ADOPT_KEYS).format(**names))
    try:
        yield
    finally:
        with connection.transaction():
            for function, known in zip(functions, known_keys, strict=True):
                # With the trigger.
                drop = sql.SQL("DROP FUNCTION {}() CASCADE; DROP TABLE {}").format(function, known)
                connection.execute(drop)
