"""Introspection that sees nothing but the current schema."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.backends.postgresql.introspection import DatabaseIntrospection as Base
else:
    Base = object

# How Django, in every query about tables, asks for what the whole search_path shows.
_VISIBLE = r"(?:pg_catalog\.)?pg_table_is_visible\((\w+)\.oid\)"
_IN_CURRENT_SCHEMA = (
    r"\1.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace"
    r" WHERE nspname = pg_catalog.current_schema())"
)

# How GeoDjango asks what kind of geometry a column has.
_GEOMETRY = r"(?P<table>\w+)\.f_table_name = %s"
_GEOMETRY_IN_CURRENT_SCHEMA = r"\g<table>.f_table_schema = pg_catalog.current_schema() AND \g<0>"


class _CurrentSchemaCursor:
    """A cursor that narrows Django's catalog queries to the current schema.

    No second statement is sent, so that tests which count queries see none of ours.
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, query: Any, params: Any = None) -> Any:
        if isinstance(query, str):
            query = re.sub(_VISIBLE, _IN_CURRENT_SCHEMA, query)
        return self._cursor.execute(query, params)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def _narrow_geometry(
    execute: Any, statement: str, params: Any, many: bool, context: Any
) -> object:
    statement = re.sub(_GEOMETRY, _GEOMETRY_IN_CURRENT_SCHEMA, statement)
    return execute(statement, params, many, context)


def _narrowed(cursor: Any) -> Any:
    return _CurrentSchemaCursor(cursor)


class SchemaIntrospection(Base):
    """Mixed into a backend's introspection class: what other schemas have stays unseen.

    With tables of the project in a `public` on the search_path, Django would take migrations
    for applied, and a flush could truncate `public`'s tables.
    """

    def get_table_list(self, cursor: Any) -> Any:
        return super().get_table_list(_narrowed(cursor))

    def get_table_description(self, cursor: Any, table_name: str) -> Any:
        return super().get_table_description(_narrowed(cursor), table_name)

    def get_sequences(self, cursor: Any, table_name: str, table_fields: Any = ()) -> Any:
        return super().get_sequences(_narrowed(cursor), table_name, table_fields)

    def get_relations(self, cursor: Any, table_name: str) -> Any:
        return super().get_relations(_narrowed(cursor), table_name)

    def get_constraints(self, cursor: Any, table_name: str) -> Any:
        return super().get_constraints(_narrowed(cursor), table_name)

    def get_geometry_type(self, table_name: str, description: Any) -> Any:
        """GeoDjango's own, which only its subclass of this backend has."""
        with self.connection.execute_wrapper(_narrow_geometry):
            return super().get_geometry_type(table_name, description)  # type: ignore[misc]
