"""The state of the project's own database, except the schemas of runs, to detect changes."""

from functools import cache
from typing import NamedTuple, Self

from psycopg import sql

from . import names
from .global_objects import GLOBAL_OBJECTS
from .server import Connection
from .structure import BY_NAMESPACE, BY_OWNER, PARTS_OF_RELATIONS

# All schemas except PostgreSQL's own, those of runs, and the one that runs share for extensions.
_PROJECT_SCHEMAS = sql.SQL("""
    project_schemas AS MATERIALIZED (
        SELECT oid, nspname, nspowner, nspacl FROM pg_catalog.pg_namespace
        WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', {extensions})
          AND NOT (nspname ~ {ours} AND coalesce(
              pg_catalog.starts_with(pg_catalog.obj_description(oid, 'pg_namespace'), {marker}),
              false))
    )
""").format(
    extensions=sql.Literal(names.EXTENSIONS_SCHEMA),
    ours=sql.Literal(names.OWN_SCHEMA),
    marker=sql.Literal('{"schema_runner": '),
)
# The value of a sequence that another session has locked.
LOCKED_VALUE = -(2**63)
# Locks that are not granted yet count too, because later ones wait for them.
_LOCKED = """
    locked AS MATERIALIZED (
        SELECT relation FROM pg_catalog.pg_locks
        WHERE locktype = 'relation' AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
          AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                       'AccessExclusiveLock')
          AND database = (SELECT oid FROM pg_catalog.pg_database
                          WHERE datname = pg_catalog.current_database())
    )
"""
# VACUUM and ANALYZE set the number of live rows. Large objects are rows of pg_largeobject.
_RELATIONS = sql.SQL("""
    WITH {project_schemas}, {locked}
    SELECT c.oid::int8, nspname || '.' || relname,
           pg_catalog.hash_record_extended(
               ROW(relowner, relnatts, relchecks, relrowsecurity, relforcerowsecurity,
                   relreplident, relpersistence, relispartition, reloptions, relacl::text), 0),
           relkind::text, nspname::text, relname::text, relfilenode::int8,
           CASE WHEN relkind <> 'S' THEN NULL
                WHEN c.oid IN (TABLE locked) THEN {locked_value}
                WHEN pg_catalog.has_sequence_privilege(c.oid, 'USAGE, SELECT')
                THEN pg_catalog.pg_sequence_last_value(c.oid) END,
           pg_catalog.pg_stat_get_tuples_inserted(c.oid),
           pg_catalog.pg_stat_get_tuples_updated(c.oid),
           pg_catalog.pg_stat_get_tuples_deleted(c.oid),
           pg_catalog.pg_stat_get_live_tuples(c.oid),
           pg_catalog.pg_stat_get_vacuum_count(c.oid)
               + pg_catalog.pg_stat_get_autovacuum_count(c.oid)
               + pg_catalog.pg_stat_get_analyze_count(c.oid)
               + pg_catalog.pg_stat_get_autoanalyze_count(c.oid)
    FROM pg_catalog.pg_class c JOIN (
        TABLE project_schemas
        UNION ALL SELECT 'pg_catalog'::regnamespace, 'pg_catalog', 0::oid, NULL
    ) n ON relnamespace = n.oid
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND (nspname <> 'pg_catalog' OR c.oid = 'pg_catalog.pg_largeobject'::regclass)
""").format(
    project_schemas=_PROJECT_SCHEMAS,
    locked=sql.SQL(_LOCKED),
    locked_value=sql.Literal(LOCKED_VALUE),
)
_OTHERS = sql.SQL("WITH {} {}").format(_PROJECT_SCHEMAS, GLOBAL_OBJECTS)
# Whether counters can be compared with those of another moment.
_STATISTICS = """
    SELECT pg_catalog.current_setting('track_counts') = 'on',
           pg_catalog.concat_ws(' ', pg_catalog.pg_stat_get_db_stat_reset_time(oid),
                                pg_catalog.pg_postmaster_start_time()),
           pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text
    FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
"""
# A query for the values that unused sequences start with, negated.
_STARTS = """
    SELECT pg_catalog.string_agg(
        pg_catalog.format('SELECT %%s::int8, -last_value FROM %%I.%%I', c.oid, nspname, relname),
        ' UNION ALL ')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON relnamespace = n.oid
    WHERE c.oid = ANY(%s)
      AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
      AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
"""
_MORE_PARTS = {
    "pg_constraint": "conrelid",
    "pg_description": "objoid",
    "pg_index": "indrelid",
    "pg_seclabel": "objoid",
    "pg_sequence": "seqrelid",
}
_NAMELESS = ("pg_constraint", "pg_default_acl")
_PARTS = sql.SQL("""
    SELECT p.{column} AS owner,
           pg_catalog.hash_record_extended(ROW(p.tableoid, p.ctid, p.xmin), 0) AS hash
    FROM pg_catalog.{catalog} p JOIN pg_catalog.{owner} o ON o.oid = p.{column}
    JOIN project_schemas ON project_schemas.oid = o.{namespace}
""")
_OBJECTS = sql.SQL("""
    SELECT {name}, o.oid::int8, nspname || '.' || {column},
           pg_catalog.hash_record_extended(ROW(o.ctid, o.xmin), 0)
    FROM pg_catalog.{catalog} o JOIN project_schemas ON project_schemas.oid = {namespace}
    WHERE {where}
""")


class ProjectObject(NamedTuple):
    """An object at one moment, with what shows changes of it. Only relations have a `kind`."""

    name: str
    # Hashes or texts of its properties, and if they were read, of the catalog rows that belong to
    # it, such as columns and constraints.
    definition: object
    # `relkind`.
    kind: str = ""
    schema: str = ""
    table: str = ""
    # `relfilenode`: TRUNCATE, and any other rewrite of all rows, changes it.
    storage: int = 0
    # The last value of a sequence; if it is unused, its start value, negated.
    value: int | None = None
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    live: int = 0
    # How often VACUUM and ANALYZE have set `live`.
    estimates: int = 0


class ProjectState(NamedTuple):
    """The state of a database, except the schemas of runs, at one moment."""

    # By a kind or name, and OID if names are not unique (else 0).
    objects: dict[tuple[str, int], ProjectObject]
    # Whether `track_counts` is on.
    tracks_counts: bool
    # When statistics were reset, and when the server started. Counters of different epochs cannot
    # be compared.
    epoch: str
    # The number of the next transaction.
    transaction: int

    @classmethod
    def read(cls, connection: Connection, *, definitions: bool = False) -> Self:
        """Read row counters, and definitions; without `definitions`, only in part."""
        with connection.transaction():
            relations = connection.execute(_RELATIONS).fetchall()
            others = connection.execute(_OTHERS).fetchall()
            ((tracks_counts, epoch, transaction),) = connection.execute(_STATISTICS).fetchall()
        objects = {("relation", oid): ProjectObject(*values) for oid, *values in relations}
        objects |= {(name, 0): ProjectObject(name, value) for name, value in others}
        if definitions:
            objects = _with_definitions(connection, objects)
        return cls(objects, tracks_counts, epoch, int(transaction))


def _with_definitions(
    connection: Connection, objects: dict[tuple[str, int], ProjectObject]
) -> dict[tuple[str, int], ProjectObject]:
    """Return the objects with full definitions, and further ones."""
    parts: dict[int, int] = dict(connection.execute(_parts_query()).fetchall())
    more = {
        (catalog, oid): ProjectObject(f"{catalog[3:]} {name}", hashed)
        for catalog, oid, name, hashed in connection.execute(_objects_query())
    }
    unused = [oid for (_, oid), item in objects.items() if item.kind == "S" and item.value is None]
    starts = {("relation", oid): value for oid, value in _sequence_starts(connection, unused)}
    return {
        key: item._replace(
            definition=(item.definition, parts.get(key[1])), value=starts.get(key, item.value)
        )
        for key, item in {**objects, **more}.items()
    }


def _sequence_starts(connection: Connection, unused: list[int]) -> list[tuple[int, int]]:
    ((query,),) = connection.execute(_STARTS, [unused]).fetchall()
    return connection.execute(query.encode()).fetchall() if query else []


@cache
def _parts_query() -> bytes:
    """Return a query that hashes, for each object, the catalog rows that belong to it."""
    belonging = [(*key, owner) for key, owner in BY_OWNER.items()]
    belonging += [(*key, "pg_class") for key in {**PARTS_OF_RELATIONS, **_MORE_PARTS}.items()]
    belonging.append(("pg_constraint", "contypid", "pg_type"))
    rows = [
        _PARTS.format(
            catalog=sql.Identifier(catalog),
            column=sql.Identifier(column),
            owner=sql.Identifier(owner),
            namespace=sql.Identifier({**BY_NAMESPACE, "pg_class": "relnamespace"}[owner]),
        )
        for catalog, column, owner in belonging
    ]
    query = sql.SQL("WITH {} SELECT owner::int8, pg_catalog.bit_xor(hash) FROM ({}) r GROUP BY 1")
    return query.format(_PROJECT_SCHEMAS, sql.SQL(" UNION ALL ").join(rows)).as_bytes()


@cache
def _objects_query() -> bytes:
    """Return a query for the objects with a name and a schema that are not relations."""
    rows = [
        _OBJECTS.format(
            name=sql.Literal(catalog),
            catalog=sql.Identifier(catalog),
            column=sql.Identifier(column.replace("namespace", "name")),
            namespace=sql.Identifier(column),
            where=sql.SQL("typrelid = 0 AND typelem = 0" if catalog == "pg_type" else "true"),
        )
        for catalog, column in BY_NAMESPACE.items()
        if catalog not in _NAMELESS
    ]
    query = sql.SQL("WITH {} {}")
    return query.format(_PROJECT_SCHEMAS, sql.SQL(" UNION ALL ").join(rows)).as_bytes()
