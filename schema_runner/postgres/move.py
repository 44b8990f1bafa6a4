"""Move everything from one schema into another with ALTER … SET SCHEMA."""

import re
from typing import NamedTuple

from psycopg import sql

from . import structure
from .server import Connection

# The objects in a schema depend on it in pg_depend ("n"), with one row for each object that can be
# moved on its own: indexes, row types, array types and TOAST tables have none, and follow their
# owners. Members of an extension ("e") stay. A sequence that a column owns ("a", "i") moves with
# the table.
#
# Routines and operators come first, because their identities contain the types of their arguments,
# with the schemas.
_OBJECTS = """
    SELECT identity.type, identity.identity, t.typtype IS DISTINCT FROM 'p'
    FROM pg_catalog.pg_depend d
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) AS identity
    LEFT JOIN pg_catalog.pg_class c
           ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_catalog.pg_type t
           ON d.classid = 'pg_catalog.pg_type'::regclass AND t.oid = d.objid
    WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass
      AND d.refobjid = pg_catalog.to_regnamespace(%s)
      AND d.deptype = 'n'
      AND d.classid <> 'pg_catalog.pg_extension'::regclass
      AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_depend o
          WHERE o.classid = d.classid AND o.objid = d.objid AND o.objsubid = 0
            AND (o.deptype = 'e' OR (c.relkind = 'S' AND o.deptype IN ('a', 'i')))
      )
    ORDER BY d.classid IN ('pg_catalog.pg_proc'::regclass,
                           'pg_catalog.pg_operator'::regclass) DESC, d.objid
"""

# Kinds for which ALTER needs another word than that of pg_identify_object. ALTER AGGREGATE would
# need `(*)` for an aggregate without arguments.
_KEYWORDS = {"aggregate": "ROUTINE", "statistics object": "STATISTICS"}


class SchemaObject(NamedTuple):
    """An object: its kind ("table", "operator class") and its identity, quoted by PostgreSQL.

    `is_movable` is false for shell types (CREATE TYPE name;): ALTER … SET SCHEMA refuses them.
    """

    kind: str
    identity: str
    is_movable: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.identity}"


def list_objects(connection: Connection, schema: str) -> list[SchemaObject]:
    """List the objects in a schema, except members of extensions."""
    quoted = sql.Identifier(schema).as_string()
    return [SchemaObject(*row) for row in connection.execute(_OBJECTS, [quoted])]


def move(connection: Connection, source: str, target: str, *, batch: int) -> list[SchemaObject]:
    """Move everything except members of extensions, `batch` objects in a transaction.

    Return the objects that cannot be moved. References by OID follow a moved object, and names in
    text do not: see `extend_search_paths` and `function_bodies`.
    """
    movable = [item for item in list_objects(connection, source) if item.is_movable]
    destination = sql.Identifier(target)
    for start in range(0, len(movable), batch):
        # Several statements in one string are one transaction.
        connection.execute(
            sql.SQL("; ").join(
                sql.SQL("ALTER {} {} SET SCHEMA {}").format(
                    sql.SQL(_KEYWORDS.get(moved.kind, moved.kind.upper())),
                    sql.SQL(moved.identity),
                    destination,
                )
                for moved in movable[start : start + batch]
            )
        )
    return list_objects(connection, source)


# The setting is a list as in SQL, with elements quoted if necessary.
_ROUTINES_WITH_PATH = """
    SELECT p.oid::regprocedure::text,
           pg_catalog.substr(setting, pg_catalog.length('search_path=') + 1)
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    CROSS JOIN LATERAL pg_catalog.unnest(p.proconfig) AS setting
    WHERE nspname = %s AND setting LIKE 'search_path=%%'
"""


def extend_search_paths(connection: Connection, source: str, target: str) -> None:
    """Put `target` before `source` in each search_path that a routine in `target` sets."""
    # As PostgreSQL quotes the elements of a path: only if necessary.
    quote = "SELECT pg_catalog.quote_ident(%s), pg_catalog.quote_ident(%s)"
    ((old, new),) = connection.execute(quote, [source, target]).fetchall()
    element = re.compile(rf"(?<![^,\s]){re.escape(old)}(?=\s*(,|$))")
    for routine, path in connection.execute(_ROUTINES_WITH_PATH, [target]).fetchall():
        if element.search(path):
            connection.execute(
                sql.SQL("ALTER ROUTINE {} SET search_path = {}").format(
                    sql.SQL(routine), sql.SQL(element.sub(lambda _: f"{new}, {old}", path))
                )
            )


_GRANTS = """
    WITH grants AS (
        SELECT '' AS prefix, privilege_type, 'SCHEMA ' || quote_ident(%(target)s) AS object,
               grantee, is_grantable
        FROM pg_catalog.pg_namespace, pg_catalog.aclexplode(nspacl)
        WHERE nspname = %(source)s AND grantee <> nspowner
        UNION ALL
        SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %%I IN SCHEMA %%I ',
                      pg_catalog.pg_get_userbyid(defaclrole), %(target)s),
               privilege_type,
               CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
                                  WHEN 'f' THEN 'ROUTINES' WHEN 'T' THEN 'TYPES' END,
               grantee, is_grantable
        FROM pg_catalog.pg_default_acl
        JOIN pg_catalog.pg_namespace n ON n.oid = defaclnamespace, pg_catalog.aclexplode(defaclacl)
        WHERE nspname = %(source)s AND pg_catalog.pg_has_role(defaclrole, 'USAGE')
    )
    SELECT format('%%sGRANT %%s ON %%s TO %%s%%s', prefix, privilege_type, object,
                  CASE grantee WHEN 0 THEN 'PUBLIC'
                               ELSE quote_ident(pg_catalog.pg_get_userbyid(grantee)) END,
                  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM grants
"""


def copy_grants(connection: Connection, source: str, target: str) -> None:
    """Copy the privileges and default privileges of schema `source` to `target`.

    Default privileges of a role are left out if the current role is not a member of it (from
    PostgreSQL 16, a member that inherits).
    """
    grants = connection.execute(_GRANTS, {"source": source, "target": target}).fetchall()
    for (grant,) in grants:
        connection.execute(sql.SQL(grant))


# Statements that revert what ALTER DEFAULT PRIVILEGES gave to objects or took from them.
_UNDO_DEFAULTS = """
    {with_objects}
    SELECT format(CASE WHEN has THEN 'REVOKE %%s ON %%s FROM %%s'
                       ELSE 'GRANT %%s ON %%s TO %%s' END,
                  privilege_type, object,
                  CASE grantee WHEN 0 THEN 'PUBLIC'
                               ELSE quote_ident(pg_catalog.pg_get_userbyid(grantee)) END)
    FROM objects, LATERAL (
        (SELECT true, grantee, privilege_type FROM pg_catalog.aclexplode(acl)
         EXCEPT SELECT true, grantee, privilege_type FROM pg_catalog.aclexplode(initial))
        UNION ALL
        (SELECT false, grantee, privilege_type FROM pg_catalog.aclexplode(initial)
         EXCEPT SELECT false, grantee, privilege_type FROM pg_catalog.aclexplode(acl))
    ) AS unlike (has, grantee, privilege_type)
    WHERE acl IS NOT NULL
"""
_HAS_DEFAULTS = "SELECT FROM pg_catalog.pg_default_acl WHERE defaclnamespace = 0"


def sql_undo_default_privileges(connection: Connection, schema: str) -> list[str]:
    """Return statements that give the new objects of a schema PostgreSQL's default privileges.

    ALTER DEFAULT PRIVILEGES without IN SCHEMA has given them others.
    """
    if connection.execute(_HAS_DEFAULTS).fetchone() is None:
        return []
    query = sql.SQL(_UNDO_DEFAULTS).format(with_objects=sql.SQL(structure.OBJECTS))
    return [statement for (statement,) in connection.execute(query, [schema])]
