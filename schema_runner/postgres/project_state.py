"""The state of the project's own database, except the schemas of runs, to detect changes."""

from collections.abc import Iterable
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
    SELECT nspname::text, relname::text, relkind::text, c.oid::int8, relfilenode::int8,
           pg_catalog.hash_record_extended(
               ROW(relowner, relnatts, relchecks, relrowsecurity, relforcerowsecurity,
                   relreplident, relpersistence, relispartition, reloptions, relacl::text), 0),
           pg_catalog.pg_stat_get_tuples_inserted(c.oid),
           pg_catalog.pg_stat_get_tuples_updated(c.oid),
           pg_catalog.pg_stat_get_tuples_deleted(c.oid),
           pg_catalog.pg_stat_get_live_tuples(c.oid),
           pg_catalog.pg_stat_get_vacuum_count(c.oid)
               + pg_catalog.pg_stat_get_autovacuum_count(c.oid)
               + pg_catalog.pg_stat_get_analyze_count(c.oid)
               + pg_catalog.pg_stat_get_autoanalyze_count(c.oid),
           CASE WHEN relkind <> 'S' THEN NULL
                WHEN c.oid IN (TABLE locked) THEN {locked}
                WHEN pg_catalog.has_sequence_privilege(c.oid, 'USAGE, SELECT')
                THEN pg_catalog.pg_sequence_last_value(c.oid) END
    FROM pg_catalog.pg_class c JOIN (
        TABLE project_schemas
        UNION ALL SELECT 'pg_catalog'::regnamespace, 'pg_catalog', 0::oid, NULL
    ) n ON relnamespace = n.oid
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND (nspname <> 'pg_catalog' OR c.oid = 'pg_catalog.pg_largeobject'::regclass)
""").format(locked=sql.Literal(LOCKED_VALUE))
_DIGEST = sql.SQL("""
    WITH {project_schemas}, {locked}
    SELECT pg_catalog.bit_xor(hash) FROM (
        SELECT pg_catalog.hash_record_extended(r, 1) FROM ({relations}) r
        UNION ALL SELECT pg_catalog.hash_record_extended(r, 2) FROM ({others}) r
    ) AS hashes (hash)
""").format(
    project_schemas=_PROJECT_SCHEMAS,
    locked=sql.SQL(_LOCKED),
    relations=_RELATIONS,
    others=GLOBAL_OBJECTS,
)
_WITH_SCHEMAS = sql.SQL("WITH {} {}")
_WITH_LOCKED = sql.SQL("WITH {}, " + _LOCKED + "{}")
# Whether counters can be compared with those of another moment.
_STATISTICS = """
    SELECT pg_catalog.current_setting('track_counts') = 'on',
           pg_catalog.concat_ws(' ', pg_catalog.pg_stat_get_db_stat_reset_time(oid),
                                pg_catalog.pg_postmaster_start_time()),
           pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text
    FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
"""

_INDEX = ("pg_index", "indexrelid")
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


class Relation(NamedTuple):
    """A row of pg_class, with its statistics. `kind` is `relkind`."""

    schema: str
    table: str
    kind: str
    oid: int
    # `relfilenode`: TRUNCATE, and any other rewrite of all rows, changes it.
    storage: int
    # A hash of the properties in pg_class.
    properties: int
    inserted: int
    updated: int
    deleted: int
    live: int
    # How often VACUUM and ANALYZE have set `live`.
    estimates: int
    # The last value of a sequence; if it is unused, its start value, negated.
    value: int | None
    # A hash of the rows of other catalogs, such as columns and constraints.
    parts: int = 0

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"


class ProjectState(NamedTuple):
    """The state of a database, except the schemas of runs, at one moment."""

    # By OID.
    relations: dict[int, Relation]
    # Values that change with an object, by its name, and its OID if names are not unique (else 0).
    others: dict[tuple[str, int], object]
    # Whether `track_counts` is on.
    tracks_counts: bool
    # When statistics were reset, and when the server started. Counters of different epochs cannot
    # be compared.
    epoch: str
    # The number of the next transaction.
    transaction: int

    def with_definitions(self, connection: Connection) -> Self:
        """Return the state with full definitions, read now."""
        parts: dict[int, int] = dict(connection.execute(_parts_query()).fetchall())
        objects = connection.execute(_objects_query()).fetchall()
        unused = _unused_sequence_values(connection, self.relations.values())
        relations = {
            oid: relation._replace(parts=parts.get(oid, 0), value=unused.get(oid, relation.value))
            for oid, relation in self.relations.items()
        }
        others = {
            (f"{catalog[3:]} {name}", oid): (hashed, parts.get(oid, 0))
            for catalog, oid, name, hashed in objects
        }
        return self._replace(relations=relations, others={**self.others, **others})

    @classmethod
    def read(cls, connection: Connection) -> Self:
        """Read what is cheap to read: row counters, and parts of definitions."""
        with connection.transaction():
            rows = connection.execute(_WITH_LOCKED.format(_PROJECT_SCHEMAS, _RELATIONS)).fetchall()
            others = connection.execute(
                _WITH_SCHEMAS.format(_PROJECT_SCHEMAS, GLOBAL_OBJECTS)
            ).fetchall()
            row = connection.execute(_STATISTICS).fetchone()
        assert row is not None
        tracks_counts, epoch, transaction = row
        relations = [Relation(*relation) for relation in rows]
        return cls(
            {relation.oid: relation for relation in relations},
            {(name, 0): value for name, value in others},
            tracks_counts,
            epoch,
            int(transaction),
        )


def digest(connection: Connection) -> int:
    """Return a hash of what `ProjectState.read` returns."""
    (hashed,) = connection.execute(_DIGEST).fetchone() or (0,)
    return int(hashed or 0)


@cache
def _parts_query() -> bytes:
    """Return a query that hashes, for each object, the catalog rows that belong to it."""
    belonging = [(*key, owner) for key, owner in BY_OWNER.items() if key != _INDEX]
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
    return _WITH_SCHEMAS.format(_PROJECT_SCHEMAS, sql.SQL(" UNION ALL ").join(rows)).as_bytes()


def _unused_sequence_values(
    connection: Connection, relations: Iterable[Relation]
) -> dict[int, int]:
    """Map the OIDs of unused sequences to their current values, negated."""
    unused = [item for item in relations if item.kind == "S" and item.value is None]
    readable = connection.execute(
        "SELECT oid::int8 FROM pg_catalog.pg_class WHERE oid = ANY(%s)"
        " AND pg_catalog.has_table_privilege(oid, 'SELECT')"
        " AND pg_catalog.has_schema_privilege(relnamespace, 'USAGE')",
        [[item.oid for item in unused]],
    ).fetchall()
    queries = [
        sql.SQL("SELECT {}::int8, -last_value FROM {}").format(
            item.oid, sql.Identifier(item.schema, item.table)
        )
        for item in unused
        if (item.oid,) in readable
    ]
    if not queries:
        return {}
    return dict(connection.execute(sql.SQL(" UNION ALL ").join(queries)).fetchall())
