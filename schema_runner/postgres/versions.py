"""Which versions of rows a database has: those of what it was created from, until it changes."""

from typing import TypeAlias

from psycopg import sql

from .server import Connection

# The tables of a database, and its catalogs, but for what ANALYZE writes.
_TABLES = """
    SELECT nspname, relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND NOT relisshared
      AND c.oid NOT IN ('pg_catalog.pg_statistic'::regclass,
                        'pg_catalog.pg_statistic_ext_data'::regclass)
      AND pg_catalog.pg_relation_size(c.oid) > 0
      AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
    ORDER BY nspname, relname
"""
_VERSIONS = """
    SELECT {name}::text, pg_catalog.count(*),
           pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::text::int8))
    FROM ONLY {table} HAVING pg_catalog.count(*) > 0
"""
_SEQUENCES = """
    SELECT nspname, relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'S' AND relpersistence <> 't'
    ORDER BY nspname, relname
"""
_VALUES = "SELECT {name}::text, last_value, is_called FROM {table}"

# By names in SQL.
Facts: TypeAlias = dict[str, tuple[object, ...]]


def of_rows(connection: Connection) -> Facts:
    return _read(connection, _TABLES, _VERSIONS)


def of_sequences(connection: Connection) -> Facts:
    """Return where sequences are, which transactions move that are rolled back, too."""
    return _read(connection, _SEQUENCES, _VALUES)


def _read(connection: Connection, listing: str, query: str) -> Facts:
    connection.execute("SET row_security = off")
    statements = [
        sql.SQL(query).format(
            name=sql.Literal(sql.Identifier(*names).as_string()), table=sql.Identifier(*names)
        )
        for names in connection.execute(listing).fetchall()
    ]
    if not statements:
        return {}
    rows = connection.execute(sql.SQL(" UNION ALL ").join(statements))
    return {name: tuple(facts) for name, *facts in rows}
