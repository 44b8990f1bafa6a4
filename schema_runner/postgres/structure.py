"""The structure of a schema: its inventory, and a version that changes with every alteration."""

from functools import cache
from typing import TypeAlias

from psycopg import sql

from .server import Connection

Version: TypeAlias = int

# The columns by which catalog rows belong to a schema, or to a row of another catalog that does.
# PostgreSQL changes such rows in place only for statistics, so a hash of their versions (ctid and
# xmin) changes with every alteration.
BY_NAMESPACE = {
    "pg_collation": "collnamespace",
    "pg_constraint": "connamespace",
    "pg_conversion": "connamespace",
    "pg_default_acl": "defaclnamespace",
    "pg_opclass": "opcnamespace",
    "pg_operator": "oprnamespace",
    "pg_opfamily": "opfnamespace",
    "pg_proc": "pronamespace",
    "pg_statistic_ext": "stxnamespace",
    "pg_ts_config": "cfgnamespace",
    "pg_ts_dict": "dictnamespace",
    "pg_ts_parser": "prsnamespace",
    "pg_ts_template": "tmplnamespace",
    "pg_type": "typnamespace",
}
BY_OWNER = {
    ("pg_aggregate", "aggfnoid"): "pg_proc",
    ("pg_amop", "amopfamily"): "pg_opfamily",
    ("pg_amproc", "amprocfamily"): "pg_opfamily",
    ("pg_attrdef", "adrelid"): "pg_class",
    ("pg_attribute", "attrelid"): "pg_class",
    ("pg_cast", "castfunc"): "pg_proc",
    ("pg_cast", "castsource"): "pg_type",
    ("pg_cast", "casttarget"): "pg_type",
    ("pg_enum", "enumtypid"): "pg_type",
    ("pg_foreign_table", "ftrelid"): "pg_class",
    ("pg_index", "indexrelid"): "pg_class",
    ("pg_inherits", "inhrelid"): "pg_class",
    ("pg_partitioned_table", "partrelid"): "pg_class",
    ("pg_policy", "polrelid"): "pg_class",
    ("pg_range", "rngtypid"): "pg_type",
    ("pg_transform", "trftype"): "pg_type",
    ("pg_ts_config_map", "mapcfg"): "pg_ts_config",
}
PARTS_OF_RELATIONS = {"pg_policy": "polrelid", "pg_rewrite": "ev_class", "pg_trigger": "tgrelid"}
# Catalogs hashed by value, because row versions also change without an alteration: TRUNCATE writes
# pg_class, a reset disables triggers and rules for a while, and ALTER SEQUENCE … RESTART writes
# pg_sequence.
_HASHED_BY_VALUE = [
    """
    SELECT oid, relname, relkind, relowner, relnatts, relchecks, relpersistence, relreplident,
           relrowsecurity, relforcerowsecurity, relam, reltablespace, reloptions, relispopulated,
           relispartition, relacl::text
    FROM pg_catalog.pg_class WHERE relnamespace = (TABLE ours)
    """,
    """
    SELECT oid, tgname, tgfoid, tgtype, tgenabled, tgdeferrable, tginitdeferred, tgattr::int2[],
           tgargs, tgqual::text, tgoldtable, tgnewtable
    FROM pg_catalog.pg_trigger
    WHERE tgrelid IN (SELECT objid FROM own WHERE classid = 'pg_catalog.pg_class'::regclass)
    """,
    """
    SELECT oid, rulename, ev_type, ev_enabled, is_instead, ev_qual::text, ev_action::text
    FROM pg_catalog.pg_rewrite
    WHERE ev_class IN (SELECT objid FROM own WHERE classid = 'pg_catalog.pg_class'::regclass)
    """,
    "SELECT s.* FROM pg_catalog.pg_sequence s JOIN own ON seqrelid = objid",
    "SELECT nspacl::text FROM pg_catalog.pg_namespace WHERE oid = (TABLE ours)",
    "SELECT d.* FROM pg_catalog.pg_description d WHERE (classoid, objoid) IN (TABLE own)",
    "SELECT l.* FROM pg_catalog.pg_seclabel l WHERE (classoid, objoid) IN (TABLE own)",
    # Sequences owned by columns, and dependencies on extensions.
    """
    SELECT d.objid, refobjid, refobjsubid, deptype
    FROM pg_catalog.pg_depend d JOIN own USING (classid, objid)
    WHERE deptype = 'x'
       OR deptype = 'a' AND EXISTS (SELECT FROM pg_catalog.pg_sequence WHERE seqrelid = objid)
    """,
]


_OWN = sql.SQL("""
    SELECT {name}::regclass AS classid, oid AS objid
    FROM pg_catalog.{catalog} WHERE {column} = (TABLE ours)
""")
_PARTS = sql.SQL("""
    SELECT {name}::regclass, oid FROM pg_catalog.{catalog}
    WHERE {column} IN (SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = (TABLE ours))
""")
_ROWS = sql.SQL("""
    SELECT tableoid, ctid, xmin FROM pg_catalog.{catalog} WHERE {column} = (TABLE ours)
""")
_ROWS_OF_OWNER = sql.SQL("""
    SELECT tableoid, ctid, xmin FROM pg_catalog.{catalog}
    WHERE {column} IN (SELECT objid FROM own WHERE classid = {owner}::regclass)
""")


def _format(template: sql.SQL, catalog: str, column: str, owner: str = "") -> sql.Composed:
    return template.format(
        name=f"pg_catalog.{catalog}",
        catalog=sql.Identifier(catalog),
        column=sql.Identifier(column),
        owner=f"pg_catalog.{owner}",
    )


@cache
def _version_query() -> bytes:
    own = [_format(_OWN, *pair) for pair in (("pg_class", "relnamespace"), *BY_NAMESPACE.items())]
    own += [_format(_PARTS, *pair) for pair in PARTS_OF_RELATIONS.items()]
    rows = [
        *(_format(_ROWS, *pair) for pair in BY_NAMESPACE.items()),
        *(_format(_ROWS_OF_OWNER, *pair, owner) for pair, owner in BY_OWNER.items()),
        *map(sql.SQL, _HASHED_BY_VALUE),
    ]
    hashed = sql.SQL("SELECT pg_catalog.hash_record_extended(r, {}) FROM ({}) r")
    hashes = [hashed.format(number, query) for number, query in enumerate(rows)]
    both = sql.SQL(" UNION ALL ")
    query = sql.SQL("""
        WITH ours AS MATERIALIZED (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s),
             own AS MATERIALIZED ({})
        SELECT pg_catalog.bit_xor(hash) FROM ({}) AS hashes (hash)
    """)
    return query.format(both.join(own), both.join(hashes)).as_bytes()


# All objects that have privileges, with their ACL and the ACL that PostgreSQL gives by default.
OBJECTS = """
    WITH ours AS MATERIALIZED (
        SELECT oid, quote_ident(nspname) || '.' AS prefix, nspowner, nspacl
        FROM pg_catalog.pg_namespace WHERE nspname = %s
    ), objects (object, owner, acl, initial) AS (
        SELECT CASE relkind WHEN 'S' THEN 'sequence ' ELSE 'table ' END
                   || prefix || quote_ident(relname),
               relowner, relacl,
               pg_catalog.acldefault((CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char",
                                     relowner)
        FROM pg_catalog.pg_class JOIN ours ON relnamespace = ours.oid
        WHERE relkind NOT IN ('i', 'I', 'c')
        UNION ALL
        SELECT 'routine ' || p.oid::regprocedure, proowner, proacl,
               pg_catalog.acldefault('f', proowner)
        FROM pg_catalog.pg_proc p JOIN ours ON pronamespace = ours.oid
        UNION ALL
        SELECT 'type ' || prefix || quote_ident(typname), typowner, typacl,
               pg_catalog.acldefault('T', typowner)
        FROM pg_catalog.pg_type JOIN ours ON typnamespace = ours.oid WHERE typtype <> 'c'
          AND typelem = 0
    )
"""
# Names have no schema, and columns are numbered without the dropped ones. Definitions are compared
# by `Script.differences`.
_INVENTORY = """
    {with_objects}, relations AS MATERIALIZED (
        SELECT c.oid, relname, relkind, relispopulated
        FROM pg_catalog.pg_class c JOIN ours ON relnamespace = ours.oid
    ), facts (name, detail) AS (
        SELECT i.type || ' ' || i.identity, NULL
        FROM ours JOIN pg_catalog.pg_depend d ON refobjid = ours.oid AND d.deptype = 'n'
              AND refclassid = 'pg_catalog.pg_namespace'::regclass,
             pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                          WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')
        UNION ALL
        SELECT object,
               concat_ws(' ', owner::regrole,
                         (SELECT string_agg(item::text, ' ' ORDER BY item::text)
                          FROM unnest(coalesce(acl, initial)) item))
        FROM objects
        UNION ALL
        SELECT 'schema privileges', concat_ws(' ', grantee::regrole, privilege_type,
                                                     is_grantable)
        FROM ours, pg_catalog.aclexplode(nspacl) WHERE grantee <> nspowner
        UNION ALL
        SELECT 'default privileges', concat_ws(' ', defaclrole::regrole, defaclobjtype,
                                               grantee::regrole, privilege_type, is_grantable)
        FROM pg_catalog.pg_default_acl JOIN ours ON defaclnamespace = ours.oid,
             pg_catalog.aclexplode(defaclacl)
        UNION ALL
        SELECT format('materialized view %%s', relname), 'populated'
        FROM relations WHERE relkind = 'm' AND relispopulated
        UNION ALL
        SELECT format('table column %%s.%%s', relname, attname),
               concat_ws(' ', row_number() OVER (PARTITION BY attrelid ORDER BY attnum),
                         pg_catalog.format_type(atttypid, atttypmod),
                         CASE WHEN attnotnull THEN 'NOT NULL' END, attidentity, attgenerated)
        FROM relations r JOIN pg_catalog.pg_attribute ON attrelid = r.oid
        WHERE relkind NOT IN ('i', 'I', 'S') AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT format('index %%s', r.relname), concat_ws(' ', t.relname, indisunique, indisvalid)
        FROM relations r JOIN pg_catalog.pg_index ON indexrelid = r.oid
                         JOIN relations t ON t.oid = indrelid
        UNION ALL
        SELECT format('constraint %%s on %%s', conname, relname),
               concat_ws(' ', contype, condeferrable, condeferred, convalidated)
        FROM relations r JOIN pg_catalog.pg_constraint ON conrelid = r.oid
        WHERE contype <> 'n'
        UNION ALL
        SELECT format('trigger %%s on %%s', coalesce(conname, tgname), relname),
               tgenabled::text
        FROM relations r JOIN pg_catalog.pg_trigger t ON tgrelid = r.oid
             LEFT JOIN pg_catalog.pg_constraint c ON c.oid = tgconstraint AND tgisinternal
        WHERE NOT tgisinternal OR tgenabled <> 'O'
        UNION ALL
        SELECT format('rule %%s on %%s', rulename, relname), ev_enabled::text
        FROM relations r JOIN pg_catalog.pg_rewrite ON ev_class = r.oid
        UNION ALL
        SELECT format('policy %%s on %%s', polname, relname), polcmd::text
        FROM relations r JOIN pg_catalog.pg_policy ON polrelid = r.oid
        UNION ALL
        SELECT format('cast from %%s to %%s', castsource::regtype, casttarget::regtype),
               castcontext::text
        FROM pg_catalog.pg_cast
        WHERE EXISTS (SELECT FROM pg_catalog.pg_type JOIN ours ON typnamespace = ours.oid
                      WHERE pg_type.oid IN (castsource, casttarget))
    )
    SELECT replace(name, prefix, '') || coalesce(': ' || replace(detail, prefix, ''), '')
    FROM facts, ours
"""


def version(connection: Connection, schema: str) -> Version:
    """Return a hash that changes when an object in a schema is created, altered or dropped.

    Rows, sequence values, TRUNCATE, VACUUM, and triggers that are disabled and enabled again do
    not change it.
    """
    (hashed,) = connection.execute(_version_query(), [schema]).fetchone() or (0,)
    return int(hashed or 0)


def inventory(connection: Connection, schema: str) -> frozenset[str]:
    """List the objects in a schema with their properties, such as "index book_title: book f t".

    Schemas with the same structure have the same inventory. Members of extensions are left out.
    """
    # Rolled back, because the settings would last until the end of a caller's transaction.
    with connection.transaction(force_rollback=True):
        # PostgreSQL qualifies each name that is not on the path.
        connection.execute("SET LOCAL search_path = ''; SET LOCAL quote_all_identifiers = off")
        query = sql.SQL(_INVENTORY).format(with_objects=sql.SQL(OBJECTS))
        return frozenset(fact for (fact,) in connection.execute(query, [schema]))


def differences(left: frozenset[str], right: frozenset[str]) -> list[str]:
    """List the objects that differ between two inventories, such as "table column book.title"."""
    return sorted({fact.partition(": ")[0] for fact in left ^ right})
