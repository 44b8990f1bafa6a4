"""Shims: advisory locks that are each worker's own, and what keeps them off a search_path.

Advisory locks belong to a database, so the workers that share one would wait for each other's.
In a search_path of worker schema, shims, `pg_catalog`, `public` the shims come before the
server's own functions, and mix the name of the worker schema into the key.
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
# The worker schema. Not current_schema(), which skips what the current role may not use.
_WORKER = """
    pg_catalog.name(pg_catalog.split_part(pg_catalog.current_setting('search_path'), ',', 1))
"""
# Exclusive or: one worker's keys stay as distinct as they were. The server tells the two forms
# apart by itself. hashname is the lower half of hashnameextended, so both get 64 bits.
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
# A body that is parsed now, strict as its function, and uses each argument once is put into
# the query in place of the call: https://wiki.postgresql.org/wiki/Inlining_of_SQL_functions
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
    """Create the shims in an empty schema, for every role to use.

    Not shimmed are calls qualified with `pg_catalog`, and those whose function was resolved
    when they were stored: in views, defaults, and bodies of BEGIN ATOMIC.
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


# What is looked up by its name: kind, catalog, prefix of the columns there, what else matters.
_CATALOGS = [
    ("relation", "pg_class", "rel", ""),
    # Not the array types that come with a type: they collide where it does.
    ("type", "pg_type", "typ", "AND own.oid NOT IN (SELECT typarray FROM pg_catalog.pg_type)"),
    ("operator", "pg_operator", "opr",
     "AND own.oprleft = system.oprleft AND own.oprright = system.oprright"),
    ("operator class", "pg_opclass", "opc", "AND own.opcmethod = system.opcmethod"),
    ("operator family", "pg_opfamily", "opf", "AND own.opfmethod = system.opfmethod"),
    ("collation", "pg_collation", "coll",
     "AND system.collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding()))"),
    # A default one is looked up by its encodings.
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
    WHERE own.{prefix}namespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(own)s)
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
    WHERE own.pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(own)s)
      AND system.pronamespace = 'pg_catalog'::regnamespace
"""
_MAX_ARGUMENTS = 100  # PostgreSQL's FUNC_MAX_ARGS.


def find_collisions(connection: Connection, schema: str) -> list[str]:
    """List what in a schema would win over something of `pg_catalog` if that came later.

    Each is named as in "type date" or "function lower(text)". The connection's own search_path
    leaves `pg_catalog` first.
    """
    parameters = {"own": schema}
    found = {name for (name,) in connection.execute(_COLLISIONS, parameters)}
    for name, *both in connection.execute(_FUNCTION_PAIRS, parameters):
        if _call_signatures(*both[:3]) & _call_signatures(*both[3:]):
            found.add(name)
    return sorted(found)


def _call_signatures(declared: list[int], defaults: int, variadic: int) -> set[tuple[int, ...]]:
    """Return the types of arguments, in order, that calls of a function can have.

    The path decides between functions that a call fits with the same types, though one may
    have defaults for what the call leaves out, or gather arguments with VARIADIC:
    https://www.postgresql.org/docs/current/typeconv-func.html
    """
    most = len(declared)
    calls = {tuple(declared[:given]) for given in range(most - defaults, most + 1)}
    if variadic:
        for gathered in range(1, _MAX_ARGUMENTS - most + 2):
            calls.add((*declared[:-1], *[variadic] * gathered))
    return calls
