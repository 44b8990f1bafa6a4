"""Introspection of the current schema only."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.backends.postgresql.introspection import DatabaseIntrospection as Base
else:
    Base = object

# Django's introspection queries use this condition, which covers the whole search_path.
_VISIBLE = r"(?:pg_catalog\.)?pg_table_is_visible\((\w+)\.oid\)"
_IN_CURRENT_SCHEMA = (
    r"\1.relnamespace OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_namespace"
    r" WHERE nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema())"
)

# GeoDjango's condition in its queries for a column's geometry type.
_GEOMETRY = r"(?P<table>\w+)\.f_table_name = %s"
_GEOMETRY_IN_CURRENT_SCHEMA = (
    r"\g<table>.f_table_schema OPERATOR(pg_catalog.=) pg_catalog.current_schema() AND \g<0>"
)

# Catalogs in which packages look up relations by name, with the column of the schema (the OID in
# `…namespace` columns, else the name).
_CATALOGS = {
    "pg_class": "relnamespace",
    "pg_constraint": "connamespace",
    **dict.fromkeys(
        ("pg_indexes", "pg_matviews", "pg_sequences", "pg_tables", "pg_views"), "schemaname"
    ),
    **{
        f"information_schema.{view}": "table_schema"
        for view in (
            *("columns", "tables", "views", "table_constraints"),
            *("key_column_usage", "constraint_column_usage"),
        )
    },
}
_CLAUSES = (
    "CROSS|EXCEPT|FETCH|FOR|FULL|GROUP|HAVING|INNER|INTERSECT|JOIN|LEFT|LIMIT|NATURAL|OFFSET|ON"
    "|ORDER|RIGHT|TABLESAMPLE|UNION|USING|WHERE|WINDOW"
)
_IN_CATALOG = (
    r"(?i)(?P<lead>\b(?:FROM|JOIN)\s+|,\s*)(?:pg_catalog\.)?"
    rf"(?P<name>{'|'.join(map(re.escape, _CATALOGS))})\b(?!\s*[.(])"
    rf"(?:\s+(?:AS\s+)?(?!(?:{_CLAUSES})\b)(?P<alias>[a-z_]\w*))?"
)
# Excludes the schemas of other workers, and `public`, which may hold the project's tables.
_IS_ACCESSIBLE = (
    "({0} OPERATOR(pg_catalog.=) pg_catalog.current_schema()"
    " OR {0} OPERATOR(pg_catalog.<>) 'public'"
    " AND {0} OPERATOR(pg_catalog.!~) '^test_(w[1-9][0-9]*|shims|template)_[0-9]+$')"
)
_BY_OID = (
    "{column} OPERATOR(pg_catalog.=) ANY"
    " (SELECT oid FROM pg_catalog.pg_namespace WHERE {condition})"
)
_NARROWED = "(SELECT * FROM {name} WHERE {condition}) AS {alias}"


def narrow_to_schema(query: str) -> str:
    """Restrict an introspection query so that it finds no relations of other workers."""
    narrowed = re.sub(_VISIBLE, _IN_CURRENT_SCHEMA, query)
    if narrowed != query:
        return narrowed

    def narrow(match: re.Match[str]) -> str:
        name = match["name"]
        column = _CATALOGS[name.lower()]
        is_by_oid = column.endswith("namespace")
        condition = _IS_ACCESSIBLE.format("nspname" if is_by_oid else column)
        if is_by_oid:
            condition = _BY_OID.format(column=column, condition=condition)
        alias = match["alias"] or name.rpartition(".")[2]
        return match["lead"] + _NARROWED.format(name=name, condition=condition, alias=alias)

    return re.sub(_IN_CATALOG, narrow, query)


class _CurrentSchemaCursor:
    """Cursor that restricts introspection queries to the current schema.

    It changes the queries and adds none, because tests may count queries.
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, query: Any, params: Any = None) -> Any:
        if isinstance(query, str):
            query = narrow_to_schema(query)
        return self._cursor.execute(query, params)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def narrow_methods(undo: ExitStack, introspection: type) -> None:
    """Patch methods that third-party classes add to Django's introspection, until `undo` closes.

    A mixin would not suffice, because packages create instances of their class themselves.
    """
    for owner in introspection.__mro__:
        is_third_party = owner.__module__.partition(".")[0] not in {"django", "builtins", _PACKAGE}
        for name, method in list(vars(owner).items()) if is_third_party else ():
            if isinstance(method, FunctionType) and method.__code__.co_varnames[1:2] == (
                "cursor",
            ):
                undo.callback(setattr, owner, name, method)
                setattr(owner, name, _narrowing_method(method))


_PACKAGE = __name__.partition(".")[0]


def _narrowing_method(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def narrowed(self: Any, cursor: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, _narrowing_cursor(cursor), *args, **kwargs)

    return narrowed


def _narrow_geometry(
    execute: Any, statement: str, params: Any, many: bool, context: Any
) -> object:
    statement = re.sub(_GEOMETRY, _GEOMETRY_IN_CURRENT_SCHEMA, statement)
    return execute(statement, params, many, context)


def _narrowing_cursor(cursor: Any) -> Any:
    return cursor if isinstance(cursor, _CurrentSchemaCursor) else _CurrentSchemaCursor(cursor)


class SchemaIntrospection(Base):
    """Mixin for a backend's introspection class that hides other schemas.

    Otherwise, with the project's tables in `public` on the search_path, Django would consider
    migrations applied, and a flush could truncate the project's tables.
    """

    def get_table_list(self, cursor: Any) -> Any:
        return super().get_table_list(_narrowing_cursor(cursor))

    def get_table_description(self, cursor: Any, table_name: str) -> Any:
        return super().get_table_description(_narrowing_cursor(cursor), table_name)

    def get_sequences(self, cursor: Any, table_name: str, table_fields: Any = ()) -> Any:
        return super().get_sequences(_narrowing_cursor(cursor), table_name, table_fields)

    def get_relations(self, cursor: Any, table_name: str) -> Any:
        return super().get_relations(_narrowing_cursor(cursor), table_name)

    def get_constraints(self, cursor: Any, table_name: str) -> Any:
        return super().get_constraints(_narrowing_cursor(cursor), table_name)

    def get_geometry_type(self, table_name: str, description: Any) -> Any:
        """Override GeoDjango's method, which only PostGIS's introspection class has."""
        with self.connection.execute_wrapper(_narrow_geometry):
            return super().get_geometry_type(table_name, description)  # type: ignore[misc]
