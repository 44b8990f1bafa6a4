"""Moving everything from one schema into another with ALTER … SET SCHEMA."""

import re
from typing import NamedTuple

from psycopg import sql

from . import structure
from .server import Connection

# What lies in a schema depends on it in pg_depend ("n"), one row for each object that can be
# moved by itself: indexes, row types, array types and TOAST tables follow their owners and
# have none. Members of an extension ("e") stay, and so does a sequence that a column owns
# ("a", "i"): it moves with the table.
#
# Routines and operators come first: their identity has the types of their arguments in it,
# which would no longer be true once those types had moved.
_OBJECTS = """
    SELECT identity.type, identity.identity, t.typtype IS DISTINCT FROM 'p'
    FROM pg_catalog.pg_depend d
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) AS identity
    LEFT JOIN pg_catalog.pg_class c
           ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_catalog.pg_type t
           ON d.classid = 'pg_catalog.pg_type'::regclass AND t.oid = d.objid
    WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass
      AND d.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s)
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

# pg_identify_object's names for kinds of objects are ALTER's own but for this one.
_KEYWORDS = {"statistics object": "STATISTICS"}


class SchemaObject(NamedTuple):
    """One object: its kind ("table", "operator class") and its identity, quoted by the server.

    A shell type (CREATE TYPE name;) is the one kind that ALTER … SET SCHEMA refuses.
    """

    kind: str
    identity: str
    is_movable: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.identity}"


def list_objects(connection: Connection, schema: str) -> list[SchemaObject]:
    """List what lies in a schema and belongs to no extension."""
    return [SchemaObject(*row) for row in connection.execute(_OBJECTS, [schema])]


def move(connection: Connection, source: str, target: str, *, batch: int) -> list[SchemaObject]:
    """Move everything but extensions' members, `batch` objects in a transaction.

    Return what is left behind because it cannot be moved. Whatever refers to a moved object
    follows it, because PostgreSQL refers by OID; text does not: see `repoint_routines`.
    """
    movable = [found for found in list_objects(connection, source) if found.is_movable]
    destination = sql.Identifier(target)
    for start in range(0, len(movable), batch):
        # Several statements sent as one are one transaction.
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


# The list is as SQL has it, each element quoted where it must be.
_ROUTINES_WITH_PATH = """
    SELECT p.oid::regprocedure::text,
           pg_catalog.substr(setting, pg_catalog.length('search_path=') + 1)
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    CROSS JOIN LATERAL pg_catalog.unnest(p.proconfig) AS setting
    WHERE nspname = %s AND setting LIKE 'search_path=%%'
"""


def extend_search_paths(connection: Connection, source: str, target: str) -> None:
    """Put `target` ahead of `source` in the search_path that routines in `target` set."""
    quoted_source, quoted_target = _quote(connection, source, target)
    _replace_in_paths(connection, target, quoted_source, f"{quoted_target}, {quoted_source}")


def _replace_in_paths(connection: Connection, schema: str, old: str, new: str) -> None:
    element = re.compile(rf"(?<![^,\s]){re.escape(old)}(?=\s*(,|$))")
    for routine, path in connection.execute(_ROUTINES_WITH_PATH, [schema]).fetchall():
        if element.search(path):
            connection.execute(
                sql.SQL("ALTER ROUTINE {} SET search_path = {}").format(
                    sql.SQL(routine), sql.SQL(element.sub(lambda _: new, path))
                )
            )


def _quote(connection: Connection, *names: str) -> list[str]:
    """Quote names as the server does, which is only where they must be."""
    rows = connection.execute(
        "SELECT pg_catalog.quote_ident(name) FROM pg_catalog.unnest(%s::text[]) AS name",
        [list(names)],
    )
    return [name for (name,) in rows]


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
    """Give `target` the grants and the default privileges of `source`.

    Default privileges of other roles than the current one can be set only by their members;
    from PostgreSQL 16, by those that inherit. Others' are left out.
    """
    grants = connection.execute(_GRANTS, {"source": source, "target": target}).fetchall()
    for (grant,) in grants:
        connection.execute(sql.SQL(grant))


# Privileges that something has from default privileges, or lacks, as statements that mend that.
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
    """Return what gives all in a schema the privileges that PostgreSQL gives by itself.

    For what is new in it: ALTER DEFAULT PRIVILEGES without a schema reaches that too.
    """
    if connection.execute(_HAS_DEFAULTS).fetchone() is None:
        return []
    query = sql.SQL(_UNDO_DEFAULTS).format(with_objects=sql.SQL(structure.OBJECTS))
    return [statement for (statement,) in connection.execute(query, [schema])]
