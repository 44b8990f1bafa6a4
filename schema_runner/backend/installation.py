"""Putting our mixins on Django's backend classes, and taking them off again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import connections
from django.db.backends.signals import connection_created

from .assignment import Assignment, assign
from .creation import SchemaCreation, place
from .extensions import share
from .introspection import SchemaIntrospection

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# Attribute of a connection, attribute of its class, and what goes into the latter.
_SEAMS = (
    ("creation", "creation_class", SchemaCreation),
    ("introspection", "introspection_class", SchemaIntrospection),
)


def install(**attributes: Any) -> ExitStack:
    """Teach every PostgreSQL alias about schemas until the returned stack is closed.

    `attributes` are set on the creation classes. The mixins go on each concrete connection
    class, whose later instances in new threads have them too, and on the instances that
    exist. A backend's subclass would override what is put on its base (PostGIS does), so
    nothing is put on bases.
    """
    undo = ExitStack()
    attributes["project_places"] = frozenset(place(one.settings_dict) for one in connections.all())
    for connection in connections.all():
        if connection.vendor == "postgresql":
            for instance_name, class_name, mixin in _SEAMS:
                members = attributes if mixin is SchemaCreation else {}
                _mix_in(undo, type(connection), class_name, mixin, members)
                _reclass(undo, connection, instance_name, class_name)
            undo.callback(_leave, connection)
    connection_created.connect(_prepare)
    undo.callback(connection_created.disconnect, _prepare)
    return undo


def _mix_in(
    undo: ExitStack, wrapper: type, name: str, mixin: type, members: dict[str, Any]
) -> None:
    original = getattr(wrapper, name)
    if issubclass(original, mixin):
        return  # Another alias of the same backend was here before.
    inherited = name not in vars(wrapper)
    setattr(wrapper, name, type(mixin.__name__, (mixin, original), members))
    if inherited:
        undo.callback(delattr, wrapper, name)
    else:
        undo.callback(setattr, wrapper, name, original)


def _reclass(
    undo: ExitStack, connection: "BaseDatabaseWrapper", instance_name: str, class_name: str
) -> None:
    instance = getattr(connection, instance_name)
    undo.callback(setattr, instance, "__class__", type(instance))
    instance.__class__ = getattr(type(connection), class_name)


def _prepare(connection: "BaseDatabaseWrapper", **kwargs: Any) -> None:
    """Do what a new connection needs beyond its OPTIONS."""
    assignment = Assignment.of(connection.settings_dict)
    if assignment is None:
        return
    if assignment.path_is_set_later and assignment.search_path is not None:
        # On psycopg's own connection: tests that count queries must not see this one.
        connection.connection.execute(f"SET search_path = {assignment.search_path}")
    if assignment.extensions is not None and share not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, share)


def _leave(connection: "BaseDatabaseWrapper") -> None:
    assign(connection.settings_dict, None)
    with suppress(ValueError):
        connection.execute_wrappers.remove(share)


@contextmanager
def migrations_switched_off() -> Iterator[None]:
    """Have every alias built as with TEST["MIGRATE"] = False."""
    tests = [connection.settings_dict["TEST"] for connection in connections.all()]
    before = [test["MIGRATE"] for test in tests]
    for test in tests:
        test["MIGRATE"] = False
    try:
        yield
    finally:
        for test, value in zip(tests, before, strict=True):
            test["MIGRATE"] = value
