"""Sending post_migrate: to all handlers, or to those for which nothing stands in."""

import re
import sys
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import UserSettingsHolder, settings
from django.core.management.base import OutputWrapper
from django.core.management.sql import emit_post_migrate_signal
from django.db import connections, transaction
from django.db.models.signals import post_migrate

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


class Sent(NamedTuple):
    """What a sending has shown.

    It `reaches_others` if it has called handlers that are not Django's own. Before one of these
    has named a table of OWN_TABLES there were this many `settled` calls of Django's own: whether
    the others are called after those, or in between, makes no difference. It `alters` the
    structure if one may have executed more than statements about rows.
    """

    reaches_others: bool
    settled: int
    alters: bool


def send(alias: str, own: range = range(ALL), *, others: bool = True, **named: Any) -> Sent:
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
    return Sent(sending.reaches_others, sending.settled, sending.alters)


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
