"""A summary of a database outside of the schemas of runs, to detect changes."""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple, Self

from psycopg import sql

from . import names
from .global_objects import GLOBAL_OBJECTS
from .server import Connection
from .structure import BY_NAMESPACE, BY_OWNER, PARTS_OF_RELATIONS

# The schemas that are neither the system's nor a run's. What runs share counts as theirs.
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
# In place of the value of a sequence that another session has locked.
LOCKED_VALUE = -(2**63)
# Among the locks are those that are waited for: whoever comes later waits behind them.
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
# VACUUM and ANALYZE set the number of live rows anew. Large objects are in a catalog.
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
    ) AS found (hash)
""").format(
    project_schemas=_PROJECT_SCHEMAS,
    locked=sql.SQL(_LOCKED),
    relations=_RELATIONS,
    others=GLOBAL_OBJECTS,
)
_WITH_SCHEMAS = sql.SQL("WITH {} {}")
_WITH_LOCKED = sql.SQL("WITH {}, " + _LOCKED + "{}")
# What tells whether counters can be compared with those of another time.
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
    """A table, a sequence or the like, with the counters of its statistics.

    `storage` is another one after TRUNCATE and whatever else writes all rows anew, `facts` and
    `parts` are hashes of its definition, `estimates` counts what has set `live` anew, and `value`
    is a sequence's.
    """

    schema: str
    table: str
    kind: str
    oid: int
    storage: int
    facts: int
    inserted: int
    updated: int
    deleted: int
    live: int
    estimates: int
    value: int | None
    parts: int = 0

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"


class ProjectState(NamedTuple):
    """What was outside at some moment.

    `relations` are by OIDs, and `others` map names, with OIDs where one name can stand for
    several, to what tells of alterations. Statistics of two moments can be compared if they are
    of the same `epoch` and both times `tracks_counts`. `transaction` is the next one to begin.
    """

    relations: dict[int, Relation]
    others: dict[tuple[str, int], object]
    tracks_counts: bool
    epoch: str
    transaction: int

    def with_definitions(self, connection: Connection) -> Self:
        """Add the whole definitions of what has just been seen."""
        parts: dict[int, int] = dict(connection.execute(_parts_query()).fetchall())
        objects = connection.execute(_objects_query()).fetchall()
        unused = _unused_sequence_values(connection, self.relations.values())
        relations = {
            oid: one._replace(parts=parts.get(oid, 0), value=unused.get(oid, one.value))
            for oid, one in self.relations.items()
        }
        others = {
            (f"{catalog[3:]} {name}", oid): (hashed, parts.get(oid, 0))
            for catalog, oid, name, hashed in objects
        }
        return self._replace(relations=relations, others={**self.others, **others})

    @classmethod
    def read(cls, connection: Connection) -> Self:
        """Look at what takes little time: at rows, and less than whole definitions."""
        with connection.transaction():
            rows = connection.execute(_WITH_LOCKED.format(_PROJECT_SCHEMAS, _RELATIONS)).fetchall()
            others = connection.execute(
                _WITH_SCHEMAS.format(_PROJECT_SCHEMAS, GLOBAL_OBJECTS)
            ).fetchall()
            row = connection.execute(_STATISTICS).fetchone()
        assert row is not None
        tracks_counts, epoch, transaction = row
        found = [Relation(*relation) for relation in rows]
        return cls(
            {one.oid: one for one in found},
            {(name, 0): value for name, value in others},
            tracks_counts,
            epoch,
            int(transaction),
        )


def digest(connection: Connection) -> int:
    """Return a hash of what `ProjectState.read` returns."""
    (found,) = connection.execute(_DIGEST).fetchone() or (0,)
    return int(found or 0)


@cache
def _parts_query() -> bytes:
    """Return a query for a hash by each object: of the rows of catalogs that belong to it."""
    belonging = [(*one, owner) for one, owner in BY_OWNER.items() if one != _INDEX]
    belonging += [(*one, "pg_class") for one in {**PARTS_OF_RELATIONS, **_MORE_PARTS}.items()]
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
    """Return a query for whatever has a name and a schema and is no relation."""
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
    """Return, negated, where sequences stand that have given out nothing yet."""
    unused = [one for one in relations if one.kind == "S" and one.value is None]
    readable = connection.execute(
        "SELECT oid::int8 FROM pg_catalog.pg_class WHERE oid = ANY(%s)"
        " AND pg_catalog.has_table_privilege(oid, 'SELECT')"
        " AND pg_catalog.has_schema_privilege(relnamespace, 'USAGE')",
        [[one.oid for one in unused]],
    ).fetchall()
    queries = [
        sql.SQL("SELECT {}::int8, -last_value FROM {}").format(
            one.oid, sql.Identifier(one.schema, one.table)
        )
        for one in unused
        if (one.oid,) in readable
    ]
    if not queries:
        return {}
    return dict(connection.execute(sql.SQL(" UNION ALL ").join(queries)).fetchall())
