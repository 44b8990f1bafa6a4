"""The catalog entries and the rows of a schema, in a form that can be compared."""

from psycopg import sql

from schema_runner.postgres.server import Connection

_CATALOG = """
    SELECT identity.type, identity.identity, d.deptype::text,
           CASE d.classid
               WHEN 'pg_class'::regclass THEN
                   (SELECT array_agg(format('%%s %%s', attname, atttypid::regtype)
                                     ORDER BY attnum)::text
                    FROM pg_attribute WHERE attrelid = d.objid AND attnum > 0)
               WHEN 'pg_proc'::regclass THEN
                   (SELECT prosrc || coalesce(proconfig::text, '') FROM pg_proc
                    WHERE oid = d.objid)
           END
    FROM pg_depend d, pg_identify_object(d.classid, d.objid, d.objsubid) AS identity
    WHERE refclassid = 'pg_namespace'::regclass
      AND refobjid = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
    UNION ALL
    SELECT 'constraint', conrelid::regclass || ' ' || conname, contype::text,
           pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = (SELECT oid FROM pg_namespace
                                             WHERE nspname = %(schema)s)
    UNION ALL
    SELECT 'index', indexname, tablename, indexdef FROM pg_indexes WHERE schemaname = %(schema)s
    UNION ALL
    SELECT 'grants', nspname, nspacl::text, obj_description(oid) FROM pg_namespace
    WHERE nspname = %(schema)s
    ORDER BY 1, 2, 3, 4
"""
Digest = tuple[list[tuple[str, ...]], dict[str, list[str]]]


def digest(connection: Connection, schema: str = "public") -> Digest:
    """Return the catalog rows of a schema and the rows of each of its tables, as text."""
    catalog = connection.execute(_CATALOG, {"schema": schema}).fetchall()
    tables = connection.execute(
        "SELECT c.relname FROM pg_class c WHERE relkind IN ('r', 'p', 'S') AND relnamespace ="
        " (SELECT oid FROM pg_namespace WHERE nspname = %s)",
        [schema],
    ).fetchall()
    rows = {
        table: sorted(
            row
            for (row,) in connection.execute(
                sql.SQL("SELECT row(t.*)::text FROM {} AS t").format(sql.Identifier(schema, table))
            )
        )
        for (table,) in tables
    }
    return catalog, rows
