"""One query for all catalog entries of a schema, with no OID in its result."""

from collections.abc import Iterator
from typing import NamedTuple

from psycopg import sql

from schema_runner.postgres.server import Connection

# The catalogs to read, with the columns by which a row belongs to a schema: its own OID, or that
# of an object that it is a part of.
_CATALOGS = {
    "pg_class": ["oid"],
    "pg_attribute": ["attrelid"],
    "pg_attrdef": ["adrelid"],
    "pg_constraint": ["conrelid", "contypid"],
    "pg_index": ["indexrelid"],
    "pg_inherits": ["inhrelid"],
    "pg_partitioned_table": ["partrelid"],
    "pg_sequence": ["seqrelid"],
    "pg_foreign_table": ["ftrelid"],
    "pg_trigger": ["tgrelid"],
    "pg_rewrite": ["ev_class"],
    "pg_policy": ["polrelid"],
    "pg_statistic_ext": ["oid"],
    "pg_type": ["oid"],
    "pg_enum": ["enumtypid"],
    "pg_range": ["rngtypid"],
    "pg_cast": ["castsource", "casttarget", "castfunc"],
    "pg_transform": ["trftype", "trffromsql", "trftosql"],
    "pg_proc": ["oid"],
    "pg_aggregate": ["aggfnoid"],
    "pg_operator": ["oid"],
    "pg_opclass": ["oid"],
    "pg_opfamily": ["oid"],
    "pg_amop": ["amopfamily", "amopopr"],
    "pg_amproc": ["amprocfamily", "amproc"],
    "pg_ts_config": ["oid"],
    "pg_ts_config_map": ["mapcfg"],
    "pg_ts_dict": ["oid"],
    "pg_ts_parser": ["oid"],
    "pg_ts_template": ["oid"],
    "pg_collation": ["oid"],
    "pg_conversion": ["oid"],
}

# Columns about storage, statistics or hints: `relhasindex` and similar ones stay true after the
# last index is dropped, and `relnatts` counts dropped columns.
_IGNORED = {
    "oid", "relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen",
    "reltoastrelid", "relfrozenxid", "relminmxid", "relrewrite", "relhasindex", "relhasrules",
    "relhastriggers", "relhassubclass", "relnatts", "attnum", "atthasmissing", "attmissingval",
    "attisdropped",
    "indcheckxmin", "tgname",
}  # fmt: skip

# Expressions for columns that cannot be compared: parsed expressions, column numbers, and names
# that contain an OID (the triggers behind foreign keys).
_WRITTEN_OUT = {
    "pg_class": {"partition bound": "pg_get_expr(r.relpartbound, r.oid)"},
    "pg_attribute": {
        "position": "row_number() OVER (PARTITION BY r.attrelid ORDER BY r.attnum)",
        "comment": "col_description(r.attrelid, r.attnum)",
        # Since PostgreSQL 15.20, the server stores there when a column was created.
        "attoptions": "(SELECT concat(string_agg(o, ', '))"
        " FROM unnest(r.attoptions) o WHERE NOT starts_with(o, 'pg_attver='))",
    },
    "pg_attrdef": {"expression": "pg_get_expr(r.adbin, r.adrelid)"},
    "pg_constraint": {
        "definition": "pg_get_constraintdef(r.oid)",
        # For a partition's key, it depends on how the partition was created.
        "connoinherit": "r.connoinherit AND r.contype IN ('c', 'n')",
    },
    "pg_index": {"definition": "pg_get_indexdef(r.indexrelid)"},
    "pg_partitioned_table": {"partition key": "pg_get_partkeydef(r.partrelid)"},
    "pg_trigger": {
        "definition": "CASE WHEN NOT r.tgisinternal THEN pg_get_triggerdef(r.oid) END",
        "tgparentid": "r.tgparentid <> 0",
    },
    "pg_rewrite": {"definition": "pg_get_ruledef(r.oid)"},
    "pg_policy": {
        "using": "pg_get_expr(r.polqual, r.polrelid)",
        "check": "pg_get_expr(r.polwithcheck, r.polrelid)",
    },
    "pg_statistic_ext": {"definition": "pg_get_statisticsobjdef(r.oid)"},
    # The text of a domain's default is that of its creation.
    "pg_type": {"typdefault": "coalesce(pg_get_expr(r.typdefaultbin, 0), r.typdefault)"},
    "pg_enum": {
        "enumsortorder": "row_number() OVER (PARTITION BY r.enumtypid ORDER BY r.enumsortorder)"
    },
    "pg_proc": {
        "arguments": "pg_get_function_arguments(r.oid)",
        "body": "pg_get_function_sqlbody(r.oid)",
        # With dots, so that the schema is matched here as before the name of an object.
        "proconfig": "(SELECT string_agg(CASE WHEN starts_with(c, 'search_path=')"
        r" THEN regexp_replace(c, '(,|$)', '.\1', 'g') ELSE c END, '; ')"
        " FROM unnest(r.proconfig) c)",
    },
}
_PARTS = {
    "pg_attribute": "r.attnum > 0 AND NOT r.attisdropped",
}
_IDENTITIES = {
    "pg_attribute": "'pg_class'::regclass, r.attrelid, r.attnum",
    "pg_enum": "'pg_type'::regclass, r.enumtypid, 0",
    "pg_trigger": "CASE WHEN r.tgisinternal THEN 'pg_constraint'::regclass"
    " ELSE 'pg_trigger'::regclass END,"
    " CASE WHEN r.tgisinternal THEN r.tgconstraint ELSE r.oid END, 0",
}

# The default privileges of the owner and PUBLIC.
_DEFAULT_PRIVILEGES = {
    "relacl": "acldefault(CASE r.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, r.relowner)",
    "attacl": "'{}'::aclitem[]",
    "proacl": "acldefault('f', r.proowner)",
    "typacl": "acldefault('T', r.typowner)",
}

# Types that print an OID as a name, much faster than pg_identify_object.
_ALIASES = {
    "pg_authid": "regrole",
    "pg_class": "regclass",
    "pg_collation": "regcollation",
    "pg_operator": "regoperator",
    "pg_proc": "regprocedure",
    "pg_ts_config": "regconfig",
    "pg_ts_dict": "regdictionary",
    "pg_type": "regtype",
}

# The server's own data about OID columns: which catalog they refer to. A column number ("attnum")
# refers to pg_attribute.
_COLUMNS = """
    WITH keys AS MATERIALIZED (
        SELECT fktable, fk, pktable::regclass::text AS catalog, is_array
        FROM pg_get_catalog_foreign_keys(), unnest(fkcols, pkcols) AS pair (fk, pk)
        WHERE pk IN ('oid', 'attnum')
    )
    SELECT c.relname, a.attname, a.atttypid::regtype::text, catalog, coalesce(is_array, false)
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN keys ON fktable = c.oid AND fk = a.attname
    WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname = ANY(%s)
    ORDER BY c.relname, a.attnum
"""

# Objects in the schema, except members of extensions. Indexes and the rows behind composite types
# depend on their owners instead. Row types and array types are left out: they follow from their
# tables and elements.
_OWN = """
    WITH direct AS MATERIALIZED (
        SELECT d.classid, d.objid AS oid
        FROM pg_depend d
        WHERE d.refclassid = 'pg_namespace'::regclass
          AND d.refobjid = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
          AND NOT EXISTS (SELECT FROM pg_depend e
                          WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')
    ), own AS MATERIALIZED (
        TABLE direct
        UNION ALL
        SELECT 'pg_class'::regclass, indexrelid
        FROM pg_index JOIN direct ON classid = 'pg_class'::regclass AND oid = indrelid
        UNION ALL
        SELECT 'pg_class'::regclass, typrelid
        FROM pg_type t JOIN direct d ON classid = 'pg_type'::regclass AND d.oid = t.oid
        WHERE typrelid <> 0
    )
"""
# The privileges of roles other than the owner, and what has no catalog to itself.
_REST = """
    SELECT 'schema', 'privileges', format('%%s %%s %%s', grantee::regrole, privilege_type,
                                          is_grantable)
    FROM pg_namespace, aclexplode(nspacl) WHERE nspname = %(schema)s AND grantee <> nspowner
    UNION ALL
    SELECT 'schema', 'default privileges', format('%%s %%s %%s %%s %%s', defaclrole::regrole,
                                                  defaclobjtype, grantee::regrole,
                                                  privilege_type, is_grantable)
    FROM pg_default_acl, aclexplode(defaclacl)
    WHERE defaclnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    UNION ALL
    SELECT object.type, object.identity, format('%%s %%s', d.deptype, other.identity)
    FROM own JOIN pg_depend d ON d.classid = own.classid AND d.objid = own.oid,
         pg_identify_object(d.classid, d.objid, d.objsubid) AS object,
         pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) AS other
    WHERE d.deptype = 'x'
       OR (d.deptype IN ('a', 'i') AND d.refobjsubid > 0 AND d.classid = 'pg_class'::regclass
           AND EXISTS (SELECT FROM pg_sequence WHERE seqrelid = d.objid))
    UNION ALL
    SELECT object.type, object.identity, format('label %%s %%s', provider, label)
    FROM pg_seclabel, pg_identify_object(classoid, objoid, objsubid) AS object
    WHERE (classoid, objoid) IN (SELECT classid, oid FROM own)
"""


class _Column(NamedTuple):
    name: str
    type: str
    refers_to: str | None
    is_array: bool


# By server version. A forked process inherits those of its parent.
_QUERIES: dict[int, bytes] = {}


def query(connection: Connection) -> bytes:
    """Return the query for kind, identity and properties, as text, of everything in a schema.

    Its parameter `schema` is the name of the schema. With an empty search_path, all names in its
    result are qualified.
    """
    version = connection.info.server_version
    if version not in _QUERIES:
        _QUERIES[version] = _query(connection).as_bytes(connection)
    return _QUERIES[version]


def _query(connection: Connection) -> sql.Composed:
    columns: dict[str, list[_Column]] = {catalog: [] for catalog in _CATALOGS}
    for catalog, *column in connection.execute(_COLUMNS, [list(_CATALOGS)]):
        columns[catalog].append(_Column(*column))
    selects = [_select(catalog, columns[catalog]) for catalog in _CATALOGS]
    return sql.SQL(_OWN) + sql.SQL(" UNION ALL ").join([*selects, sql.SQL(_REST)])


def _select(catalog: str, columns: list[_Column]) -> sql.Composed:
    refers_to = {column.name: column.refers_to or catalog for column in columns}
    # A row without an identity is a part of its owner.
    named = "oid" if "oid" in refers_to else _CATALOGS[catalog][0]
    identity = sql.SQL("{}::regclass, r.{}, 0").format(refers_to[named], sql.Identifier(named))
    properties = dict(_properties(columns))
    if named == "oid":
        properties["comment"] = sql.SQL("obj_description(r.oid, {})").format(catalog)
    for name, expression in _WRITTEN_OUT.get(catalog, {}).items():
        properties[name] = sql.SQL(expression)
    return sql.SQL(
        "SELECT i.type, i.identity, concat_ws(', ', {properties})"
        " FROM {catalog} AS r, pg_identify_object({identity}) AS i WHERE ({belongs}) AND {is_part}"
    ).format(
        properties=sql.SQL(", ").join(
            sql.SQL("{} || ({})::text").format(f"{name} ", expression)
            for name, expression in properties.items()
        ),
        catalog=sql.Identifier(catalog),
        identity=sql.SQL(_IDENTITIES[catalog]) if catalog in _IDENTITIES else identity,
        belongs=sql.SQL(" OR ").join(
            sql.SQL("({}::regclass, r.{}) IN (SELECT classid, oid FROM own)").format(
                refers_to[name], sql.Identifier(name)
            )
            for name in _CATALOGS[catalog]
        ),
        is_part=sql.SQL(_PARTS.get(catalog, "true")),
    )


def _properties(columns: list[_Column]) -> Iterator[tuple[str, sql.Composable]]:
    """Yield the names of columns, and expressions for their values without OIDs."""
    for column in columns:
        value = sql.Identifier("r", column.name)
        if column.name in _IGNORED or column.type == "pg_node_tree":
            continue
        if column.type == "aclitem[]":
            # NULL stands for the defaults, and an empty list for no privileges.
            defaults = sql.SQL(_DEFAULT_PRIVILEGES[column.name])
            yield (
                column.name,
                sql.SQL(
                    "(SELECT concat(string_agg(a::text, ', ' ORDER BY a::text))"
                    " FROM unnest(coalesce({}, {})) a)"
                ).format(value, defaults),
            )
        elif column.refers_to is None:
            yield column.name, value
        elif column.refers_to != "pg_attribute":
            yield column.name, _names(value, column) if column.is_array else _name(value, column)


def _names(value: sql.Composable, column: _Column) -> sql.Composed:
    return sql.SQL(
        "(SELECT string_agg({}::text, ', ' ORDER BY n)"
        " FROM unnest({}) WITH ORDINALITY AS u (x, n))"
    ).format(_name(sql.Identifier("u", "x"), column), value)


def _name(value: sql.Composable, column: _Column) -> sql.Composed:
    """Return the expression for the name of the object that an OID refers to."""
    catalog = column.refers_to or ""
    if catalog == "pg_namespace":
        return sql.SQL("{}::regnamespace || '.'").format(value)
    if alias := _ALIASES.get(catalog):
        return sql.SQL("{}::oid::{}").format(value, sql.SQL(alias))
    return sql.SQL("(pg_identify_object({}::regclass, {}, 0)).identity").format(catalog, value)
