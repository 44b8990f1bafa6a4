"""Introspection that sees nothing but the current schema."""

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

# How Django, in every query about tables, asks for what the whole search_path shows.
_VISIBLE = r"(?:pg_catalog\.)?pg_table_is_visible\((\w+)\.oid\)"
_IN_CURRENT_SCHEMA = (
    r"\1.relnamespace OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_namespace"
    r" WHERE nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema())"
)

# How GeoDjango asks what kind of geometry a column has.
_GEOMETRY = r"(?P<table>\w+)\.f_table_name = %s"
_GEOMETRY_IN_CURRENT_SCHEMA = (
    r"\g<table>.f_table_schema OPERATOR(pg_catalog.=) pg_catalog.current_schema() AND \g<0>"
)

# Where other queries look relations up by name alone: catalogs, with the column that has the
# schema, by OID or by name.
_CATALOGS = {
    "pg_class": "relnamespace",
    "pg_constraint": "connamespace",
    **dict.fromkeys(
        ("pg_indexes", "pg_matviews", "pg_sequences", "pg_tables", "pg_views"), "schemaname"
    ),
    **dict.fromkeys(
        (
            *(
                "information_schema.columns",
                "information_schema.tables",
                "information_schema.views",
            ),
            "information_schema.table_constraints",
            "information_schema.key_column_usage",
            "information_schema.constraint_column_usage",
        ),
        "table_schema",
    ),
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
# False for the schemas of other workers, and for the project's tables in `public`.
_IS_OURS = (
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
    """Return a query of the catalog that finds no relations of other workers by their name."""

    def narrow(found: re.Match[str]) -> str:
        name = found["name"]
        column = _CATALOGS[name.lower()]
        is_by_oid = column.endswith("namespace")
        condition = _IS_OURS.format("nspname" if is_by_oid else column)
        if is_by_oid:
            condition = _BY_OID.format(column=column, condition=condition)
        alias = found["alias"] or name.rpartition(".")[2]
        return found["lead"] + _NARROWED.format(name=name, condition=condition, alias=alias)

    return re.sub(_IN_CATALOG, narrow, query)


class _CurrentSchemaCursor:
    """A cursor that narrows Django's catalog queries to the current schema.

    No second statement is sent, so that tests which count queries see none of ours.
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, query: Any, params: Any = None) -> Any:
        if isinstance(query, str):
            query = self._narrow(query)
        return self._cursor.execute(query, params)

    @staticmethod
    def _narrow(query: str) -> str:
        return re.sub(_VISIBLE, _IN_CURRENT_SCHEMA, query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


class _PackageCursor(_CurrentSchemaCursor):
    """A cursor that does the same for queries of a package, which need not ask as Django does."""

    @staticmethod
    def _narrow(query: str) -> str:
        narrowed = _CurrentSchemaCursor._narrow(query)
        return narrowed if narrowed != query else narrow_to_schema(query)


def narrow_methods(undo: ExitStack, introspection: type) -> None:
    """Narrow what a package's class adds to Django's introspection, until the stack is closed.

    Packages make instances of that class themselves, so that a mixin would not do.
    """
    for owner in introspection.__mro__:
        is_package_s = owner.__module__.partition(".")[0] not in {"django", "builtins", _OURS}
        for name, method in list(vars(owner).items()) if is_package_s else ():
            if isinstance(method, FunctionType) and method.__code__.co_varnames[1:2] == (
                "cursor",
            ):
                undo.callback(setattr, owner, name, method)
                setattr(owner, name, _narrowing(method))


_OURS = __name__.partition(".")[0]


def _narrowing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def narrowed(self: Any, cursor: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(cursor, _PackageCursor):
            cursor = _PackageCursor(cursor)
        return method(self, cursor, *args, **kwargs)

    return narrowed


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
