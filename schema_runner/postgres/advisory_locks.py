"""Shims: functions that keep the advisory locks of workers apart.

Advisory locks belong to a database, so workers that share one would wait for each other. With the
search_path worker schema, shims, `pg_catalog`, `public`, the shims come before PostgreSQL's own
functions, and mix the name of the worker schema into the key.
"""

from psycopg import sql

from .server import Connection

_FUNCTIONS = """
    SELECT proname, pg_catalog.pg_get_function_arguments(oid),
           pg_catalog.oidvectortypes(proargtypes), pg_catalog.format_type(prorettype, NULL)
    FROM pg_catalog.pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^pg_(try_)?advisory_'
      AND pg_catalog.oidvectortypes(proargtypes) = ANY(%s)
"""
# The worker schema. Not current_schema(), which skips schemas that the role may not use.
_WORKER = """
    pg_catalog.name(pg_catalog.split_part(pg_catalog.current_setting('search_path'), ',', 1))
"""
# XOR keeps distinct keys of a worker distinct. PostgreSQL keeps the two forms of keys
# apart. hashname is the lower half of hashnameextended, so both forms mix in 64 bits.
_KEYS = {
    "bigint": f"""
        pg_catalog.int8xor($1, pg_catalog.hashnameextended({_WORKER}, 0))
    """,
    "integer, integer": f"""
        pg_catalog.int4xor($1, pg_catalog.int4(pg_catalog.int8shr(
            pg_catalog.hashnameextended({_WORKER}, 0), 32))),
        pg_catalog.int4xor($2, pg_catalog.hashname({_WORKER}))
    """,
}
# Meets the conditions for inlining: https://wiki.postgresql.org/wiki/Inlining_of_SQL_functions
_CREATE = """
    CREATE FUNCTION {schema}.{name}({arguments}) RETURNS {result}
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
    RETURN pg_catalog.{name}({keys})
"""
_GRANT = """
    GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO PUBLIC
"""


def create_shims(connection: Connection, schema: str) -> None:
    """Create the shims in an empty schema, and grant their use to all roles.

    They do not cover calls qualified with `pg_catalog`, nor stored calls, which were resolved
    earlier: in views, defaults, and BEGIN ATOMIC bodies.
    """
    identifier = sql.Identifier(schema)
    functions = connection.execute(_FUNCTIONS, [list(_KEYS)]).fetchall()
    statements = [
        sql.SQL(_CREATE).format(
            schema=identifier,
            name=sql.Identifier(name),
            arguments=sql.SQL(arguments),
            result=sql.SQL(result),
            keys=sql.SQL(_KEYS[types]),
        )
        for name, arguments, types, result in functions
    ]
    connection.execute(sql.SQL(";").join([*statements, sql.SQL(_GRANT).format(schema=identifier)]))


# Objects that are looked up by name: kind, catalog, prefix of its columns, further conditions.
_CATALOGS = [
    ("relation", "pg_class", "rel", ""),
    # Array types collide only if their element types do.
    ("type", "pg_type", "typ", "AND own.oid NOT IN (SELECT typarray FROM pg_catalog.pg_type)"),
    ("operator", "pg_operator", "opr",
     "AND own.oprleft = system.oprleft AND own.oprright = system.oprright"),
    ("operator class", "pg_opclass", "opc", "AND own.opcmethod = system.opcmethod"),
    ("operator family", "pg_opfamily", "opf", "AND own.opfmethod = system.opfmethod"),
    ("collation", "pg_collation", "coll",
     "AND system.collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding()))"),
    # Default conversions are looked up by encodings.
    ("conversion", "pg_conversion", "con",
     "OR own.condefault AND system.condefault AND own.conforencoding = system.conforencoding"
     " AND own.contoencoding = system.contoencoding"),
    ("text search configuration", "pg_ts_config", "cfg", ""),
    ("text search dictionary", "pg_ts_dict", "dict", ""),
    ("text search parser", "pg_ts_parser", "prs", ""),
    ("text search template", "pg_ts_template", "tmpl", ""),
]  # fmt: skip
_COLLISION = """
    SELECT '{kind} ' || own.{prefix}name
    FROM pg_catalog.{catalog} own
    JOIN pg_catalog.{catalog} system ON own.{prefix}name = system.{prefix}name {more}
    WHERE own.{prefix}namespace = pg_catalog.to_regnamespace(%(own)s)
      AND system.{prefix}namespace = 'pg_catalog'::regnamespace
"""
_COLLISIONS = " UNION ".join(
    _COLLISION.format(kind=kind, catalog=catalog, prefix=prefix, more=more)
    for kind, catalog, prefix, more in _CATALOGS
)
_FUNCTION_PAIRS = """
    SELECT 'function ' || proname || '(' || oidvectortypes(own.proargtypes) || ')',
           own.proargtypes::oid[], own.pronargdefaults, own.provariadic,
           system.proargtypes::oid[], system.pronargdefaults, system.provariadic
    FROM pg_catalog.pg_proc own JOIN pg_catalog.pg_proc system USING (proname)
    WHERE own.pronamespace = pg_catalog.to_regnamespace(%(own)s)
      AND system.pronamespace = 'pg_catalog'::regnamespace
"""
_MAX_ARGUMENTS = 100  # PostgreSQL's FUNC_MAX_ARGS.


def find_collisions(connection: Connection, schema: str) -> list[str]:
    """List objects in a schema that would hide one of `pg_catalog` if that came after it.

    Examples are "type date" and "function lower(text)". The connection's search_path must have
    `pg_catalog` first.
    """
    parameters = {"own": schema}
    collisions = {name for (name,) in connection.execute(_COLLISIONS, parameters)}
    for name, *signatures in connection.execute(_FUNCTION_PAIRS, parameters):
        if _call_signatures(*signatures[:3]) & _call_signatures(*signatures[3:]):
            collisions.add(name)
    return sorted(collisions)


def _call_signatures(declared: list[int], defaults: int, variadic: int) -> set[tuple[int, ...]]:
    """Return the argument types with which a function can be called.

    If a call fits two functions with the same types, the path decides, even if one of them has
    defaults or VARIADIC: https://www.postgresql.org/docs/current/typeconv-func.html
    """
    most = len(declared)
    calls = {tuple(declared[:given]) for given in range(most - defaults, most + 1)}
    if variadic:
        for gathered in range(1, _MAX_ARGUMENTS - most + 2):
            calls.add((*declared[:-1], *[variadic] * gathered))
    return calls
