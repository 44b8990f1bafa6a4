"""Patch Django's database backend classes for a run, and restore them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import connections
from django.db.backends.signals import connection_created

from .. import search_path_restore
from ..flush.hooks import replace_flushes
from ..flush.registry import get_reset
from ..postgres.server import CHECK_CLIENT
from ..search_path import Locations, programs, set_locations
from .context import RunContext
from .creation import WorkerCreation
from .extensions import share_extensions
from .introspection import SchemaIntrospection, narrow_methods
from .operations import SchemaOperations

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from .test_database import TestDatabase

# Attribute of a connection, attribute of its class, and mixin for the latter.
_MIXINS: tuple[tuple[str, str, type], ...] = (
    ("creation", "creation_class", WorkerCreation),
    ("introspection", "introspection_class", SchemaIntrospection),
    ("ops", "ops_class", SchemaOperations),
)


def patch_backends(context: RunContext, databases: "dict[str, TestDatabase]") -> ExitStack:
    """Add the mixins to every PostgreSQL alias until the returned stack is closed.

    `databases`: where the creation objects keep the open test databases, by alias.

    Patch each concrete connection class, for
    connections in new threads, and the existing instances. Do not patch base classes, because a
    backend's subclass may override their attributes, as PostGIS does.
    """
    undo = ExitStack()
    # After a nested run (within a test), programs use the outer run's schema again.
    undo.callback(programs.export if programs.is_testing else programs.withdraw)
    programs.withdraw()
    attributes = {"context": context, "databases": databases}
    mixed: set[type] = set()
    for connection in connections.all():
        if connection.vendor == "postgresql":
            if type(connection) not in mixed:
                narrow_methods(undo, type(connection).introspection_class)
            for instance_name, class_name, mixin in _MIXINS:
                members = attributes if mixin is WorkerCreation else {}
                mix = partial(_mixed_class, mixin=mixin, members=members)
                if type(connection) not in mixed:
                    _mix_in(undo, type(connection), class_name, mix)
                _replace_instance(undo, connection, instance_name, class_name, mix)
            if type(connection) not in mixed:
                for name in ("make_cursor", "make_debug_cursor"):
                    original = getattr(type(connection), name)
                    _set(undo, type(connection), name, share_extensions(original))
            mixed.add(type(connection))
            undo.callback(_restore_locations, connection, Locations.of(connection.settings_dict))
    replace_flushes(undo, get_reset)
    search_path_restore.restore_after_tests(undo)
    # Unique, so that a nested run does not disconnect the outer run's receiver.
    signal_id = object()
    connection_created.connect(_configure_connection, dispatch_uid=signal_id)
    undo.callback(connection_created.disconnect, dispatch_uid=signal_id)
    return undo


def _mix_in(undo: ExitStack, wrapper: type, name: str, mix: Callable[[type], type]) -> None:
    original = getattr(wrapper, name)
    _set(undo, wrapper, name, mix(original))


def _set(undo: ExitStack, wrapper: type, name: str, value: Any) -> None:
    original, inherited = getattr(wrapper, name), name not in vars(wrapper)
    setattr(wrapper, name, value)
    if inherited:
        undo.callback(delattr, wrapper, name)
    else:
        undo.callback(setattr, wrapper, name, original)


def _mixed_class(original: type, mixin: type, members: dict[str, Any]) -> type:
    # In a nested run, or if it inherits from a patched class, the class has the mixin already.
    bases = (original,) if issubclass(original, mixin) else (mixin, original)
    return type(mixin.__name__, bases, members)


def _replace_instance(
    undo: ExitStack,
    connection: "BaseDatabaseWrapper",
    instance_name: str,
    class_name: str,
    mix: Callable[[type], type],
) -> None:
    original = getattr(connection, instance_name)
    replacement = getattr(type(connection), class_name)
    undo.callback(setattr, connection, instance_name, original)
    if not issubclass(replacement, type(original)):
        # In backends such as django-tenants, the instance is not of the class that they name.
        replacement = mix(type(original))
    setattr(connection, instance_name, replacement(connection))


def _configure_connection(connection: "BaseDatabaseWrapper", **kwargs: Any) -> None:
    """Set up what OPTIONS does not set up on a new connection."""
    locations = Locations.of(connection.settings_dict)
    if locations is None:
        return
    if locations.run is not None and connection.connection.autocommit:
        with suppress(psycopg.errors.InvalidParameterValue):
            connection.connection.execute(CHECK_CLIENT)
    search_path_restore.watch_connection(connection)
    # A connection from a pool keeps the settings of its previous user.
    is_pooled = connection.settings_dict["OPTIONS"].get("pool")
    if (locations.sets_path_on_connect or is_pooled) and locations.search_path is not None:
        search_path_restore.set_search_path(connection.connection, locations.search_path)


def _restore_locations(connection: "BaseDatabaseWrapper", before: Locations | None) -> None:
    # A nested run restores the locations of the outer run.
    set_locations(connection.settings_dict, before)


@contextmanager
def migrations_disabled() -> Iterator[None]:
    """Set TEST["MIGRATE"] = False for every alias while the context is active."""
    tests = [connection.settings_dict["TEST"] for connection in connections.all()]
    before = [test["MIGRATE"] for test in tests]
    for test in tests:
        test["MIGRATE"] = False
    try:
        yield
    finally:
        for test, value in zip(tests, before, strict=True):
            test["MIGRATE"] = value
